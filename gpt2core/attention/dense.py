"""Dense causal attention by PyTorch's fused kernel."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpt2core.dropout import attend_with_dropout


def dense(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, dropout: float) -> Tensor:
    """Attend to all earlier tokens; shapes as in `attention.Attend`."""
    t, s = q.shape[-2], k.shape[-2]
    if dropout and q.device.type == "cpu":
        return attend_with_dropout(q, k, v, causal_mask(t, s, segments, q.device), dropout)
    mask = causal_mask(t, s, segments, q.device) if segments is not None or 1 < t < s else None
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and t > 1)


def causal_mask(t: int, s: int, segments: Tensor | None, device: torch.device) -> Tensor:
    """Return a mask (T, S), or (B, 1, T, S) for segments (B, S), of the keys that the last `t` of `s` tokens may attend to."""
    causal = torch.ones(t, s, dtype=torch.bool, device=device).tril(diagonal=s - t)
    if segments is None:
        return causal
    return (causal & (segments[:, s - t :, None] == segments[:, None, :]))[:, None]
