"""Ways of choosing what trains. To add one: a function of `Adapt`'s signature, and a line in ADAPTERS."""

from collections.abc import Callable

from torch import nn

from gpt2core.adapters.freeze import freeze
from gpt2core.adapters.frozen import frozen
from gpt2core.adapters.full import full
from gpt2core.adapters.last_linear import last_linear
from gpt2core.adapters.lora import lora
from gpt2core.config import RunConfig
from gpt2core.lookup import lookup
from gpt2core.model import GPT2, Attention

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

    What lies below the first block that trains runs as in evaluation: its dropout would only add noise to what comes in there.
    """
    lookup(ADAPTERS, config.adapter, "adapter")(model, config)
    if model.head is not None:
        model.head.requires_grad_(True)
    model.entry = _first_trained(model)
    for part in (model.drop, *model.blocks[: model.entry]) if model.entry else ():
        without_dropout(part)
    return model


def _first_trained(model: GPT2) -> int:
    """The number of the first block that trains, 0 with the embeddings; that of all blocks where none does."""
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
