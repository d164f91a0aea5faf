"""One model that computes a batch with the rows of several runs of one base, each with its own LoRA pairs, dropout and attention.

The runs' models share all else, so `JointTrunk` is a copy of the first in which only the layers that differ are replaced by joint
ones; the forward pass is that of `gpt2core.model`. Texts are padded to the longest of all runs.

Legend: `K` runs, `B` texts of all runs, `T` tokens, `C` channels, `R` the largest rank, `L` layers.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2core.adapters.lora import LoRALinear
from gpt2core.dropout import Dropout, JointDropout, JointStream, Stream, joint_stream
from gpt2core.model import GPT2, Attention, TrunkInput
from gpt2core.projection import Projection, WorkingWeights, adapt_each, copy_into


class JointTrunk:
    """The trunks of several models of one `base` that differ in LoRA pairs, dropout and heads; `narrow` is as that of a run."""

    def __init__(self, models: Sequence[GPT2], base: GPT2, narrow: torch.dtype | None) -> None:
        self.model = cast(GPT2, _joint(models))
        self.pairs = StackedPairs(self.model)
        self.working = None if narrow is None else WorkingWeights(self.model, base, narrow)
        self.dtype = narrow or base.wte.weight.dtype

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Within, `run` reads the current weights."""
        with nullcontext() if self.working is None else self.working.used(), self.pairs.used(self.dtype):
            yield

    def run(self, inputs: Sequence[TrunkInput], streams: Sequence[Stream]) -> list[Tensor]:
        """Return the last hidden states of each run as `GPT2.run_trunk` does: (B, T, C), or (B, C) of last tokens.

        Inputs have the same fields.
        """
        counts, tokens = zip(*(own.input_ids.shape for own in inputs), strict=True)
        stream = JointStream(streams, counts, tokens, inputs[0].input_ids.device)
        with stream.drawing():
            hidden = self.model.run_trunk(TrunkInput._make(map(_joined_rows, zip(*inputs, strict=True))))
        whole = inputs[0].lengths is None
        return [own[:, :length] if whole else own for own, length in zip(hidden.split(counts), tokens, strict=True)]


def _joint(modules: Sequence[nn.Module]) -> nn.Module:
    """Return the first module with joint layers wherever those of the runs differ."""
    first = modules[0]
    if any(isinstance(module, LoRALinear) for module in modules):
        return JointLoRA(cast(Sequence[Projection | LoRALinear], modules))
    if isinstance(first, Dropout):
        return JointDropout(cast(Sequence[Dropout], modules))
    joint = copy(first)
    joint._modules = {
        name: _joint([cast(nn.Module, part._modules[name]) for part in modules]) for name in first._modules
    }
    if isinstance(joint, Attention):
        joint.kernel = JointAttend(cast(Sequence[Attention], modules))
    return joint


def _joined_rows(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Join the rows of tensors (B, ...), or (B, T, ...) with padding on the right."""
    given = [x for x in tensors if x is not None]
    if not given or given[0].ndim == 1:
        return torch.cat(given) if given else None
    longest = max(x.shape[1] for x in given)
    paddings = [longest - x.shape[1] for x in given]
    return torch.cat(
        [
            functional.pad(x, (0, 0) * (x.ndim - 2) + (0, padding)) if padding else x
            for x, padding in zip(given, paddings, strict=True)
        ]
    )


class JointAttend:
    """A kernel with `Attend`'s signature: that of all runs for all rows, or one after the other if any has dropout."""

    def __init__(self, layers: Sequence[Attention]) -> None:
        self.layers = layers

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, dropout: float) -> Tensor:
        if not any(layer.training and layer.dropout for layer in self.layers):
            return self.layers[0].kernel(q, k, v, segments, 0.0)
        by_token = [x.transpose(1, 2) for x in (q, k, v)]
        return joint_stream().each(self._attend, *by_token, segments).transpose(1, 2)

    def _attend(self, number: int, q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None) -> Tensor:
        layer = self.layers[number]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return layer.kernel(q, k, v, segments, layer.dropout if layer.training else 0.0).transpose(1, 2)


