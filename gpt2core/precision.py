"""`RunConfig.precision`: bfloat16 means training under autocast, and generation with cast weights."""

from copy import deepcopy

import torch
from torch import nn

from gpt2core.config import RunConfig
from gpt2core.model import GPT2


def autocast(device: torch.device, *, bfloat16: bool) -> torch.autocast:
    """Return a context for forward passes in bfloat16 or float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def in_bfloat16(config: RunConfig, device: torch.device) -> bool:
    """Return whether a run uses bfloat16 on a device: if configured, or with `auto` on a GPU that supports it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.precision == "bfloat16"


def for_generation(model: GPT2, config: RunConfig) -> GPT2:
    """Return the model that generates a run's texts: `model`, or in bfloat16 a copy with cast weights."""
    if not in_bfloat16(config, model.wte.weight.device):
        return model
    # deepcopy treats objects in its memo as already copied, so it makes no second copy in float32.
    memo: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach().bfloat16(), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return deepcopy(model, memo | {id(model.prefixes): None})
