"""Attention kernels. To add one: a file with a function of `Attend`'s signature, and a line in ATTENTION.

The keys of a kernel are called `attention_NAME`; the function takes each as a further keyword argument NAME.

Legend: `B` batch, `H` heads, `T` query tokens, `S` key tokens (S >= T, the queries are the last T), `D` channels of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from gpt2core.attention.auto import auto
from gpt2core.attention.dense import dense
from gpt2core.attention.logsparse import logsparse
from gpt2core.component import Component, Table, first_clause
from gpt2core.config import AttentionConfig, PatternKeys
from gpt2core.errors import ConfigError

#: (q (B, H, T, D), k (B, H, S, D), v (B, H, S, D), segments (B, S) or None, dropout) -> (B, H, T, D): causal softmax attention.
#: `segments` are integers: a query attends only to keys of its own segment, None is one segment. `dropout` is the probability
#: with which an attention weight is dropped; it is 0.0 outside of training. All blocks of a pass get the same `segments`, so
#: `derived` can share masks between them.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class Kernel(Component):
    """An entry of ATTENTION. `attend` is a function of `Attend`'s signature that also takes the values of its keys."""

    attend: Callable[..., Tensor]

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return first_clause(self.attend)

    @property
    def sparse(self) -> bool:
        """Whether it attends to a sparse pattern of earlier tokens."""
        return issubclass(self.keys, PatternKeys)

    def of(self, config: AttentionConfig) -> Attend:
        """Return the function with its keys set as in `config`."""
        names = [name.removeprefix("attention_") for name in self.keys.model_fields]
        return partial(self.attend, **{name: getattr(config, name) for name in names}) if names else self.attend


ATTENTION: Table[Kernel] = Table(
    "attention",
    Kernel,
    {
        "auto": Kernel(attend=auto, keys=PatternKeys),
        "dense": Kernel(attend=dense),
        "logsparse": Kernel(attend=logsparse, keys=PatternKeys),
    },
)


def schedule(config: AttentionConfig, n_layer: int) -> list[str]:
    """Return the name of each block's kernel; raise UnknownNameError, or ConfigError if the names do not divide the blocks."""
    names = config.names
    for name in names:
        _ = ATTENTION[name]
    if n_layer % len(names):
        raise ConfigError(
            f"The value of `attention` is {config.schedule!r}, {len(names)} names that the blocks take in turn, but their "
            f"number must divide the model's n_layer, {n_layer}"
        )
    return names * (n_layer // len(names))


def is_sparse(config: AttentionConfig) -> bool:
    """Whether the kernel of some block is sparse; raise UnknownNameError."""
    return any(ATTENTION[name].sparse for name in config.names)


def kernels(config: AttentionConfig, n_layer: int) -> list[Attend]:
    """Return the kernel of each block; raise UnknownNameError or ConfigError as `schedule` does."""
    return [ATTENTION[name].of(config) for name in schedule(config, n_layer)]
