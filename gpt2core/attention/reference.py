"""The slow, obvious attention that every kernel is compared with."""

import math
from collections.abc import Container

import torch
from torch import Tensor


def reference(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, pattern: Container[int] | None = None
) -> Tensor:
    """Attend to earlier keys, at the distances in `pattern` if given, with an explicit T x S matrix; see `attention.Attend`."""
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
