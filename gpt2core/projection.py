"""Linear layers that can compute in 16 bits with weights that are cast once per step.

Autocast casts every weight in every forward pass, one kernel each. `WorkingWeights` casts all trained weights of a model in one
call per step, and frozen weights once. It also joins the weights of queries, keys and values, so that one product computes all
three. Gradients are those of autocast: computed in 16 bits and accumulated in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Weights = tuple[Tensor, Tensor | None]  # weight (out, in), bias (out,)
PACKED_ROWS, PACKED_TOKENS = 2, 128  # texts, and their new tokens in all, from which packed weights are faster


class Projection(nn.Linear):
    """A linear layer (..., in) -> (..., out).

    While `working` is set, it replaces the layer's own weights. The first layer of a group also holds the working weights of all
    layers of the group, `joined` along `out`.
    """

    working: Weights | None = None
    joined: Weights | None = None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, *self.weights)

    @property
    def weights(self) -> Weights:
        """The weights that a pass uses."""
        return self.working or (self.weight, self.bias)

    @property
    def trains(self) -> bool:
        """Whether its own weight or bias trains."""
        return any(parameter.requires_grad for parameter in self.parameters(recurse=False))

    @property
    def parts(self) -> list["Projection"]:
        """The linear layers inside this layer, the base first; an adapter adds others."""
        return [self]

    def adapt(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the adapted output (..., out) for the input x (..., in), given the output `out` of the base."""
        return out

    def adapt_joined(self, layers: Sequence[Any], out: Tensor, x: Tensor) -> Sequence[Tensor] | Tensor:
        """Return the outputs (layers, ..., out) for the same input, given the joined output of the bases (..., layers * out)."""
        if all(type(layer) is Projection for layer in layers):
            return cast(Tensor, out.unflatten(-1, (len(layers), -1))).movedim(-2, 0)
        return adapt_each(layers, out, x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the product (..., out) of x (..., in) and a weight (out, in), which may be packed, plus a bias (out,)."""
    if weight.is_mkldnn:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return functional.linear(x, weight, bias)


def adapt_each(layers: Sequence[Any], out: Tensor, x: Tensor) -> list[Tensor]:
    """Adapt the outputs of `layers` one by one, as `Projection.adapt_joined`."""
    outs = out.chunk(len(layers), dim=-1)
    return [layer.adapt(base, x) for layer, base in zip(layers, outs, strict=True)]


Group = list[Projection]  # layers whose weights are joined

#: Base model -> the cast weights of its groups, by type and addresses of their float32 weights. All runs of a base share them.
_SHARED: WeakKeyDictionary[nn.Module, dict[tuple[torch.dtype, tuple[int, ...]], Weights]] = WeakKeyDictionary()


class WorkingWeights:
    """The weights of a model's projections in a 16-bit type. Runs share the frozen weights of their `base`."""

    def __init__(self, model: nn.Module, base: nn.Module, dtype: torch.dtype) -> None:
        groups = [group for module in model.modules() for group in getattr(module, "groups", [])]
        groups = [group for group in groups if len({layer.trains for layer in group}) == 1]
        joined = {id(layer) for group in groups for layer in group}
        groups += [[layer] for layer in model.modules() if isinstance(layer, Projection) and id(layer) not in joined]
        self.trained = [group for group in groups if group[0].trains]
        self.frozen = [group for group in groups if not group[0].trains]
        self.base, self.dtype = base, dtype
        self.constants: list[Weights] | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let forward and backward passes use the current weights in 16 bits."""
        if self.constants is None:
            self.constants = self._constants()
        with _used([*self.trained, *self.frozen], [*_cast(self.trained, self.dtype), *self.constants]):
            yield

    @torch.no_grad()
    def _constants(self) -> list[Weights]:
        addresses = [tuple(layer.weight.data_ptr() for layer in group) for group in self.frozen]
        of_base = {parameter.data_ptr() for parameter in self.base.parameters()}
        shared = _SHARED.setdefault(self.base, {})
        # An address that is not the base's now may be that of a tensor that was freed.
        keys = [(self.dtype, address) for address in addresses]
        missing = [n for n, key in enumerate(keys) if key not in shared or not of_base.issuperset(key[1])]
        made = dict(zip(missing, _cast([self.frozen[place] for place in missing], self.dtype), strict=True))
        shared.update({keys[place]: weights for place, weights in made.items() if of_base.issuperset(addresses[place])})
        return [made[place] if place in made else shared[key] for place, key in enumerate(keys)]


@contextmanager
def weights_for_generation(model: Any, rows: int, tokens: int) -> Iterator[None]:
    """Let `rows` texts be continued by up to `tokens` tokens with copies of the weights that suit the device, if that pays."""
    head: Tensor = model.wte.weight
    if head.device.type != "cpu":
        with joined_weights(model):
            yield
    elif can_pack(head) and rows >= PACKED_ROWS and rows * tokens >= PACKED_TOKENS:
        with packed_weights(model):
            yield
    else:
        yield


@contextmanager
def joined_weights(model: nn.Module) -> Iterator[None]:
    """Let passes without gradients make queries, keys and values by one product each, which a GPU launches once."""
    groups = [group for module in model.modules() for group in getattr(module, "groups", []) if len(group) > 1]
    with _used(groups, [_join(group) for group in groups]):
        yield


def _join(group: Group) -> Weights:
    bias = None if group[0].bias is None else torch.cat([layer.bias for layer in group])
    return torch.cat([layer.weight for layer in group]), bias


@contextmanager
def packed_weights(model: Any) -> Iterator[None]:
    """Let passes without gradients read weights in the order in which oneDNN, which PyTorch contains, multiplies few rows.

    PyTorch's own product reorders them in each call. Packing takes as long as it saves in some ten calls.
    """
    parts: list[list[Projection]] = [module.parts for module in model.modules() if hasattr(module, "parts")]
    adapters = {id(layer) for layers in parts for layer in layers[1:]}  # which are read in other ways than by `linear`
    groups = [layers[:1] for layers in parts if id(layers[0]) not in adapters]
    try:
        model.packed_head = _pack(model.wte.weight)
        with _used(groups, [(_pack(layer.weight), layer.bias) for (layer,) in groups]):
            yield
    finally:
        model.packed_head = None


def can_pack(weight: Tensor) -> bool:
    """Return whether oneDNN can multiply by a weight."""
    return torch.backends.mkldnn.is_available() and weight.dtype in (torch.float32, torch.bfloat16)


def _pack(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach()))


@contextmanager
def _used(groups: Sequence[Group], weights: Sequence[Weights]) -> Iterator[None]:
    """Let passes read these weights instead of the layers' own."""
    try:
        _assign(groups, weights)
        yield
    finally:
        for group in groups:
            for layer in group:
                layer.working = layer.joined = None


def _cast(groups: Sequence[Group], dtype: torch.dtype) -> list[Weights]:
    """Return the joined weights of each group in a 16-bit type."""
    weights: list[list[Tensor]] = [[layer.weight for layer in group] for group in groups]
    biases: list[list[Tensor]] = [[layer.bias for layer in group] for group in groups if group[0].bias is not None]
    tensors = [*weights, *biases]
    lengths = [[len(part) for part in parts] for parts in tensors]
    wholes = [
        parts[0].new_empty(sum(rows), *parts[0].shape[1:], dtype=dtype)
        for parts, rows in zip(tensors, lengths, strict=True)
    ]

    def rows_of(wholes: Sequence[Tensor]) -> list[Tensor]:
        return [part for whole, rows in zip(wholes, lengths, strict=True) for part in whole.split(rows)]

    joined = iter(copy_into(wholes, rows_of, [part for parts in tensors for part in parts]) if tensors else ())
    of_groups = [next(joined) for _ in groups]
    return [
        (weight, next(joined) if group[0].bias is not None else None)
        for group, weight in zip(groups, of_groups, strict=True)
    ]


def _assign(groups: Sequence[Group], joined: Sequence[Weights]) -> None:
    for group, (weight, bias) in zip(groups, joined, strict=True):
        if len(group) == 1:
            group[0].working = weight, bias
            continue
        group[0].joined, start = (weight, bias), 0
        for layer in group:
            rows = slice(start, start + len(layer.weight))
            layer.working = weight[rows], None if bias is None else bias[rows]
            start = rows.stop


Parts = Callable[[Sequence[Tensor]], list[Tensor]]


def copy_into(
    larger: Sequence[Tensor], parts: Parts, tensors: Sequence[Tensor], scales: Sequence[float] | None = None
) -> Sequence[Tensor]:
    """Copy tensors, times their scales, into parts of larger ones of any type: one call for all, and one for their gradients.

    `parts` returns the parts of the larger tensors, or of their gradients, that belong to each of `tensors`.
    """
    return cast(Sequence[Tensor], _CopyInto.apply(larger, parts, scales, *tensors))  # type: ignore[no-untyped-call]


class _CopyInto(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, larger: Sequence[Tensor], parts: Parts, scales: Sequence[float] | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.parts, ctx.scales, ctx.dtype = parts, scales, tensors[0].dtype
        torch._foreach_copy_(parts(larger), torch._foreach_mul(tensors, scales) if scales else tensors)
        return tuple(larger)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # A GPU copies many with one launch if the parts have the strides of the tensors.
        pieces = ctx.parts([grad.contiguous() for grad in grads])
        own = [piece.new_empty(piece.shape, dtype=ctx.dtype) for piece in pieces]
        torch._foreach_copy_(own, pieces)
        if ctx.scales:
            torch._foreach_mul_(own, ctx.scales)
        return (None, None, None, *own)
