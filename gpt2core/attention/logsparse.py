"""LogSparse attention by shifted slices: time and memory grow as L log L for the plain pattern, without an L x L matrix.

For each offset o of the pattern, one row-wise product of the queries from token o on and the keys up to token L - o gives a
column of scores. `K` is the number of offsets; the other letters are those of the legend in `attention`.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from gpt2core.attention.dense import as_bias
from gpt2core.attention.pattern import offsets
from gpt2core.derived import derived
from gpt2core.dropout import dropout as drop

#: Numbers in a block of queries: 2 MiB, so that a block stays in the CPU's cache for all offsets. From 1,024 to 8,192 tokens this
#: was the fastest of 2**17 to 2**20; with larger blocks, time grows faster than L log L.
BLOCK = 2**19


def logsparse(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, dropout: float, *, window: int = 1, restart: int = 0
) -> Tensor:
    """Attend to the keys at the distances `pattern.offsets`; shapes as in `attention.Attend`.

    Narrower types are computed in float32. A single query, as in generation, first selects its O(log S) keys.
    """
    t, s = q.shape[-2], k.shape[-2]
    pattern = offsets(s, window, restart)
    keys = _keys(t, s, window, restart, q.device)
    owner, key = (keys if segments is None else segments), ("keys", t, window, restart)
    allowed = derived(owner, key, lambda: _allowed(keys, segments))
    if t == 1:
        k, v = (x.index_select(-2, keys[:, 0]) for x in (k, v))
        if dropout:
            scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed.mT, -math.inf)
            return drop(scores.softmax(dim=-1), dropout, positions=(2,)) @ v
        bias = derived(allowed, q.dtype, lambda: as_bias(allowed.mT, q.dtype))
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)
    wide = torch.promote_types(q.dtype, torch.float32)
    weights: Tensor = _Scores.apply(q.to(wide), k.to(wide), allowed, pattern).softmax(dim=-2)  # type: ignore[no-untyped-call]
    out: Tensor = _Values.apply(drop(weights, dropout, positions=(3,)), v.to(wide), pattern)  # type: ignore[no-untyped-call]
    return out.to(q.dtype)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _keys(t: int, s: int, window: int, restart: int, device: torch.device) -> Tensor:
    """Return the numbers (K, T) of the keys at each offset from the last T tokens; negative if there is none."""
    pattern = torch.tensor(offsets(s, window, restart), device=device)
    return torch.arange(s - t, s, device=device) - pattern[:, None]


def _allowed(keys: Tensor, segments: Tensor | None) -> Tensor:
    """Return a mask (K, T), or (B, 1, K, T) for segments (B, S), of the tokens `keys` (K, T) that a query may attend to."""
    inside = keys >= 0
    if segments is None:
        return inside
    own = segments[:, None, segments.shape[1] - keys.shape[1] :]
    return (inside & (segments[:, keys.clamp(min=0)] == own))[:, None]


class _Scores(torch.autograd.Function):
    """Dot products (B, H, K, T) of queries and keys over sqrt(D); -inf where a key is not `allowed`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, allowed: Tensor, pattern: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.pattern = pattern
        return _dots(q, k, pattern).div_(math.sqrt(q.shape[-1])).masked_fill_(~allowed, -math.inf)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k = ctx.saved_tensors
        grad = grad / math.sqrt(q.shape[-1])  # 0 where a key is not allowed, because its weight is 0
        return _gather(grad, k, ctx.pattern), _scatter(grad, q, k.shape[-2], ctx.pattern), None, None


class _Values(torch.autograd.Function):
    """Sums (B, H, T, D) of the values, weighted by (B, H, K, T)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, v: Tensor, pattern: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(weights, v)
        ctx.pattern = pattern
        return _gather(weights, v, pattern)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, v = ctx.saved_tensors
        return _dots(grad, v, ctx.pattern), _scatter(weights, grad, v.shape[-2], ctx.pattern), None


def _dots(a: Tensor, b: Tensor, pattern: tuple[int, ...]) -> Tensor:
    """Return (B, H, K, T): column j holds the dot products of each token of `a` and the token pattern[j] before it in `b`."""
    batch, heads, t, _ = a.shape
    out = a.new_zeros(batch, heads, len(pattern), t)
    for column, rows, keys in _spans(a, b.shape[-2], pattern):
        torch.sum(a[:, :, rows] * b[:, :, keys], dim=-1, out=out[:, :, column, rows])
    return out


def _gather(weights: Tensor, b: Tensor, pattern: tuple[int, ...]) -> Tensor:
    """Return for each of T tokens the sum of the tokens of `b` (B, H, S, D) at its offsets, weighted by (B, H, K, T)."""
    out = _zeros(b, weights.shape[-1])
    for column, rows, keys in _spans(out, b.shape[-2], pattern):
        out[:, :, rows].addcmul_(weights[:, :, column, rows, None], b[:, :, keys])
    return out


def _scatter(weights: Tensor, a: Tensor, s: int, pattern: tuple[int, ...]) -> Tensor:
    """Transpose of `_gather`: add each token of `a` (B, H, T, D), weighted, to the tokens at its offsets."""
    out = _zeros(a, s)
    for column, rows, keys in _spans(a, s, pattern):
        out[:, :, keys].addcmul_(weights[:, :, column, rows, None], a[:, :, rows])
    return out


def _zeros(like: Tensor, tokens: int) -> Tensor:
    """Return zeros (B, H, tokens, D), with a token's heads contiguous in memory as in the model's projections."""
    batch, heads, _, channels = like.shape
    return like.new_zeros(batch, tokens, heads, channels).transpose(1, 2)


def _spans(a: Tensor, s: int, pattern: tuple[int, ...]) -> Iterator[tuple[int, slice, slice]]:
    """Yield columns, their rows and the keys one offset before them, for each block of the tokens of `a`, the last T of S."""
    batch, heads, t, channels = a.shape
    size = max(1, BLOCK // (batch * heads * channels)) if a.device.type == "cpu" else t
    for start in range(0, t, size):
        stop = min(start + size, t)
        for column, offset in enumerate(pattern):
            shift = s - t - offset
            first = max(start, -shift)
            if first < stop:
                yield column, slice(first, stop), slice(first + shift, stop + shift)
