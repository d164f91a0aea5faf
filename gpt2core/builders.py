"""Build the parts of a run: device, model, optimizer and learning rate schedule."""

import math
import os
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from gpt2core.adapters import ADAPTERS, adapt
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.loss_scaling import ScaledAdamW
from gpt2core.model import GPT2, trainable_parameters, without_weights
from gpt2core.multitask.models import joined
from gpt2core.precision import narrow_type
from gpt2core.tasks import TASKS

LARGE = 10**9  # parameters above which `gradient_checkpointing` auto is on: gpt2-xl has 1.6e9


def device() -> torch.device:
    """Return the device of this process: a GPU if there is one; Apple's only if $GPT2_SEARCH_DEVICE is `mps`.

    Raises ConfigError for another value, and where that device is missing.
    """
    wanted = os.environ.get("GPT2_SEARCH_DEVICE")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not wanted:
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there.get(wanted):
        names = ", ".join(name for name, is_there in there.items() if is_there)
        raise ConfigError(
            f"The value of GPT2_SEARCH_DEVICE is {wanted!r}, but must be one of this process's devices: {names}"
        )
    return torch.device(wanted)


def build_model(config: RunConfig, base: GPT2, device: torch.device) -> GPT2:
    """Return a model of `config` on `device` with the weights of `base`.

    Frozen parameters share memory with `base` if it is on the same device. Trainable parameters, and those that the adapter
    changed, are copies. If nothing trains, the model is `base` itself. Raises ConfigError if the adapter cannot be applied.
    """
    if parts := TASKS[config.task].parts(config):
        return joined({name: build_model(part.config, base, device) for name, part in parts.items()}, config)
    has_head = bool(TASKS[config.task].classes(config))
    if not config.trains and not has_head and base.attention == config.attention_config:
        return adapt(base.to(device), config)
    model = without_weights(base.config, attention=config.attention_config, dropout=config.dropout)
    model.load_state_dict({k: v.to(device) for k, v in base.state_dict().items()}, assign=True)
    torch.manual_seed(config.seed)
    add_head(model, config)
    adapt(model.to(device), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
    large = sum(parameter.numel() for parameter in model.parameters()) >= LARGE
    model.gradient_checkpointing = large if config.gradient_checkpointing == "auto" else config.gradient_checkpointing
    return model


def add_head(model: GPT2, config: RunConfig) -> None:
    """Add the task's classification head, if it has one: no bias, N(0, 0.02) from torch's global generator."""
    if classes := TASKS[config.task].classes(config):
        model.head = nn.Linear(model.config.n_embd, classes, bias=False, dtype=model.wte.weight.dtype)
        nn.init.normal_(model.head.weight, std=0.02)


def build_optimizer(model: GPT2, config: RunConfig, device: torch.device) -> ScaledAdamW:
    """Return AdamW over the trainable parameters. A group's learning rate is `learning_rate` times its `factor`."""
    options = {"lr": config.lr, "betas": (0.9, 0.999), "weight_decay": config.weight_decay, "fused": True}
    scaler = GradScaler(device.type, enabled=narrow_type(config, device) == torch.float16)
    return ScaledAdamW(parameter_groups(model, config), scaler, ADAPTERS[config.adapter].state, **options)


def parameter_groups(model: GPT2, config: RunConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups, one for each `factor` of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trainable_parameters(model).items():
        groups.setdefault(ADAPTERS[config.adapter].lr_factor(name, config), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in (groups or {1.0: []}).items()]


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then constant or cosine to a tenth (Loshchilov & Hutter 2017)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
