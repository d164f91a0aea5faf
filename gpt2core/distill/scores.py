"""Scores of a pair of sentences, which filters read: length ratio, ROUGE-L, numbers, and entailment by the critic."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from text_to_num import alpha2digit

from gpt2core.distill.critics import Critic
from gpt2core.distill.text import words
from gpt2core.errors import UserError

STAGE = "pairs"


def length_ratio(x: str, y: str) -> float:
    """Characters of `y` in units of those of `x`; infinite where `x` has none."""
    return len(y) / len(x) if x else float("inf")


def rouge_l(x: str, y: str) -> float:
    """ROUGE-L, 0 to 1: the F-measure (beta 1) of the longest common subsequence of words (Lin 2004, section 3).

    With L its length, 2 L / (words of x + words of y). Of two texts without words it is 1: nothing tells them apart.
    """
    first, second = words(x), words(y)
    if not first and not second:
        return 1.0
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second))


#: `.5`, `1,000.5`, `12.25`.
_NUMBER = re.compile(r"(?<![\w.])\.\d+|\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")
_HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011", "-"))


@functools.lru_cache(maxsize=4096)  # a sentence is in a pair with each other one of its context
def numbers(text: str) -> frozenset[str]:
    """The numbers that a text names, in digits: `1,000`, `1000.0` and `one thousand` are all `1000`.

    Words are read as the library text2num has it: `the second` is a 2 too. `one` is a pronoun as a rule, so alone it is not
    read; nor are signs, which look like hyphens.
    """
    digits = alpha2digit(text.translate(_HYPHENS), "en", threshold=2)
    return frozenset(_plain(found) for found in _NUMBER.findall(digits))


def _plain(digits: str) -> str:
    """Digits without separators and zeros that say nothing. No int: it would refuse thousands of them."""
    whole, _, part = digits.replace(",", "").partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def numbers_within(x: str, y: str) -> bool:
    """Whether `y` names every number that `x` names."""
    return numbers(x) <= numbers(y)


def same_numbers(x: str, y: str) -> bool:
    """Whether both name the same numbers, however often."""
    return numbers_within(x, y) and numbers_within(y, x)


def score_pairs(pairs: Sequence[dict[str, Any]], critic: Critic) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of the schema PAIRS, with `critic` the mean of both directions, and rows of QUARANTINE.

    `pairs` have id, context, round, first, second, sentence1 and sentence2. A pair that the critic raises on, or gives a score
    that is not 0 to 1, goes to quarantine alone: all others are scored.
    """
    scored, bad = [], []
    for pair, found in zip(pairs, _entailment(pairs, critic), strict=True):
        if isinstance(found, Exception):
            bad.append(_unusable(pair, found))
        else:
            scored.append(_measured(pair, *found))
    return scored, bad


def _measured(pair: dict[str, Any], forward: float, backward: float) -> dict[str, Any]:
    x, y = pair["sentence1"], pair["sentence2"]
    return pair | {
        "length_ratio": length_ratio(x, y),
        "forward": forward,
        "backward": backward,
        "rouge_l": rouge_l(x, y),
        "numbers": same_numbers(x, y),
        "critic": (forward + backward) / 2,
    }


def _unusable(pair: dict[str, Any], error: Exception) -> dict[str, Any]:
    text = f"{pair['sentence1']}\n{pair['sentence2']}"
    return {"stage": STAGE, "id": pair["id"], "text": text, "error": f"{type(error).__name__}: {error}"}


Found = tuple[float, float] | Exception


def _entailment(pairs: Sequence[dict[str, Any]], critic: Critic) -> list[Found]:
    """Entailment in both directions of each pair, or its error. A batch that raises is halved down to the row that does."""
    if not pairs:
        return []
    try:
        scores = _both_directions(pairs, critic)
    except Exception as error:
        if _of_no_row(error):
            raise
        if len(pairs) == 1:
            return [error]
    else:
        return [_checked(*row) for row in scores.tolist()]
    half = len(pairs) // 2
    return _entailment(pairs[:half], critic) + _entailment(pairs[half:], critic)


def _of_no_row(error: Exception) -> bool:
    """Whether an error is of no single row: too little memory, a broken accelerator, a wrong configuration."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError | UserError)


def _both_directions(pairs: Sequence[dict[str, Any]], critic: Critic) -> np.ndarray:
    """Scores (N, 2), forward and backward, of one call: a critic that knows a sentence already reads it once."""
    first, second = ([pair[side] for pair in pairs] for side in ("sentence1", "sentence2"))
    return np.asarray(critic.entailment(first + second, second + first), dtype=np.float64).reshape(2, len(pairs)).T


def _checked(forward: float, backward: float) -> Found:
    if 0 <= forward <= 1 and 0 <= backward <= 1:
        return forward, backward
    return ValueError(f"The critic's scores are {forward} and {backward}, but must be 0 to 1")
