"""Read and write model folders of transformers and peft.

`run.json` has the task, attention and decoding, which other files of such a folder lack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gpt2core.adapters import ADAPTERS
from gpt2core.adapters import folder as peft_folder
from gpt2core.adapters.lora import Pair, merge_lora
from gpt2core.adapters.peft_config import NAME
from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best
from gpt2core.checkpoints.reading import checkpoint_errors
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import CheckpointError, ConfigError, WeightsError, shown, visible
from gpt2core.files import read_json, write_json
from gpt2core.model import GPT2, without_weights
from gpt2core.multitask.models import models_of
from gpt2core.pretrain_stage import starting_model
from gpt2core.tasks import TASKS
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import EMBEDDED, hub_name, load_model, model_folder, save_model

RUN, CARD = "run.json", "README.md"
#: Of a model folder: name or pattern -> content.
FILES = {
    "config.json": "shape of the model, and the names of its classes",
    "model.safetensors": "all weights",
    "tokenizer*.json": "the tokenizer",
    NAME: "in place of these files: configuration of LoRA, for peft",
    peft_folder.WEIGHTS: "weights of LoRA, for peft",
    RUN: "task, attention and decoding, for `evaluate`, `predict` and `generate`",
    CARD: "model card: question, answer, scores, data, settings, licences",
    "MLmodel": "what MLflow needs to load the model",
}
ABOUT = {"search": str, "trial": str, "epoch": int, "data": str}  # values in `run.json` besides `config`
KINDS = {str: "text", int: "whole number"}

Format = Literal["model", "adapter"]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A loaded model, its configuration, and a description."""

    model: GPT2
    config: RunConfig
    description: str


def is_model_folder(folder: Path) -> bool:
    """Return whether `folder` is a model folder of transformers or peft."""
    return any((folder / name).is_file() for name in ("config.json", NAME))


def write_run(folder: Path, config: RunConfig, about: dict[str, Any]) -> None:
    """Write the `run.json` that `load_folder` reads; `about` has search, trial, epoch and the digest of the data."""
    write_json(folder / RUN, {**about, "config": portable(config)})


def portable(config: RunConfig) -> dict[str, Any]:
    """Return the values of a run without local paths, which are private and useless on other machines."""
    places = {*keys_that_decide("place"), *(["model"] if is_place(config.model) else [])}
    return config.model_dump(exclude=places)


def is_place(model: str) -> bool:
    """Return whether the name of a model is a local folder."""
    return model not in EMBEDDED and Path(model).expanduser().is_dir()