class JointLoRA(nn.Module):
    """A projection of several runs of one base, whose texts are rows of one batch, each with the pair of its run, if it has one.

    The base runs once for all rows, and so do the pairs, as a batched product. Pairs are padded with zeros to the largest rank.
    Those with DoRA run one after the other.
    """

    def __init__(self, layers: Sequence[Projection | LoRALinear]) -> None:
        super().__init__()
        self.base = layers[0].parts[0]
        self.of_runs = list(layers)  # a list, so that they remain layers of their own models alone
        pairs = [layer if isinstance(layer, LoRALinear) else None for layer in layers]
        self.dropout = JointDropout([layer.dropout if layer else Dropout(0.0) for layer in pairs])
        self.pairs = {number: layer for number, layer in enumerate(pairs) if layer}
        self.dora = any(layer.lora_magnitude is not None for layer in self.pairs.values())
        #: All A (K, R, in), times their scales, and all B (K, out, R), while a pass reads them.
        self.stacked: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.adapt(cast(Tensor, self.base(x)), x)

    def adapt(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the adapted output (B, T, out) for the input x (B, T, in), given the output `out` of the base."""
        if self.dora:
            return joint_stream().each(lambda number, *own: self.of_runs[number].adapt(*own), out, x)
        return _add_products([self], out[None], self.dropout(x)[None]).squeeze(0)

    @property
    def joined(self) -> tuple[Tensor, Tensor | None] | None:
        """As that of LoRALinear."""
        return self.base.joined

    @property
    def parts(self) -> list[Projection]:
        """The base."""
        return [self.base]

    def adapt_joined(self, layers: Sequence["JointLoRA"], out: Tensor, x: Tensor) -> Sequence[Tensor] | Tensor:
        """Return the outputs (L, B, T, out) of L layers for one input, given the joined output of the bases (B, T, L * out)."""
        if self.dora:
            return adapt_each(layers, out, x)
        bases = out.unflatten(-1, (len(layers), -1)).movedim(-2, 0)
        return _add_products(layers, bases, self.dropout.copies(x, len(layers)))


def _add_products(layers: Sequence[JointLoRA], bases: Tensor, dropped: Tensor) -> Tensor:
    """Return bases (L, B, T, out) + scale * B A x for inputs x (L, B, T, in), of which dropout has taken a part."""
    stream = joint_stream()
    stacked = [layer.stacked for layer in layers if layer.stacked]
    a, b = (torch.stack(pairs) if len(pairs) > 1 else pairs[0][None] for pairs in zip(*stacked, strict=True))
    if stream.owners is not None:
        a, b = a.index_select(1, stream.owners), b.index_select(1, stream.owners)
    count = len(layers) * stream.groups
    inner = torch.bmm(dropped.reshape(count, -1, dropped.shape[-1]), a.flatten(0, 1).mT)
    return torch.baddbmm(bases.reshape(count, -1, bases.shape[-1]), inner, b.flatten(0, 1).mT).view(bases.shape)


class StackedPairs:
    """The pairs of a joint model's runs, which are stacked once for each pass."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [part for part in model.modules() if isinstance(part, JointLoRA) and not part.dora]
        self.pairs = [pair for layer in self.layers for pair in layer.pairs.values()]
        #: For each pair, the place of its layer in `layers` and the number of its run.
        self.places = [(place, number) for place, layer in enumerate(self.layers) for number in layer.pairs]

    @contextmanager
    def used(self, dtype: torch.dtype) -> Iterator[None]:
        """Let forward passes use the current pairs in a type."""
        if not self.layers:
            yield
            return
        rank = max(len(pair.lora_A.weight) for pair in self.pairs)
        a_shapes = [(len(layer.of_runs), rank, layer.base.in_features) for layer in self.layers]
        b_shapes = [(len(layer.of_runs), layer.base.out_features, rank) for layer in self.layers]
        scales = [pair.scale for pair in self.pairs]
        a = self._stack([pair.lora_A.weight for pair in self.pairs], a_shapes, dtype, scales)
        b = self._stack([pair.lora_B.weight for pair in self.pairs], b_shapes, dtype)
        try:
            for layer, stacked in zip(self.layers, zip(a, b, strict=True), strict=True):
                layer.stacked = stacked
            yield
        finally:
            for layer in self.layers:
                layer.stacked = None

    def _stack(
        self,
        matrices: Sequence[Tensor],
        shapes: Sequence[tuple[int, int, int]],
        dtype: torch.dtype,
        scales: Sequence[float] | None = None,
    ) -> Sequence[Tensor]:
        """Return the pairs' matrices, times their scales, in zeros of the shape (K, rows, columns) of each layer."""
        counts, sizes = [math.prod(shape) for shape in shapes], [matrix.shape for matrix in matrices]
        with torch.no_grad():
            zeros = matrices[0].new_zeros(sum(counts), dtype=dtype).split(counts)
            stacks = [part.view(shape) for part, shape in zip(zeros, shapes, strict=True)]

        def corners(stacks: Sequence[Tensor]) -> list[Tensor]:
            places = zip(self.places, sizes, strict=True)
            return [stacks[place][number, :rows, :columns] for (place, number), (rows, columns) in places]

        return copy_into(stacks, corners, matrices, scales)
