"""The model of a run of several tasks: one GPT-2 for each task, which share parameters."""

from collections.abc import Mapping
from copy import copy
from typing import cast

import torch
from torch import Tensor, nn

from gpt2core.adapters.lora import LoRALinear, Pair, lora_layers
from gpt2core.config import RunConfig
from gpt2core.model import GPT2, trainable_parameters
from gpt2core.multitask.combining import COMBINATIONS, MultiKeys, has_own_pairs
from gpt2core.projection import Projection

LOGITS = "task_logits"


class SharedLoRALinear(LoRALinear):
    """A projection with its task's own LoRA pair and one that tasks share: base(x) + scale * (B A + B' A') x."""

    joins = False

    def __init__(self, own: LoRALinear) -> None:
        base, rank = own.base, len(own.lora_A.weight)
        super().__init__(base, rank=rank, scale=own.scale, dropout=own.dropout.p, dora=False)
        shared = LoRALinear(base, rank=rank, scale=own.scale, dropout=0.0, dora=False)
        self.shared = nn.ModuleDict({"lora_A": shared.lora_A, "lora_B": shared.lora_B})

    def adapt(self, out: Tensor, x: Tensor) -> Tensor:
        dropped = self.dropout(x)
        rows = out.flatten(0, -2)
        for down, up in self._pairs():
            inner = cast(Tensor, down(dropped)).flatten(0, -2)
            rows = torch.addmm(rows, inner, up.weights[0].T, alpha=self.scale)
        return rows.view_as(out)

    def _pairs(self) -> list[tuple[Projection, Projection]]:
        shared = (cast(Projection, self.shared["lora_A"]), cast(Projection, self.shared["lora_B"]))
        return [(self.lora_A, self.lora_B), shared]

    @property
    def parts(self) -> list[Projection]:
        return [self.base, *(layer for pair in self._pairs() for layer in pair)]

    def pair(self) -> Pair:
        """Return both pairs as one of twice the rank, detached."""
        downs, ups = zip(*self._pairs(), strict=True)
        down = torch.cat([layer.weight.detach() for layer in downs])
        return Pair(down, torch.cat([layer.weight.detach() for layer in ups], dim=1), self.scale)


def joined(models: Mapping[str, GPT2], config: RunConfig) -> GPT2:
    """Return the first of the models of several tasks, with all of them as its `models`.

    Unless they are `separate`, all trained parameters but those of the heads are the first model's; with the `task_adapters`
    both, each task also keeps a LoRA pair of its own. A combination that weighs tasks has a logit for each of them.
    """
    combination, first = COMBINATIONS[config.part(MultiKeys).combination], next(iter(models.values()))
    own_pairs = has_own_pairs(config)
    if own_pairs:
        for model in models.values():
            for name, layer in list(lora_layers(model)):
                model.set_submodule(name, SharedLoRALinear(layer))
    for model in list(models.values())[1:] if combination.shares else ():
        for name in trainable_parameters(model):
            if not name.startswith("head.") and (not own_pairs or ".shared." in name):
                _share(first, model, name)
    model = copy(first)
    model._modules, model._parameters = dict(first._modules), dict(first._parameters)
    model.models = nn.ModuleDict(models)
    if combination.weigh is not None:
        model.register_parameter(LOGITS, nn.Parameter(torch.zeros(len(models), device=first.wte.weight.device)))
    return model


def _share(source: GPT2, target: GPT2, name: str) -> None:
    """Let `target` have the parameter `name` of `source`."""
    module, _, parameter = name.rpartition(".")
    target.get_submodule(module).register_parameter(parameter, source.get_parameter(name))


def models_of(model: GPT2) -> dict[str, GPT2]:
    """Return the models of the tasks of a run of several, by task."""
    return {} if model.models is None else {name: cast(GPT2, own) for name, own in model.models.items()}
