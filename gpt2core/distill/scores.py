"""Scores of sentence pairs, which the filters read: length ratio, ROUGE-L, numbers, and entailment by the critic."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from text_to_num import alpha2digit

from gpt2core.distill.critics import Critic
from gpt2core.errors import UserError
from gpt2core.metrics.rouge import rouge_l

Record = dict[str, Any]
Scores = tuple[float, float] | Exception  # forward and backward entailment of a pair, or why it has none

#: `.5`, `1,000.5`, `12.25`.
_NUMBER = re.compile(r"(?<![\w.])\.\d+|\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")
_HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011", "-"))


@functools.lru_cache(maxsize=4096)  # each sentence is in several pairs of its context
def numbers(text: str) -> frozenset[str]:
    """Return the numbers that a text names, in digits: `1,000`, `1000.0` and `one thousand` are all `1000`.

    The library text2num reads number words; `the second` is a 2 too. Not read are `one` alone, usually a pronoun, and signs,
    which look like hyphens.
    """
    digits = alpha2digit(text.translate(_HYPHENS), "en", threshold=2)
    return frozenset(_plain(number) for number in _NUMBER.findall(digits))


def _plain(digits: str) -> str:
    """Remove separators and insignificant zeros, without int(), which refuses numbers of thousands of digits."""
    whole, _, part = digits.replace(",", "").partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def score_pairs(pairs: Sequence[Record], critic: Critic) -> tuple[list[Record], list[Record]]:
    """Return rows of the schema PAIRS, whose `critic` is the mean of both directions, and rows of QUARANTINE.

    `pairs` have id, context, round, first, second, sentence1 and sentence2. A pair goes to quarantine if the critic raises on
    it or gives it a score that is not 0 to 1; all other pairs are scored.
    """
    scored, bad = [], []
    for pair, scores in zip(pairs, _entailment(pairs, critic), strict=True):
        x, y = pair["sentence1"], pair["sentence2"]
        if not isinstance(scores, Exception) and not all(0 <= score <= 1 for score in scores):
            scores = ValueError(f"The critic's scores are {scores[0]} and {scores[1]}, but must be 0 to 1")
        if isinstance(scores, Exception):
            error = f"{type(scores).__name__}: {scores}"
            bad.append({"stage": "pairs", "id": pair["id"], "text": f"{x}\n{y}", "error": error})
            continue
        forward, backward = scores
        row = {
            "length_ratio": len(y) / len(x) if x else float("inf"),
            "forward": forward,
            "backward": backward,
            "rouge_l": rouge_l(x, y),
            "numbers": numbers(x) == numbers(y),
            "critic": (forward + backward) / 2,
        }
        scored.append(pair | row)
    return scored, bad


def _entailment(pairs: Sequence[Record], critic: Critic) -> list[Scores]:
    """Return the entailment of each pair in both directions, or its error; a batch that raises is halved to find the pair."""
    if not pairs:
        return []
    first, second = ([pair[side] for pair in pairs] for side in ("sentence1", "sentence2"))
    try:
        both = critic.entailment(first + second, second + first)  # one call, so that a critic can encode each text once
        scores = np.asarray(both, dtype=np.float64).reshape(2, len(pairs)).T
    except Exception as error:
        import torch  # takes a second

        if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError | UserError):
            raise  # concerns no single pair
        if len(pairs) == 1:
            return [error]
    else:
        return [(forward, backward) for forward, backward in scores.tolist()]
    half = len(pairs) // 2
    return _entailment(pairs[:half], critic) + _entailment(pairs[half:], critic)
