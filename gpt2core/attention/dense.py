"""Dense causal attention by PyTorch's fused kernel."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention of (B, H, T, D) queries over (B, H, S, D) keys; shapes as in `attention.Attend`."""
    t, s = q.shape[-2], k.shape[-2]
    if mask is None and 1 < t < s:  # the kernel's own causal mask lets the first query see the first key alone
        mask = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(diagonal=s - t)
    causal = mask is None and t > 1
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
