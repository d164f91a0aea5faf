"""`RunConfig.precision`: 16 bits mean training under autocast, and generation with cast weights."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2

NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def narrow_type(config: RunConfig, device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type in which a run computes on a device; None for float32.

    `auto` is bfloat16 on GPUs that have it, float16 on older GPUs, and float32 on other devices. Raises ConfigError for 16 bits
    on Apple's GPUs, for which this is not built.
    """
    if device.type == "mps" and config.precision in NARROW:
        raise ConfigError(
            f"The value of `precision` is {config.precision!r}, but must be auto or float32 on Apple's GPUs"
        )
    if config.precision != "auto":
        return NARROW.get(config.precision)
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device: torch.device, narrow: torch.dtype | None) -> torch.autocast:
    """Return a context for forward passes in a 16-bit type, or in float32 for None."""
    return torch.autocast(device.type, narrow, enabled=narrow is not None)


def for_generation(model: GPT2, config: RunConfig) -> GPT2:
    """Return the model that generates a run's texts: `model`, or in 16 bits a copy with cast weights."""
    narrow = narrow_type(config, model.wte.weight.device)
    return model if narrow is None else with_weights(model, lambda weight: weight.to(narrow))


def with_weights(model: GPT2, convert: Callable[[Tensor], Tensor]) -> GPT2:
    """Return a copy of a model with converted weights, and without cached prefixes."""
    # deepcopy treats objects in its memo as already copied, so it makes no second copy of the weights.
    memo: dict[int, object] = {
        id(weight): nn.Parameter(convert(weight.detach()), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return deepcopy(model, memo | {id(model.prefixes): None})
