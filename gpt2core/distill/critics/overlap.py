"""Lexical overlap: how much of a hypothesis its premise says in the same words. It needs no model."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from gpt2core.distill.text import words
from gpt2core.errors import ConfigError

#: Words that say little of what a sentence is about. Negations are none of them.
STOP_WORDS = frozenset(
    words(
        "a an the and or but if of to in on at by for with from as is are was were be been being am do does did has have had "
        "i you he she it we they me him her us them my your his its our their this that these those there here what which "
        "who whom how when where why can could will would shall should may might must s m d ll re ve"
    )
)


class Overlap:
    """The share of the hypothesis's content words that the premise has: 1 for a sentence and any shortening of it."""

    stand_in = "lexical overlap, a stand-in for entailment: it knows no meaning, only which words two sentences share"

    def __init__(self, model: str | None = None) -> None:
        if model is not None:
            raise ConfigError(f"The value of `--critic-model` is {model!r}, but the critic `overlap` takes no model")
        digest = hashlib.sha256(" ".join(sorted(STOP_WORDS)).encode()).hexdigest()
        self.identity: Mapping[str, str] = {"critic": "overlap", "model": "none", "digest": digest}

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return (N,) shares, 0 to 1, of the distinct content words; 0 for a hypothesis that has no word at all."""
        return np.array([_share(*pair) for pair in zip(premises, hypotheses, strict=True)], dtype=np.float64)


def _share(premise: str, hypothesis: str) -> float:
    said = set(words(hypothesis))
    said = said - STOP_WORDS or said  # of `That is it` nothing would be left
    return len(said & set(words(premise))) / len(said) if said else 0.0
