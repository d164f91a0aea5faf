"""Dropout. On a CPU, masks depend only on the run's seed, the step, the example and the layer, not on the batch.

On a CPU, PyTorch draws the numbers of a mask one by one from one generator, which takes a quarter of a training step. Here, a
hash of key and counter (SplitMix64: Steele, Lea and Flood 2014) gives each element 16 random bits. So losses do not depend on how
batches are padded, divided into micro-batches or distributed over workers, and the backward pass draws masks again instead of
storing them. An element is kept with probability k / 65,536, rounded from 1 - p.

Other devices use PyTorch's dropout, seeded for each micro-batch, so there masks depend on how a batch is divided.

In each dropout layer of a joint pass (`JointStream`), runs draw one after the other, each for its own rows without the padding of
the pass, so a run has the same masks as on its own. That takes as many launches as on its own, and one to join the results.

Legend: `B` examples, `T` query tokens, `S` key tokens, `H` heads, `D` channels of a head.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gpt2core.derived import derived

BITS = 16  # random bits per element
SITES = 64  # at most so many dropout layers per block
BLOCK = 2**18  # attention weights computed at once, few enough for the CPU's cache
#: Attention is computed in up to so many tiles of at least so many queries, each without the keys after its last query.
TILES, TILE = 4, 32

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def is_hashed(device: torch.device) -> bool:
    """Return whether masks on a device are hashes."""
    return device.type == "cpu"


class Stream:
    """The random numbers of one pass over a micro-batch with the example numbers `examples` (B,)."""

    def __init__(self, seed: int, step: int, micro_batch: int, examples: np.ndarray, device: torch.device) -> None:
        self.site, self.from_end = 0, False
        self.generator: torch.Generator | None = None
        if is_hashed(device):
            start = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
            self.keys = _hash(start + (examples.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
            return
        state = np.random.SeedSequence((seed, step, micro_batch)).generate_state(1, np.uint64)[0]
        self.generator = torch.Generator(device).manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let dropout draw from this stream; a second use continues where the first ended."""
        token = _current.set(self)
        try:
            with nullcontext() if self.generator is None else _used(self.generator):
                yield
        finally:
            _current.reset(token)

    def start_block(self, number: int, *, from_end: bool = False) -> None:
        """Continue with the masks of block `number`: the same when it is recomputed, or when earlier blocks are skipped.

        With `from_end`, positions count from the last token, for texts that are padded on the left.
        """
        self.site, self.from_end = (number + 1) * SITES, from_end

    def next_keys(self) -> np.ndarray:
        """Return keys (B,) for the next dropout layer."""
        self.site += 1
        return _hash(self.keys + np.array([self.site], np.uint64) * _SECOND)


@contextmanager
def _used(generator: torch.Generator) -> Iterator[None]:
    """Let PyTorch draw from a generator, whose state advances."""
    if generator.device.type == "cuda":  # shares the state instead of copying it
        torch.cuda.default_generators[generator.device.index or 0].graphsafe_set_state(generator)
        yield
    else:
        random = torch.get_device_module(generator.device)
        random.set_rng_state(generator.get_state())
        yield
        generator.set_state(random.get_rng_state())


