"""Dense causal attention by PyTorch's fused kernel."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpt2core.derived import derived
from gpt2core.dropout import attend_with_dropout, is_hashed

ALIGNED = 8  # numbers; a GPU's kernels would copy a bias whose rows start elsewhere


def dense(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, dropout: float) -> Tensor:
    """Attend to all earlier tokens; shapes as in `attention.Attend`."""
    t, s = q.shape[-2], k.shape[-2]
    if segments is not None or 1 < t < s or (dropout and is_hashed(q.device)):
        return masked(q, k, v, causal_mask(t, s, segments, q.device), dropout)
    return scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=t > 1)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attend to the keys of a mask (T, S) or (B, 1, T, S); other shapes as in `attention.Attend`."""
    if dropout and is_hashed(q.device):
        return attend_with_dropout(q, k, v, mask, dropout)
    bias = derived(mask, q.dtype, lambda: as_bias(mask, q.dtype))
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def causal_mask(t: int, s: int, segments: Tensor | None, device: torch.device) -> Tensor:
    """Return a mask (T, S), or (B, 1, T, S) for segments (B, S), of the keys that the last `t` of `s` tokens may attend to.

    Blocks that ask for the same segments get the same mask.
    """
    if segments is not None:
        return derived(segments, ("causal", t), lambda: _of_segments(t, s, segments))
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(diagonal=s - t)


def _of_segments(t: int, s: int, segments: Tensor) -> Tensor:
    same = segments[:, s - t :, None] == segments[:, None, :]
    return (same if t == 1 else same & causal_mask(t, s, None, segments.device))[:, None]


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask (..., S) as numbers to add to scores, 0 or minus infinity, as attention kernels would make it themselves."""
    *shape, s = mask.shape
    padded = torch.zeros(*shape, -(-s // ALIGNED) * ALIGNED, dtype=dtype, device=mask.device)
    return padded[..., :s].masked_fill_(~mask, -torch.inf)