def read_run(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json`, empty if there is no such file; raise CheckpointError if it is invalid."""
    path = folder / RUN
    with checkpoint_errors(path):
        try:
            values = read_json(path)
        except FileNotFoundError:
            return {}
    if not isinstance(values.get("config"), dict):
        raise CheckpointError(f"{path}: must have a `config`, the values of a run")
    for key, kind in ABOUT.items():
        if key in values and type(values[key]) is not kind:
            raise CheckpointError(f"{path}: `{key}` is {shown(values[key])}, but must be a {KINDS[kind]}")
    return values


def load_folder(folder: Path) -> Loaded:
    """Load a model and its head from a folder of transformers or peft; raise WeightsError, HubError or CheckpointError."""
    run = read_run(folder)
    values = run.get("config", {})
    if (folder / NAME).is_file():
        name = str(values.get("model") or peft_folder.base_model(folder))
        model = peft_folder.load_adapter(folder, load_model(name))
        _check_tokenizer(folder, name)
    else:
        name = str(folder)
        model = load_model(name, with_head=True)
    try:
        config = RunConfig.of(values | {"model": name})
        model = _with_attention(model, config)
    except ConfigError as error:
        raise CheckpointError(f"{folder / RUN}: {error}") from None
    values = {**run, "data": run.get("data", "")[:12]}  # the length in which a corpus shows its digest
    about = "".join(f", {key} {' '.join(visible(str(values[key]), 100).split())}" for key in ABOUT if key in run)
    return Loaded(model=model, config=config, description=f"{folder}{about}")


def _check_tokenizer(folder: Path, base: str) -> None:
    """Raise WeightsError if an adapter folder has another tokenizer than its base, whose tokenizer is used."""
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        theirs, ours = Tokenizer.load(folder), Tokenizer.load(model_folder(base))
        if theirs.backend.to_str() != ours.backend.to_str():
            raise WeightsError(f"{folder}: has another tokenizer than the base model `{base}`")


def sort_classes(model: GPT2, names: Sequence[str]) -> GPT2:
    """Sort the outputs of a model's head, in place, into the order of the class `names`; return the model.

    Numbered classes are assumed to have that order. Raises WeightsError for other names.
    """
    class_names = [_plain(name) for name in model.class_names]
    if not class_names or model.head is None or class_names == [_plain(name) for name in names]:
        return model
    if sorted(class_names) != sorted(map(_plain, names)):
        raise WeightsError(
            f"The classes of the model are {shown(list(model.class_names))}, but those of the task are {shown(list(names))}; "
            "set `id2label` in config.json to these names"
        )
    model.head.weight.data = model.head.weight[[class_names.index(_plain(name)) for name in names]]
    model.class_names = tuple(names)
    return model


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


def _with_attention(model: GPT2, config: RunConfig) -> GPT2:
    """Return a model with the same weights and the attention of a run."""
    made = without_weights(model.config, attention=config.attention_config)
    made.head, made.class_names = model.head, model.class_names
    made.load_state_dict(model.state_dict(), assign=True)
    return made.requires_grad_(False).train(False)


def export(config: RunConfig, checkpoint: Path, out: Path, format: Format = "model") -> int:
    """Write the best epoch of a run to `out`; return the epoch.

    - `model`: the whole model with merged LoRA, for transformers' GPT2LMHeadModel, or GPT2ForSequenceClassification if the task
      has a head. `--model` loads it without the head.
    - `adapter`: only LoRA, which peft's PeftModel.from_pretrained adds to the model that the run started from.

    Neither records the attention, which is always dense in transformers. A run of several tasks has a folder in `out` for each
    of them, with its `run.json`. Raises CheckpointError, ConfigError as `check_format`.
    """
    check_format(config, format)
    base = starting_model(config)
    model = build_model(config, base, torch.device("cpu"))
    runs = _runs(model, config, out)
    initial = [peft_folder.pairs(own) for own, _, _ in runs]
    epoch = load_best(checkpoint, model, base)
    for (own, run, folder), start in zip(runs, initial, strict=True):
        _write(own, run, folder, format, start)
        if run is not config:
            write_run(folder, run, {"epoch": epoch})
    return epoch


def _runs(model: GPT2, config: RunConfig, out: Path) -> list[tuple[GPT2, RunConfig, Path]]:
    """Return model, configuration and folder of a run of one task, or of each part of a run of several."""
    parts, models = TASKS[config.task].parts(config), models_of(model)
    if not parts:
        return [(model, config, out)]
    return [(models[name], part.config, out / name) for name, part in parts.items()]


def _write(model: GPT2, config: RunConfig, out: Path, format: Format, initial: Mapping[str, Pair]) -> None:
    """Write the model of a run of a single task, whose LoRA pairs were `initial` before any training."""
    if format == "model":
        names = TASKS[config.task].class_names(config)
        save_model(merge_lora(model), out, tokenizer_from=model_folder(config.model), class_names=names)
        return
    lora_pairs = peft_folder.pairs(model)
    if config.lora_init == "pissa":  # peft adds the pairs to the unchanged base weights
        lora_pairs = {name: pair.minus(initial[name]) for name, pair in lora_pairs.items()}
    head = None if model.head is None else model.head.weight
    peft_folder.save_adapter(lora_pairs, head, out, base_model=hub_name(config.model))


def check_format(config: RunConfig, format: Format, instead: str = "model") -> None:
    """Raise ConfigError if a run cannot be exported in a format; the error advises the format `instead`."""
    if format == "model":
        return
    if not ADAPTERS[config.adapter].peft_format:
        raise ConfigError(
            f"The adapter `{config.adapter}` cannot be written in the format of peft; use --format {instead}"
        )
    if config.pretrain is not None:
        raise ConfigError(f"peft cannot find the first stage `{config.pretrain}` of the run; use --format {instead}")
