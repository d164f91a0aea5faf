"""Floors: chrF scores of sonnets that no model is needed for. A model's score says something only above them.

chrF here is corpus chrF without whitespace, so line ends and indentation do not count. `whole` scores the given lines
too; `continuation` scores what follows them alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.chrf import corpus_chrf
from gpt2core.metrics.form import rhyme_share

GIVEN, LINES = 3, 14  # lines that are given, lines of a sonnet

#: (number of the sonnet, its given text, all training texts, random numbers) -> a continuation.
Writer = Callable[[str, Sequence[str], np.random.Generator], str]


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What one way that needs no model scores: for each metric its mean and standard deviation over seeds."""

    meaning: str
    scores: dict[str, tuple[float, float]]


def split_given(text: str, lines: int = GIVEN) -> tuple[str, str]:
    """Split a sonnet into its first lines and its continuation."""
    parts = text.split("\n")
    return "\n".join(parts[:lines]), "\n".join(parts[lines:])


def _nothing(given: str, train: Sequence[str], random: np.random.Generator) -> str:
    return ""


def _last_repeated(given: str, train: Sequence[str], random: np.random.Generator) -> str:
    return "\n".join([given.split("\n")[-1]] * (LINES - GIVEN))


def _other_tail(given: str, train: Sequence[str], random: np.random.Generator) -> str:
    return split_given(train[int(random.integers(len(train)))])[1]


def _random_lines(count: int) -> Writer:
    def write(given: str, train: Sequence[str], random: np.random.Generator) -> str:
        lines = [line for text in train for line in text.split("\n")]
        return "\n".join(lines[i] for i in random.integers(len(lines), size=count))

    return write


WRITERS: dict[str, tuple[str, Writer]] = {
    "given_only": ("the 3 given lines only", _nothing),
    "last_line_repeated": ("given lines and the last one repeated", _last_repeated),
    "other_tail": ("given lines and the tail of another training sonnet", _other_tail),
    "random_lines": ("given lines and 11 random training lines", _random_lines(11)),
    "random_lines_15": ("given lines and 15 random training lines", _random_lines(15)),
}


def sonnet_floors(
    given: Sequence[str], gold: Sequence[str], train: Sequence[str], *, seeds: int = 20
) -> dict[str, Floor]:
    """Score every way of WRITERS on sonnets `gold` whose first lines are `given`, over `seeds` random seeds."""
    references = [split_given(text)[1] for text in gold]
    result = {}
    for name, (meaning, write) in WRITERS.items():
        whole, continuation, rhymes = [], [], []
        for seed in range(seeds if name not in ("given_only", "last_line_repeated") else 1):
            random = np.random.default_rng(seed)
            texts = [write(text, train, random) for text in given]
            sonnets = [f"{g}\n{t}" for g, t in zip(given, texts, strict=True)]
            whole.append(corpus_chrf(sonnets, gold))
            rhymes.append(rhyme_share(sonnets))
            continuation.append(corpus_chrf(texts, references))
        scores = {"chrf_continuation": continuation, "chrf_whole": whole, "form_rhyme": rhymes}
        found = {metric: (float(np.mean(values)), float(np.std(values))) for metric, values in scores.items()}
        result[name] = Floor(meaning=meaning, scores=found)
    return result
