"""Projections whose weights a pass may read in bfloat16.

Under autocast, PyTorch casts each weight of each projection in each pass, which takes a kernel for every one. `WorkingWeights`
casts all trained weights of a model in one call and frozen ones once, and lays queries, keys and values side by side, so that
one product makes all three. The gradients are those under autocast: in bfloat16, then added up in float32.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Joined = list["Projection"]


class Projection(nn.Linear):
    """A linear layer (..., in) -> (..., out). `working` are the weight and bias that a pass reads instead of its own, if any."""

    working: tuple[Tensor, Tensor | None] | None = None
    joined: tuple[Tensor, Tensor | None] | None = None  # of the first in a group: those of all

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.working or (self.weight, self.bias)
        return functional.linear(x, weight, bias)

    @property
    def parts(self) -> list["Projection"]:
        """The projections that it consists of."""
        return [self]

    def adapt(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the output for the input `x` (..., in), given the output `out` (..., out) of the base: the same here."""
        return out

    def adapt_joined(self, layers: Sequence[Any], out: Tensor, x: Tensor) -> Sequence[Tensor]:
        """Return the outputs of `layers` for one input, given the joined output of their bases (..., layers * out)."""
        outs = out.chunk(len(layers), dim=-1)
        return [layer.adapt(base, x) for layer, base in zip(layers, outs, strict=True)]


class WorkingWeights:
    """The projections of a model in bfloat16. Those of a group have inputs of one shape; their weights are joined."""

    def __init__(self, model: nn.Module) -> None:
        groups = [group for part in model.modules() for group in getattr(part, "groups", [])]
        groups = [group for group in groups if len({p.weight.requires_grad for p in group}) == 1]
        known = {id(projection) for group in groups for projection in group}
        groups += [[part] for part in model.modules() if isinstance(part, Projection) and id(part) not in known]
        self.trained = [group for group in groups if group[0].weight.requires_grad]
        self.frozen = [group for group in groups if not group[0].weight.requires_grad]
        self.constants: list[Tensor] | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the forward and backward passes within read the weights as they are now."""
        if self.constants is None:
            with torch.no_grad():
                self.constants = _cast(self.frozen)
        try:
            _assign(self.trained, _cast(self.trained))
            _assign(self.frozen, self.constants)
            yield
        finally:
            for group in (*self.trained, *self.frozen):
                for projection in group:
                    projection.working = projection.joined = None


def _cast(groups: Sequence[Joined]) -> list[Tensor]:
    """Return the joined weight of each group, and then the joined bias of each one that has some, in bfloat16."""
    tensors = [[p.weight for p in group] for group in groups]
    tensors += [[p.bias for p in group] for group in groups if group[0].bias is not None]
    sizes = [len(joined) for joined in tensors]
    return list(_Cast.apply(sizes, *(t for joined in tensors for t in joined))) if tensors else []  # type: ignore[no-untyped-call]


def _assign(groups: Sequence[Joined], tensors: Sequence[Tensor]) -> None:
    biases = iter(tensors[len(groups) :])
    for group, weight in zip(groups, tensors[: len(groups)], strict=True):
        bias = next(biases) if group[0].bias is not None else None
        if len(group) == 1:
            group[0].working = weight, bias
            continue
        group[0].joined, start = (weight, bias), 0
        for projection in group:
            rows = slice(start, start + len(projection.weight))
            projection.working = weight[rows], None if bias is None else bias[rows]
            start = rows.stop


class _Cast(torch.autograd.Function):
    """Join float32 tensors along their first dimension, `sizes[i]` of them in the i-th result, in bfloat16."""

    @staticmethod
    def forward(ctx: Any, sizes: Sequence[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        rest, joined, targets = iter(tensors), [], []
        for size in sizes:
            parts = [next(rest) for _ in range(size)]
            lengths = [len(part) for part in parts]
            joined.append(parts[0].new_empty(sum(lengths), *parts[0].shape[1:], dtype=torch.bfloat16))
            targets += joined[-1].split(lengths)
        torch._foreach_copy_(targets, list(tensors))
        ctx.lengths = [len(tensor) for tensor in tensors]
        ctx.sizes = sizes
        return tuple(joined)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        lengths, pieces = iter(ctx.lengths), []
        for size, grad in zip(ctx.sizes, grads, strict=True):
            pieces += grad.split([next(lengths) for _ in range(size)])
        wide = [torch.empty_like(piece, dtype=torch.float32) for piece in pieces]
        torch._foreach_copy_(wide, pieces)
        return (None, *wide)
