"""A trained run as a Hugging Face model folder."""

from pathlib import Path

import torch

from gpt2core import checkpoints
from gpt2core.adapters.lora import merge_lora
from gpt2core.config import RunConfig
from gpt2core.training import build
from gpt2core.weights import load_model, model_folder, save_model


def export(config: RunConfig, checkpoint: Path, out: Path) -> int:
    """Write the best epoch of a run's checkpoint folder, LoRA merged, to `out`; return that epoch.

    transformers' GPT2LMHeadModel loads the folder, and so does `--model`. Raises CheckpointError.
    """
    model = build(config, load_model(config.model), torch.device("cpu"))
    epoch = checkpoints.load_best(checkpoint, model)
    if config.adapter == "lora":
        merge_lora(model)
    save_model(model, out, tokenizer_from=model_folder(config.model))
    return epoch
