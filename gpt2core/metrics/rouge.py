"""ROUGE-L (Lin 2004), and exact matches, of generated texts."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

from gpt2core.distill.text import words


def rouge_l(x: str, y: str) -> float:
    """Return ROUGE-L, 0 to 1: the F-measure (beta 1) of the longest common subsequence of words (Lin 2004, section 3).

    If L is its length, ROUGE-L is 2 L / (words of x + words of y). It is 1 for two texts without words.
    """
    first, second = words(x), words(y)
    if not first and not second:
        return 1.0
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second))


def rouge_counts(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return counts (N, 2) for `percent`: the ROUGE-L of each text, and 1."""
    return np.array([(rouge_l(x, y), 1.0) for x, y in zip(hypotheses, references, strict=True)])


def match_counts(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return counts (N, 2) for `percent`: whether each text equals its reference up to white space, and 1."""
    return np.array([(x.split() == y.split(), 1) for x, y in zip(hypotheses, references, strict=True)], dtype=np.uint8)
