"""Adapters choose which parameters train. To add one: a file with a function and its entry, and a line in ADAPTERS.

A key that the file declares becomes a key of every run that names the adapter::

    class TopKeys(Keys):
        top_blocks: int = key(1, "how many of the last blocks train", ge=1)

    def top(model: GPT2, config: RunConfig) -> None:
        model.requires_grad_(False)
        for block in model.blocks[-config.part(TopKeys).top_blocks :]:
            block.requires_grad_(True)

    TOP = Adapter(apply=top, keys=TopKeys, meaning="the last blocks train")
"""

from gpt2core.adapters.adalora import ADALORA
from gpt2core.adapters.base import Adapter
from gpt2core.adapters.lora import LORA
from gpt2core.adapters.nested import NESTED
from gpt2core.adapters.whole import FREEZE, FROZEN, FULL, LAST_LINEAR
from gpt2core.component import Table
from gpt2core.config import RunConfig
from gpt2core.dropout import Dropout
from gpt2core.model import GPT2, Attention

ADAPTERS: Table[Adapter] = Table(
    "adapter",
    Adapter,
    {
        "full": FULL,
        "freeze": FREEZE,
        "last-linear": LAST_LINEAR,
        "lora": LORA,
        "adalora": ADALORA,
        "nested": NESTED,
        "frozen": FROZEN,
    },
)


def adapt(model: GPT2, config: RunConfig) -> GPT2:
    """Apply the adapter of `config` to `model` in place and return the model. The task's own head always trains.

    Dropout is turned off below the first trainable block, where it would only add noise to that block's input.
    """
    ADAPTERS[config.adapter].apply(model, config)
    if model.head is not None:
        model.head.requires_grad_(True)
    first = model.first_trainable_block = _first_trainable_block(model)
    for part in (model.drop, *model.blocks[:first]) if first else ():
        for module in part.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
            elif isinstance(module, Attention):
                module.dropout = 0.0
    return model


def _first_trainable_block(model: GPT2) -> int:
    """Return the first trainable block: 0 if the embeddings train, the number of blocks if no block trains."""
    if any(parameter.requires_grad for part in (model.wte, model.wpe) for parameter in part.parameters()):
        return 0
    trains = [any(parameter.requires_grad for parameter in block.parameters()) for block in model.blocks]
    return trains.index(True) if True in trains else len(trains)
