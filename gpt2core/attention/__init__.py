"""Attention kernels. To add one: a file with a function of `Attend`'s signature, and a line in ATTENTION.

Legend: `B` batch, `H` heads, `T` query tokens, `S` key tokens (S >= T, the queries are the last T), `D` channels of a head.
"""

from collections.abc import Callable

from torch import Tensor

from gpt2core.attention.dense import dense
from gpt2core.config import AttentionConfig
from gpt2core.lookup import lookup

#: (q (B, H, T, D), k (B, H, S, D), v (B, H, S, D), segments (B, S) or None, dropout) -> (B, H, T, D).
#: A query looks at keys of its own segment, none of them after itself; None is one segment.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]

ATTENTION: dict[str, Attend] = {"dense": dense}


def kernels(config: AttentionConfig, n_layer: int) -> list[Attend]:
    """Return the kernel of each block; raise UnknownNameError."""
    return [lookup(ATTENTION, config.schedule, "attention")] * n_layer
