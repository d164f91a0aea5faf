"""Where `RunConfig.precision` means bfloat16: training under autocast, texts written by weights that are cast."""

from copy import deepcopy

import torch
from torch import nn

from gpt2core.config import RunConfig
from gpt2core.model import GPT2


def autocast(device: torch.device, *, bfloat16: bool) -> torch.autocast:
    """Return the context of forward passes in bfloat16, or in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def in_bfloat16(config: RunConfig, device: torch.device) -> bool:
    """Whether a run is in bfloat16 on a device: where it says so, or by default on a GPU that has it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def for_writing(model: GPT2, config: RunConfig) -> GPT2:
    """The model that writes a run's texts: itself, or in bfloat16 a copy whose weights are cast."""
    if not in_bfloat16(config, model.wte.weight.device):
        return model
    # What deepcopy finds in its memo is taken as copied, so that no second copy in float32 is ever made.
    memo: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach().bfloat16(), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return deepcopy(model, memo | {id(model.prefixes): None})
