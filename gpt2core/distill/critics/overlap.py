"""Lexical overlap: which share of a hypothesis's words its premise has. It needs no model."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from gpt2core.distill.text import words

#: Words without content of their own. Negations have content.
STOP_WORDS = frozenset(
    words(
        "a an the and or but if of to in on at by for with from as is are was were be been being am do does did has have had "
        "i you he she it we they me him her us them my your his its our their this that these those there here what which "
        "who whom how when where why can could will would shall should may might must s m d ll re ve"
    )
)


class Overlap:
    """Scores the share of the hypothesis's content words that are in the premise: 1 for a sentence and any part of it."""

    stand_in = "lexical overlap, a stand-in for entailment: it compares words, not meaning"

    def __init__(self) -> None:
        digest = hashlib.sha256(" ".join(sorted(STOP_WORDS)).encode()).hexdigest()
        self.identity: Mapping[str, str] = {"critic": "overlap", "model": "none", "digest": digest}

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return shares (N,), 0 to 1, of the distinct content words; 0 for a hypothesis without any word."""
        return np.array([_share(*pair) for pair in zip(premises, hypotheses, strict=True)], dtype=np.float64)


def _share(premise: str, hypothesis: str) -> float:
    distinct = set(words(hypothesis))
    content = distinct - STOP_WORDS or distinct  # all words of `That is it` are stop words
    return len(content & set(words(premise))) / len(content) if content else 0.0
