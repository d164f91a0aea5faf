"""The form of a sonnet, which chrF does not see: 14 lines, rhymes ABAB CDCD EFEF GG, about ten syllables a line.

Rhyme and syllables follow the CMU Pronouncing Dictionary 0.7b, in the PyPI package `pronouncing`. What it does not know counts
neither way. Only what was written counts, not what was given: a writer that is silent scores 0.
"""

import functools
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gpt2core.errors import DataError
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric, named, share

GIVEN, LINES = 3, 14  # lines that are given, lines of a sonnet
RHYMES = ((0, 2), (1, 3), (4, 6), (5, 7), (8, 10), (9, 11), (12, 13))  # lines that rhyme in Shakespeare's scheme
SYLLABLES = range(9, 12)  # of a pentameter, with one more or one less

Phones = tuple[str, ...]


def _of_form(name: str, direction: Direction) -> Metric:
    return Metric(name=name, direction=direction, unit="", margin=0.05, counts=name, score=share, bounds=(0.0, 1.0))


#: Shares from 0 to 1, each of the counts of its own name.
FORM = named(
    _of_form("form_rhyme", Direction.MAX),
    _of_form("form_metre", Direction.MAX),
    _of_form("form_lines", Direction.MAX),
    _of_form("copied_lines", Direction.MIN),
)


def form_counts(given: Sequence[str], written: Sequence[Sequence[str]], train: Iterable[str]) -> dict[str, np.ndarray]:
    """Counts (outputs, N, 2) of the form of continuations, for `share`: how many have a property, and how many there are.

    `given` are the first lines of N sonnets, `written[i]` the N continuations of output i. Lines without a character are no
    lines; a word that the dictionary does not know leaves its pair or line out.

    `form_lines`: whole sonnets of 14 lines.
    `form_rhyme`: pairs of lines that rhyme, of the pairs whose second line was to be written; a missing line is no rhyme.
    `form_metre`: lines of 9 to 11 syllables, of the 11 that were asked for; a missing line is none of them.
    `copied_lines`: written lines that stand so in a training text.
    """
    known = {line for text in train for line in _lines(text)}
    rows: dict[str, list[list[tuple[int, int]]]] = {
        "form_lines": [],
        "form_rhyme": [],
        "form_metre": [],
        "copied_lines": [],
    }
    for texts in written:
        pairs = [(_lines(first), _lines(text)) for first, text in zip(given, texts, strict=True)]
        rows["form_lines"].append([(int(len(first) + len(own) == LINES), 1) for first, own in pairs])
        rows["form_rhyme"].append([_rhymes([*first, *own], len(first)) for first, own in pairs])
        rows["form_metre"].append([_metre(own[: LINES - GIVEN]) for _, own in pairs])
        rows["copied_lines"].append([(sum(line in known for line in own), len(own)) for _, own in pairs])
    return {name: np.array(counts, dtype=np.int64) for name, counts in rows.items()}


def rhyme_share(given: Sequence[str], texts: Sequence[str]) -> float:
    """`form_rhyme` alone, of one continuation of each sonnet."""
    pairs = [(_lines(first), _lines(text)) for first, text in zip(given, texts, strict=True)]
    return float(share(np.array([_rhymes([*first, *own], len(first)) for first, own in pairs]).sum(axis=0)))


def first_lines(text: str, count: int) -> str:
    """A text up to its `count`-th line with a character."""
    places = [place for place, line in enumerate(text.split("\n")) if line.strip()]
    return text if len(places) <= count else "\n".join(text.split("\n")[: places[count - 1] + 1])


def _rhymes(lines: Sequence[str], given: int) -> tuple[int, int]:
    """Pairs of Shakespeare's scheme that rhyme, and pairs that count, of those whose second line is behind the `given` ones."""
    rhymes = [_rhyme_of(lines, a, b) for a, b in RHYMES if b >= given]
    return sum(one is True for one in rhymes), sum(one is not None for one in rhymes)


def _rhyme_of(lines: Sequence[str], a: int, b: int) -> bool | None:
    """Whether two of some lines rhyme; not where one is missing or has no word, None where a last word is not known."""
    if b >= len(lines) or not (_words(lines[a]) and _words(lines[b])):
        return False
    return rhyme(lines[a], lines[b])


def _metre(lines: Sequence[str]) -> tuple[int, int]:
    """Lines of 9 to 11 syllables, and how many of the 11 that were asked for count: all but those with an unknown word."""
    sums = [syllables(line) for line in lines]
    unknown = sum(not counts and bool(_words(line)) for counts, line in zip(sums, lines, strict=True))
    return sum(not counts.isdisjoint(SYLLABLES) for counts in sums), LINES - GIVEN - unknown


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
    pronunciations: dict[str, list[Phones]] = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.startswith(";;;"):
            word, phones = line.split("  ", 1)
            pronunciations.setdefault(re.sub(r"\(\d+\)$", "", word).lower(), []).append(tuple(phones.split()))
    return pronunciations


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
