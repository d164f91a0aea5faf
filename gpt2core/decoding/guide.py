"""Guides, which restrict and weight the tokens of a text by what it says so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gpt2core.tokenizer import Tokenizer

Weighted = tuple[np.ndarray, np.ndarray]  # tokens (K,), and what is added to their logits (K,)


class Guide(Protocol):
    """What restricts and weights the tokens of one text."""

    def weighted(self, new: Sequence[int]) -> Weighted | None:
        """Return the tokens that may follow some new tokens, with their weights; None if the text is complete."""
        ...


#: (tokenizer, prompt) -> the guide of one text.
MakeGuide = Callable[[Tokenizer, Sequence[int]], Guide]


def weights(rows: Mapping[int, tuple[Guide, Sequence[int]]], like: Tensor) -> tuple[Tensor, list[int]]:
    """Return what is added to logits `like` (B, V), given guide and new tokens of some rows, and which rows are complete.

    Nothing is added to the logits of other rows, and of complete ones.
    """
    added, complete = torch.zeros(like.shape), []
    for row, (guide, new) in rows.items():
        weighted = guide.weighted(new)
        if weighted is None:
            complete.append(row)
        else:
            added[row] = -torch.inf
            added[row, weighted[0]] = torch.from_numpy(weighted[1]).float()
    return added.to(like.device), complete
