"""Attention kernels. To add one: a file with a function of `Attend`'s signature, and a line in ATTENTION.

Legend: `B` batch, `H` heads, `T` query tokens, `S` key tokens (S >= T, the queries are the last T), `D` channels of a head.
"""

from collections.abc import Callable

from torch import Tensor

from gpt2core.attention.dense import dense

#: (q (B, H, T, D), k (B, H, S, D), v (B, H, S, D), mask (B, 1, T, S) or None, dropout) -> (B, H, T, D).
#: A mask is True where a query may look; None means plain causal attention with nothing padded.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]

ATTENTION: dict[str, Attend] = {"dense": dense}
