"""Ways of choosing what trains. To add one: a file with a function and its entry, and a line in ADAPTERS.

A key of its own is declared in that file, and so becomes a key of all runs that name the adapter::

    class TopKeys(Keys):
        top_blocks: int = key(1, "how many of the last blocks train", ge=1)

    def top(model: GPT2, config: RunConfig) -> None:
        model.requires_grad_(False)
        for block in model.blocks[-config.part(TopKeys).top_blocks :]:
            block.requires_grad_(True)

    TOP = Adapter(apply=top, keys=TopKeys, meaning="the last blocks train")
"""

from torch import nn

from gpt2core.adapters.base import Adapter
from gpt2core.adapters.lora import LORA
from gpt2core.adapters.whole import FREEZE, FROZEN, FULL, LAST_LINEAR
from gpt2core.component import Table
from gpt2core.config import RunConfig
from gpt2core.model import GPT2, Attention

ADAPTERS: Table[Adapter] = Table(
    "adapter",
    {
        "full": FULL,
        "freeze": FREEZE,
        "last-linear": LAST_LINEAR,
        "lora": LORA,
        "frozen": FROZEN,
    },
)


def adapt(model: GPT2, config: RunConfig) -> GPT2:
    """Apply the adapter that `config` names to `model`, in place, and return it. The task's own head always trains.

    The frozen blocks below the first trainable one run without dropout, which would only add noise to its input.
    """
    ADAPTERS[config.adapter].apply(model, config)
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
