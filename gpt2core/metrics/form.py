"""The form of a sonnet, which chrF does not see: 14 lines, rhymes ABAB CDCD EFEF GG, about ten syllables a line.

Rhyme and syllables follow the CMU Pronouncing Dictionary 0.7b, in the PyPI package `pronouncing`. What it does not know counts
neither way.
"""

import functools
import importlib.util
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from gpt2core.errors import DataError

LINES = 14
RHYMES = ((0, 2), (1, 3), (4, 6), (5, 7), (8, 10), (9, 11), (12, 13))  # lines that rhyme in Shakespeare's scheme
SYLLABLES = range(9, 12)  # of a pentameter, with one more or one less

Phones = tuple[str, ...]


def form(sonnets: Sequence[str], train: Iterable[str]) -> dict[str, float]:
    """Shares from 0 to 1, over all of some whole sonnets.

    `form_lines`: sonnets of 14 lines. `form_rhyme`: rhyming pairs of lines, of those whose last words are known.
    `form_metre`: lines of 9 to 11 syllables, of those whose words are known. `distinct_2`: different pairs of words that
    follow each other, of all such pairs. `copied_lines`: lines that stand so in a training text.
    """
    lines = [_lines(text) for text in sonnets]
    known = {line for text in train for line in _lines(text)}
    metres = [syllables(line) for own in lines for line in own]
    bigrams = [pair for own in lines for pair in pairwise(_words("\n".join(own)))]
    return {
        "form_lines": float(np.mean([len(own) == LINES for own in lines])),
        "form_rhyme": rhyme_share(sonnets),
        "form_metre": _share([not counts.isdisjoint(SYLLABLES) for counts in metres if counts]),
        "distinct_2": len(set(bigrams)) / max(1, len(bigrams)),
        "copied_lines": _share([line in known for own in lines for line in own]),
    }


def rhyme_share(sonnets: Sequence[str]) -> float:
    """`form_rhyme` alone: the share of the pairs of lines in Shakespeare's scheme that rhyme."""
    rhymes = [rhyme(own[a], own[b]) for own in map(_lines, sonnets) for a, b in RHYMES if b < len(own)]
    return _share([found for found in rhymes if found is not None])


def rhyme(a: str, b: str) -> bool | None:
    """Whether two lines end in a perfect rhyme of two different words; None where a last word is not known."""
    words = [_words(line)[-1:] for line in (a, b)]
    if not all(words):
        return None
    (first,), (second,) = words
    parts = [{_rhyming_part(phones) for phones in pronunciations().get(word, ())} for word in (first, second)]
    if not all(parts):
        return None
    return first != second and not parts[0].isdisjoint(parts[1])


def syllables(line: str) -> set[int]:
    """How many syllables a line may have; empty where a word is not known or there is none."""
    sums = {0}
    for word in _words(line):
        counts = {_vowels(phones) for phones in pronunciations().get(word, ())}
        sums = {before + count for before in sums for count in counts}
    return sums - {0}


@functools.cache
def pronunciations() -> dict[str, list[Phones]]:
    """The dictionary: the phones of each word, once for each way to say it; raise DataError where it is not installed."""
    spec = importlib.util.find_spec("pronouncing")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("The package `pronouncing` is not installed: `pip install --no-deps pronouncing==0.1.5`")
    path = Path(spec.submodule_search_locations[0]) / "cmudict-0.7b"
    found: dict[str, list[Phones]] = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.startswith(";;;"):
            word, phones = line.split("  ", 1)
            found.setdefault(re.sub(r"\(\d+\)$", "", word).lower(), []).append(tuple(phones.split()))
    return found


def _rhyming_part(phones: Phones) -> Phones:
    """The phones from the last stressed vowel on, without their stress; from the last vowel where none is stressed."""
    stressed = [place for place, phone in enumerate(phones) if phone[-1] in "12"]
    vowels = [place for place, phone in enumerate(phones) if phone[-1].isdigit()]
    start = (stressed or vowels or [0])[-1]
    return tuple(phone.rstrip("012") for phone in phones[start:])


def _vowels(phones: Phones) -> int:
    return sum(phone[-1].isdigit() for phone in phones)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("\u2019", "'"))


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0
