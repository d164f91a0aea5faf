"""The slow, obvious attention that every kernel is compared with."""

import math

import torch
from torch import Tensor


def reference(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None) -> Tensor:
    """Scores, mask, softmax, weighted sum, with the T x S matrix written out (Radford et al. 2019, GPT-2)."""
    b, _, t, _ = q.shape
    s = k.shape[-2]
    mask = torch.zeros(b, 1, t, s, dtype=torch.bool, device=q.device)
    for row in range(b):
        for query in range(t):
            for key in range(s - t + query + 1):
                mask[row, 0, query, key] = segments is None or segments[row, s - t + query] == segments[row, key]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1) @ v
