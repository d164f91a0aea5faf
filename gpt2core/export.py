"""Export a trained run as a Hugging Face folder: the whole model, or only its LoRA in the format of peft."""

from pathlib import Path
from typing import Literal

import torch

from gpt2core import checkpoints
from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.folder import pairs, save_adapter
from gpt2core.adapters.lora import merge_lora
from gpt2core.builders import build_model
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.pretrain_stage import starting_model
from gpt2core.tasks import TASKS
from gpt2core.weights import hub_name, model_folder, save_model

Format = Literal["model", "adapter"]
CPU = torch.device("cpu")


def export(config: RunConfig, checkpoint: Path, out: Path, format: Format = "model") -> int:
    """Write the best epoch of a run to `out`; return the epoch.

    - `model`: the whole model with merged LoRA, for transformers' GPT2LMHeadModel, or GPT2ForSequenceClassification if the task
      has a head. `--model` loads it without the head.
    - `adapter`: only LoRA, which peft's PeftModel.from_pretrained adds to the model that the run started from.

    Neither records the attention, which is always dense in transformers. Raises CheckpointError, ConfigError as `check_format`.
    """
    check_format(config, format)
    if format == "adapter":
        return _export_adapter(config, checkpoint, out)
    base = starting_model(config)
    model = build_model(config, base, CPU)
    epoch = checkpoints.load_best(checkpoint, model, base)
    merge_lora(model)
    names = getattr(TASKS[config.task], "class_names", ())
    save_model(model, out, tokenizer_from=model_folder(config.model), class_names=names)
    return epoch


def check_format(config: RunConfig, format: Format) -> None:
    """Raise ConfigError if a run cannot be exported in a format."""
    if format == "model":
        return
    if not ADAPTERS[config.adapter].peft_format:
        raise ConfigError(f"The adapter `{config.adapter}` cannot be written in the format of peft; use --format model")
    if config.pretrain is not None:
        raise ConfigError(
            f"The run started from a model first trained on `{config.pretrain}`, which peft cannot find; use --format model"
        )


def _export_adapter(config: RunConfig, checkpoint: Path, out: Path) -> int:
    base = starting_model(config)
    model = build_model(config, base, CPU)
    start = pairs(model)
    epoch = checkpoints.load_best(checkpoint, model, base)
    lora_pairs = pairs(model)
    if config.lora_init == "pissa":  # peft adds the pairs to the unchanged base weights
        lora_pairs = {name: pair.minus(start[name]) for name, pair in lora_pairs.items()}
    head = None if model.head is None else model.head.weight
    save_adapter(lora_pairs, head, out, base_model=hub_name(config.model))
    return epoch
