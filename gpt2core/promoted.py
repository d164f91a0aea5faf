"""Model folders of transformers and of peft, as something to generate from and to score.

What no such folder says, the task, the attention and the decoding, is in a file of this project's beside the weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2core.adapters import folder as peft_folder
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, ConfigError
from gpt2core.files import write_json
from gpt2core.model import GPT2, without_weights
from gpt2core.weights import EMBEDDED, load_model

RUN = "run.json"
#: Keys of a run that name folders of the machine that it ran on: of no use on another, and nobody else's business.
PLACES = ("data_dir", "pairs")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model of a folder, the configuration it is used with, and words that say which it is."""

    model: GPT2
    config: RunConfig
    words: str


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` is one of transformers or of peft."""
    return any((folder / name).is_file() for name in ("config.json", peft_folder.CONFIG))


def write_run(folder: Path, config: RunConfig, about: dict[str, Any]) -> None:
    """Write what `load_folder` reads beside the weights; `about` names search, trial, epoch and the data's digest."""
    write_json(folder / RUN, {**about, "config": portable(config)})


def portable(config: RunConfig) -> dict[str, Any]:
    """A run's values without the places of its machine."""
    places = {*PLACES, *(["model"] if is_place(config.model) else [])}
    return config.model_dump(exclude=places)


def is_place(model: str) -> bool:
    """Whether a model's name is a folder of this machine."""
    return model not in EMBEDDED and Path(model).expanduser().is_dir()


def read_run(folder: Path) -> dict[str, Any]:
    """Return what `write_run` wrote, empty where there is none; raise CheckpointError for anything else."""
    path = folder / RUN
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise CheckpointError(f"{path}: must hold a `config`, the values of a run")
    return values


def load_folder(folder: Path) -> Loaded:
    """Load a folder of transformers, or one of peft and the model that it belongs to, with its head of classes if it has one.

    Raises WeightsError, HubError or CheckpointError.
    """
    run = read_run(folder)
    values = run.get("config", {})
    if (folder / peft_folder.CONFIG).is_file():
        name = str(values.get("model") or peft_folder.base_model(folder))
        model = peft_folder.load_adapter(folder, load_model(name))
    else:
        name = str(folder)
        model = load_model(name, with_head=True)
    try:
        config = RunConfig.of(values | {"model": name})
        model = _with_attention(model, config)
    except ConfigError as error:
        raise CheckpointError(f"{folder / RUN}: {error}") from None
    known = {**run, "data": str(run.get("data", "not known"))[:12]}  # as a corpus tells its digest
    about = "".join(f", {key} {known[key]}" for key in ("search", "trial", "epoch", "data") if key in run)
    return Loaded(model=model, config=config, words=f"{folder}{about}")


def _with_attention(model: GPT2, config: RunConfig) -> GPT2:
    """The same weights under the attention of a run."""
    made = without_weights(model.config, attention=config.attention_config)
    made.head = model.head
    made.load_state_dict(model.state_dict(), assign=True)
    return made.requires_grad_(False).train(False)
