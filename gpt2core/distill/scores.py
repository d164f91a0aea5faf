"""What is measured of a pair of sentences before anything is decided: lengths, shared words, numbers, the critic's opinion."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq

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


_SMALL = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
_BELOW_HUNDRED = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}

#: `.5`, `1,000.5`, `12.25`; or letters in a run.
_TOKEN = re.compile(r"(?<![\w.])\.\d+|\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+")


#: What may stand between words of one number: spaces and hyphens.
_JOINING = " \t\n-\u2010\u2011\u00a0"


def numbers(text: str) -> set[str]:
    """The numbers that a text names, in digits: `1,000`, `1000.0`, `one thousand` and `1 thousand` are all `1000`.

    A sign is not read, for it looks like a hyphen; neither are ordinals in words and Roman numerals.
    """
    found = set()
    for run in _runs(text.casefold()):
        while run:
            value, used = _first_number(run)
            if value is not None:
                found.add(value)
            run = run[used:]
    return found


def numbers_within(x: str, y: str) -> bool:
    """Whether `y` names every number that `x` names."""
    return numbers(x) <= numbers(y)


def same_numbers(x: str, y: str) -> bool:
    """Whether both name the same numbers, however often."""
    return numbers_within(x, y) and numbers_within(y, x)


def _runs(text: str) -> Iterator[list[str]]:
    """Words and numbers with nothing but spaces and hyphens between them: a comma ends a number in words."""
    run: list[str] = []
    end = 0
    for match in _TOKEN.finditer(text):
        if text[end : match.start()].strip(_JOINING):
            yield run
            run = []
        run.append(match.group())
        end = match.end()
    yield run


def _first_number(run: list[str]) -> tuple[str | None, int]:
    """The number that a run starts with, None if it starts with none, and how many words were read."""
    if run[0][-1].isdigit():
        value, used = _plain(run[0]), 1
        while zeros := _POWERS.get(run[used], 2 * (run[used] == "hundred")) if used < len(run) else 0:
            value, used = _with_zeros(value, zeros), used + 1
        return value, used
    spoken, used = _spoken(run)
    return (str(spoken), used) if used else (None, 1)


def _plain(digits: str) -> str:
    """Digits without separators and zeros that say nothing. No int: it would refuse thousands of them."""
    whole, _, part = digits.replace(",", "").partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def _with_zeros(number: str, zeros: int) -> str:
    """The number times 10^zeros."""
    whole, _, part = number.partition(".")
    part = part.ljust(zeros, "0")
    return _plain(f"{whole}{part[:zeros]}.{part[zeros:]}")


def _spoken(run: list[str]) -> tuple[int, int]:
    """The number in words that a run starts with, and how many words it takes; no word where there is none.

    Groups below a thousand, each with a smaller power of ten than the one before: `two million three hundred thousand and
    five`. `and` joins what can be one number, so `two and three` are two.
    """
    total, used, largest = 0, 0, float("inf")
    while True:
        start = used + 1 if used and run[used : used + 1] == ["and"] else used
        group, end = _below_thousand(run, start)
        if end == start and not used and run[0] in _POWERS:
            group = 1
        zeros = _POWERS.get(run[end], 0) if end < len(run) else 0
        if (end == start and not (group and zeros)) or zeros >= largest:
            return total, used
        total, used, largest = total + group * 10**zeros, end + (zeros > 0), zeros
        if not zeros:
            return total, used


def _below_thousand(run: list[str], start: int) -> tuple[int, int]:
    """A number below 10,000 in words, as `seven`, `forty-two` or `twelve hundred and six`, and where it ends."""
    value, end = _below_hundred(run, start)
    if run[end : end + 1] != ["hundred"] or (end > start and not value):
        return value, end
    value, end = 100 * (value or 1), end + 1
    more = end + 1 if run[end : end + 1] == ["and"] else end
    rest, stop = _below_hundred(run, more)
    # `five hundred and six hundred` are two numbers.
    return (value + rest, stop) if rest and run[stop : stop + 1] != ["hundred"] else (value, end)


def _below_hundred(run: list[str], start: int) -> tuple[int, int]:
    """A number of one or two words, and where it ends; where it starts if there is none."""
    first, *more = [_BELOW_HUNDRED.get(word) for word in run[start : start + 2]] or [None]
    if first is None:
        return 0, start
    second = more[0] if more else None
    return (first + second, start + 2) if first >= 20 and second and second < 10 else (first, start + 1)


def score_pairs(pairs: Sequence[dict[str, Any]], critic: Critic) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of the schema PAIRS, with `critic` the mean of both directions, and rows of QUARANTINE.

    `pairs` have id, context, round, first, second, sentence1 and sentence2. A pair that the critic raises on, or gives a score
    that is not 0 to 1, goes to quarantine alone: all others are judged.
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
    """Both directions of each pair, or what is wrong with it. A batch that raises is halved until the row is found."""
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
    """Whether an error would come with any row: too little memory, a broken accelerator, a wrong configuration."""
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
