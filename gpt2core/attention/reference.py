"""The slow, obvious attention that every kernel is compared with."""

import math

import torch
from torch import Tensor


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scores, mask, softmax, weighted sum, with the T x S matrix written out (Radford et al. 2019, GPT-2)."""
    t, s = q.shape[-2], k.shape[-2]
    if mask is None:
        mask = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(diagonal=s - t)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1) @ v
