"""LogSparse attention by the faster of two implementations."""

from functools import lru_cache

import torch
from torch import Tensor

from gpt2core.attention.dense import causal_mask, masked
from gpt2core.attention.logsparse import logsparse
from gpt2core.attention.pattern import offsets
from gpt2core.derived import derived

#: With fewer tokens per offset of the pattern, a mask is faster: below 80 tokens for the plain pattern. Measured on one thread of
#: an AVX-512 CPU, forward and backward, float32, 1 x 12 heads of 64 and 8 x 6 heads of 32, 64 to 768 tokens: with windows of 1,
#: 16 and 48 tokens, both took the same time at 8 to 11 tokens per offset.
TOKENS_PER_OFFSET = 10
#: Up to this many tokens, other devices use a mask, which takes some 10 kernels where the slices take hundreds. The mask then has
#: 16 MB. Not measured on a GPU.
MASKED = 4096


def auto(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, dropout: float, *, window: int = 1, restart: int = 0
) -> Tensor:
    """Return what `logsparse` returns, up to rounding and dropout; for few tokens by dense attention with a mask (T, S)."""
    t, s = q.shape[-2], k.shape[-2]
    pattern = offsets(s, window, restart)
    if t == 1 or s >= (TOKENS_PER_OFFSET * len(pattern) if q.device.type == "cpu" else MASKED):
        return logsparse(q, k, v, segments, dropout, window=window, restart=restart)
    mask = pattern_mask(t, s, window, restart, q.device)
    if segments is not None:
        plain = mask
        mask = derived(segments, ("pattern", t, window, restart), lambda: causal_mask(t, s, segments, q.device) & plain)
    return masked(q, k, v, mask, dropout)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def pattern_mask(t: int, s: int, window: int, restart: int, device: torch.device) -> Tensor:
    """Return a mask (T, S) of the keys at the offsets of the pattern; one for all blocks, since lengths repeat."""
    is_offset = torch.zeros(s, dtype=torch.bool, device=device)
    is_offset[list(offsets(s, window, restart))] = True
    tokens = torch.arange(s, device=device)
    distances = tokens[s - t :, None] - tokens  # (T, S)
    return is_offset[distances.abs()] & (distances >= 0)
