"""LogSparse attention by the faster of two implementations."""

import torch
from torch import Tensor

from gpt2core.attention.dense import causal_mask
from gpt2core.attention.logsparse import logsparse
from gpt2core.attention.pattern import offsets
from gpt2core.dropout import attend_with_dropout

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
    is_offset = torch.zeros(s, dtype=torch.bool, device=q.device)
    is_offset[list(pattern)] = True
    tokens = torch.arange(s, device=q.device)
    distances = (tokens[s - t :, None] - tokens).abs()  # (T, S)
    mask = causal_mask(t, s, segments, q.device) & is_offset[distances]
    return attend_with_dropout(q, k, v, mask, dropout)
