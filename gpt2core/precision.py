"""`RunConfig.precision`: bfloat16 means training under autocast, and generation with cast weights."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

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
    return with_weights(model, Tensor.bfloat16)


def with_weights(model: GPT2, convert: Callable[[Tensor], Tensor]) -> GPT2:
    """Return a copy of a model with converted weights, and without cached prefixes."""
    # deepcopy treats objects in its memo as already copied, so it makes no second copy of the weights.
    memo: dict[int, object] = {
        id(weight): nn.Parameter(convert(weight.detach()), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return deepcopy(model, memo | {id(model.prefixes): None})
