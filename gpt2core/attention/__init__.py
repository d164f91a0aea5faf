"""Attention kernels. To add one: a file with a function of `Attend`'s signature, and a line in ATTENTION.

One that is named in `config.PATTERNED` takes `window` and `restart` besides.

Legend: `B` batch, `H` heads, `T` query tokens, `S` key tokens (S >= T, the queries are the last T), `D` channels of a head.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from gpt2core.attention.auto import auto
from gpt2core.attention.dense import dense
from gpt2core.attention.logsparse import logsparse
from gpt2core.config import PATTERNED, AttentionConfig
from gpt2core.errors import ConfigError
from gpt2core.registry import lookup

#: (q (B, H, T, D), k (B, H, S, D), v (B, H, S, D), segments (B, S) or None, dropout) -> (B, H, T, D).
#: A query looks at keys of its own segment, none of them after itself; None is one segment.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]

ATTENTION: dict[str, Attend] = {"auto": auto, "dense": dense, "logsparse": logsparse}


def schedule(config: AttentionConfig, n_layer: int) -> list[str]:
    """Return the entry of ATTENTION of each block; raise UnknownNameError, ConfigError."""
    names = config.names
    for name in names:
        lookup(ATTENTION, name, "attention")
    if n_layer % len(names):
        raise ConfigError(
            f"The value of `attention` is {config.schedule!r}, {len(names)} names that the blocks take in turn, but their "
            f"number must divide the model's n_layer, which is {n_layer}"
        )
    return names * (n_layer // len(names))


def kernels(config: AttentionConfig, n_layer: int) -> list[Attend]:
    """Return the kernel of each block; raise UnknownNameError, ConfigError."""
    pattern = {"window": config.window, "restart": config.restart}
    return [partial(ATTENTION[n], **pattern) if n in PATTERNED else ATTENTION[n] for n in schedule(config, n_layer)]
