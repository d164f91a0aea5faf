"""LogSparse attention by the faster of two implementations."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpt2core.attention.dense import causal_mask
from gpt2core.attention.logsparse import logsparse
from gpt2core.attention.pattern import offsets

#: With fewer tokens per offset of the pattern, a mask is faster: below 80 tokens for the plain pattern. Measured on one thread of
#: an AVX-512 CPU, forward and backward, float32, 1 x 12 heads of 64 and 8 x 6 heads of 32, 64 to 768 tokens: with windows of 1,
#: 16 and 48 tokens, both took the same time at 8 to 11 tokens per offset.
TOKENS_PER_OFFSET = 10


def auto(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, dropout: float, *, window: int = 1, restart: int = 0
) -> Tensor:
    """Return what `logsparse` returns, up to rounding; for few tokens by PyTorch's fused kernel with a mask (T, S).

    PyTorch's fused CPU kernel has no dropout; with dropout, the slices of `logsparse` are faster except for very short texts.
    """
    t, s = q.shape[-2], k.shape[-2]
    pattern = offsets(s, window, restart)
    if t == 1 or dropout or s >= TOKENS_PER_OFFSET * len(pattern):
        return logsparse(q, k, v, segments, dropout, window=window, restart=restart)
    mask = causal_mask(t, s, segments, q.device) & _near(t, s, pattern, q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _near(t: int, s: int, pattern: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a mask (T, S) of the keys whose distance from the query, before or after it, is one of the offsets."""
    is_offset = torch.zeros(s, dtype=torch.bool, device=device)
    is_offset[list(pattern)] = True
    tokens = torch.arange(s, device=device)
    return is_offset[(tokens[s - t :, None] - tokens).abs()]