class JointStream:
    """The random numbers of several runs whose examples are in one batch: the rows of the first run, those of the second ...

    `streams` are those of the runs, `counts` their numbers of rows, and `tokens` their numbers of tokens with their own padding,
    to which the batch adds more.
    """

    def __init__(
        self, streams: Sequence[Stream], counts: Sequence[int], tokens: Sequence[int], device: torch.device
    ) -> None:
        self.streams, self.counts, self.tokens, self.from_end = streams, list(counts), tokens, False
        self.longest, size = max(tokens), math.gcd(*counts)
        owners = np.repeat(np.arange(len(counts)), np.array(counts) // size)
        #: The run of each group of `size` rows; None if each run is one group.
        self.owners = None if len(owners) == len(counts) else torch.from_numpy(owners).to(device)
        self.groups = len(owners)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let the layers of a joint model find this stream."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def start_block(self, number: int, *, from_end: bool = False) -> None:
        """Call `Stream.start_block` on all streams. With `from_end`, texts are padded on the left."""
        self.from_end = from_end
        for stream in self.streams:
            stream.start_block(number, from_end=from_end)

    def each(self, function: Callable[..., Tensor], *xs: Tensor | None, rows: int = 0) -> Tensor:
        """Apply `function(n, *own)` to each run n with its part of each `xs` (B, T, ...), drawing from its stream.

        Returns the joined results, whose dimension `rows` are rows, and the next one tokens.
        """
        whole = xs[0] is not None and xs[0].shape[1] == self.longest  # or of the last tokens alone
        parts, outs = [self._parts(x) for x in xs], []
        for number, stream in enumerate(self.streams):
            with stream.drawing():
                out = function(number, *(part[number] for part in parts))
            padding = self.longest - self.tokens[number] if whole else 0
            if padding:
                sides = (padding, 0) if self.from_end else (0, padding)
                out = functional.pad(out, (0, 0) * (out.ndim - rows - 2) + sides)
            outs.append(out)
        return torch.cat(outs, dim=rows)

    def _parts(self, x: Tensor | None) -> Sequence[Tensor | None]:
        """Return the part of each run, without the padding of the batch."""
        if x is None:
            return [None] * len(self.counts)
        if x.is_floating_point():
            return self._split(x)
        return derived(
            x, "runs", lambda: [part.clone() for part in self._split(x)]
        )  # segments, whose masks blocks share

    def _split(self, x: Tensor) -> list[Tensor]:
        return [self._without_padding(part, own) for part, own in zip(x.split(self.counts), self.tokens, strict=True)]

    def _without_padding(self, x: Tensor, tokens: int) -> Tensor:
        if tokens == self.longest or x.shape[1] != self.longest:
            return x
        # PyTorch's dropout draws other numbers for a tensor that is not contiguous.
        return (x[:, -tokens:] if self.from_end else x[:, :tokens]).contiguous()


_current: ContextVar[Stream | JointStream | None] = ContextVar("stream", default=None)


def joint_stream() -> JointStream:
    """Return the stream of a joint pass."""
    return cast(JointStream, _current.get())


def start_block(number: int, *, from_end: bool = False) -> None:
    """Call `Stream.start_block` on the current stream, if there is one."""
    stream = _current.get()
    if stream is not None:
        stream.start_block(number, from_end=from_end)


def dropout(x: Tensor, p: float, *, positions: Sequence[int] = (1,)) -> Tensor:
    """Zero elements of x (B, ...) with probability p and divide the others by 1 - p.

    `positions` are the dimensions that index tokens; `start_block` may count them from the end.
    """
    stream = _current.get()
    if not p or not isinstance(stream, Stream) or not is_hashed(x.device):
        return functional.dropout(x, p)
    return _Dropout.apply(x, Mask(stream, x.shape, p, positions))  # type: ignore[no-untyped-call, no-any-return]


class Dropout(nn.Module):
    """`dropout` as a layer, active only in training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def active(self) -> bool:
        """Whether it drops anything."""
        return bool(self.training and self.p)

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.active else x

    def copies(self, x: Tensor, count: int) -> Tensor:
        """Return `count` copies of x (B, ...) as (count, B, ...), each with its own mask."""
        if self.active and is_hashed(x.device):
            return torch.stack([self(x) for _ in range(count)])
        return cast(Tensor, self(x.expand(count, *x.shape)))


class JointDropout(Dropout):
    """The dropout layers of several runs, each for its own rows of a batch (B, T, ...), in a `JointStream`."""

    def __init__(self, layers: Sequence[Dropout]) -> None:
        super().__init__(0.0)
        self.of_runs = list(layers)  # a list, so that they remain layers of their own models alone

    @property
    def active(self) -> bool:
        return any(layer.active for layer in self.of_runs)

    def forward(self, x: Tensor) -> Tensor:
        return joint_stream().each(lambda number, own: self.of_runs[number](own), x) if self.active else x

    def copies(self, x: Tensor, count: int) -> Tensor:
        if not self.active:
            return x.expand(count, *x.shape)
        return joint_stream().each(lambda number, own: self.of_runs[number].copies(own, count), x, rows=1)


class Mask:
    """The mask of a dropout layer, which is drawn again whenever it is needed."""

    def __init__(self, stream: Stream, shape: Sequence[int], p: float, positions: Sequence[int]) -> None:
        self.keys, self.shape = stream.next_keys(), tuple(shape)
        self.kept = min(max(round((1 - p) * 2**BITS), 1), 2**BITS - 1)
        self.flipped = [dim for dim in positions if dim < len(self.shape)] if stream.from_end else []

    def draw(
        self, dtype: torch.dtype, rows: slice = slice(None), queries: slice = slice(None), keys: slice = slice(None)
    ) -> Tensor:
        """Return the factors 0 or 1 / (1 - p).

        For a mask (B, H, T, S), `rows` are those of the first two dimensions, flattened; the others must be whole if positions
        count from the end.
        """
        heads, *last = self.shape[1:] if len(self.shape) == 4 else (1, *self.shape[1:])
        own = np.repeat(self.keys, heads) + np.tile(np.arange(heads, dtype=np.uint64), len(self.keys)) * _FIRST
        counters = _counters(tuple(last))
        if len(self.shape) == 4 and not self.flipped:
            last[-1] = len(range(last[-1])[keys])
            counters = counters[queries, : math.ceil(last[-1] * BITS / 64)]
        words = _hash(own[rows, None] + counters.reshape(-1))
        bits = words.view(np.uint16).reshape(len(words), *counters.shape[:-1], -1)[..., : last[-1]]
        if self.flipped:
            bits = np.flip(bits, tuple(dim - len(self.shape) for dim in self.flipped))
        mask = torch.from_numpy(bits < self.kept).to(dtype)
        return mask.mul_(2**BITS / self.kept)


def _hash(z: np.ndarray) -> np.ndarray:
    """Apply the output function of SplitMix64 in place."""
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    return z


@lru_cache(maxsize=64)
def _counters(shape: tuple[int, ...]) -> np.ndarray:
    """Return a counter for each 64 bits of a mask; a position has the same counter in every shape."""
    counters: np.ndarray = np.zeros((), np.uint64)
    for size in (*shape[:-1], math.ceil(shape[-1] * BITS / 64)):
        counters = (counters[..., None] << np.uint64(24)) + np.arange(size, dtype=np.uint64)
    return counters * _GOLDEN


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return mask.draw(x.dtype).view_as(x).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.mask.draw(grad.dtype).view_as(grad).mul_(grad), None


def attend_with_dropout(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, p: float) -> Tensor:
    """Return softmax attention with dropout of the weights; shapes as in `attention.Attend`.

    `allowed`, (T, S) or (B, 1, T, S), says which keys a query attends to, none of them after it. On a CPU, the backward pass
    recomputes the weights, so memory grows with T + S, not T * S.
    """
    stream = _current.get()
    if not p or not isinstance(stream, Stream) or not is_hashed(q.device):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=p)
    shape = (*q.shape[:3], k.shape[2])
    return _Attention.apply(q, k, v, allowed, Mask(stream, shape, p, (2, 3)))  # type: ignore[no-untyped-call, no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, mask: Mask) -> Tensor:
        bias = (
            torch.zeros(allowed.shape, dtype=q.dtype).masked_fill_(~allowed, -math.inf).expand(mask.shape).flatten(0, 1)
        )
        queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
        out = torch.empty_like(queries)
        for rows, t, s in _tiles(mask):
            weights = _weights(queries[rows, t], keys[rows, s], bias[rows, t, s])
            out[rows, t] = weights.mul_(mask.draw(q.dtype, rows, t, s)) @ values[rows, s]
        ctx.save_for_backward(queries, keys, values, bias)
        ctx.mask = mask
        return out.view_as(q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, bias = ctx.saved_tensors
        scale, heads = 1 / math.sqrt(queries.shape[-1]), ctx.mask.shape[:2]
        grad = grad.flatten(0, 1)
        by_query, by_key, by_value = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        for rows, t, s in _tiles(ctx.mask):
            weights = _weights(queries[rows, t], keys[rows, s], bias[rows, t, s])
            drawn = ctx.mask.draw(weights.dtype, rows, t, s)
            by_value[rows, s].baddbmm_((weights * drawn).mT, grad[rows, t])
            by_weight = torch.bmm(grad[rows, t], values[rows, s].mT).mul_(drawn)
            by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype).mul_(scale)
            by_query[rows, t] = by_score @ keys[rows, s]
            by_key[rows, s].baddbmm_(by_score.mT, queries[rows, t])
        shaped = (x.unflatten(0, heads) for x in (by_query, by_key, by_value))
        return (*shaped, None, None)


def _weights(queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias, queries, keys.mT, alpha=1 / math.sqrt(queries.shape[-1])).softmax(dim=-1)


def _tiles(mask: Mask) -> Iterator[tuple[slice, slice, slice]]:
    """Yield rows, queries and keys of parts of a mask (B, H, T, S) that have BLOCK elements and cover all causal positions."""
    batch, heads, t, s = mask.shape
    size = t if mask.flipped else max(TILE, math.ceil(t / TILES))
    for first in range(0, t, size):
        queries, keys = slice(first, min(first + size, t)), slice(s if mask.flipped else min(s, s - t + first + size))
        count = max(1, BLOCK // (size * keys.stop))
        for row in range(0, batch * heads, count):
            yield slice(row, row + count), queries, keys
