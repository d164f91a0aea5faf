"""The slow, obvious attention that every kernel is compared with."""

import math
from collections.abc import Container

import torch
from torch import Tensor


def reference(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, pattern: Container[int] | None = None
) -> Tensor:
    """Return causal attention (Radford et al. 2019, GPT-2) with an explicit T x S matrix; shapes as in `attention.Attend`.

    A query attends to earlier keys at the distances in `pattern`; None is all.
    """
    b, _, t, _ = q.shape
    s = k.shape[-2]
    mask = torch.zeros(b, 1, t, s, dtype=torch.bool, device=q.device)
    for row in range(b):
        for query in range(t):
            own = s - t + query
            for key in range(own + 1):
                near = pattern is None or own - key in pattern
                mask[row, 0, query, key] = near and (segments is None or segments[row, own] == segments[row, key])
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1) @ v
