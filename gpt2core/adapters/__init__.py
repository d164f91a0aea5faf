"""Ways of choosing what trains. To add one: a function of `Adapt`'s signature, and a line in ADAPTERS."""

from collections.abc import Callable

from torch import nn

from gpt2core.adapters.freeze import freeze
from gpt2core.adapters.frozen import frozen
from gpt2core.adapters.full import full
from gpt2core.adapters.last_linear import last_linear
from gpt2core.adapters.lora import lora
from gpt2core.config import RunConfig
from gpt2core.model import GPT2, Attention
from gpt2core.registry import lookup

#: Change a model in place so that exactly the adapter's parameters require gradients.
Adapt = Callable[[GPT2, RunConfig], None]

ADAPTERS: dict[str, Adapt] = {
    "full": full,
    "freeze": freeze,
    "last-linear": last_linear,
    "lora": lora,
    "frozen": frozen,
}


def adapt(model: GPT2, config: RunConfig) -> GPT2:
    """Apply the adapter that `config` names to `model`, in place, and return it. The task's own head always trains.

    The frozen blocks below the first trainable one run without dropout, which would only add noise to its input.
    """
    lookup(ADAPTERS, config.adapter, "adapter")(model, config)
    if model.head is not None:
        model.head.requires_grad_(True)
    model.first_trainable_block = _first_trainable_block(model)
    for part in (model.drop, *model.blocks[: model.first_trainable_block]) if model.first_trainable_block else ():
        without_dropout(part)
    return model


def _first_trainable_block(model: GPT2) -> int:
    """The number of the first trainable block: 0 if the embeddings train, the number of blocks if none trains."""
    if any(parameter.requires_grad for part in (model.wte, model.wpe) for parameter in part.parameters()):
        return 0
    trains = (any(parameter.requires_grad for parameter in block.parameters()) for block in model.blocks)
    return next((number for number, one in enumerate(trains) if one), len(model.blocks))


def without_dropout(module: nn.Module) -> None:
    """Turn dropout off, in training as well."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, Attention):
            part.dropout = 0.0
