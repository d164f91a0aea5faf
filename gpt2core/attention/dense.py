"""Dense causal attention by PyTorch's fused kernel."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention of (B, H, T, D) queries over (B, H, S, D) keys; shapes as in `attention.Attend`."""
    causal = mask is None and q.shape[-2] > 1
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
