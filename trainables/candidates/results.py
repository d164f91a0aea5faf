"""The results of a job besides its shards: course.tsv and the data card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.acceptance import CLASSES, TEXTS
from gpt2core.distill.card import card, measure
from gpt2core.distill.shards import ACCEPTED, FILTERED, PAIRS, read, shards_in
from gpt2core.errors import DataError, shown
from gpt2core.files import atomic_path
from gpt2core.storage import fetch, send

CARD, COURSE = "README.md", "course.tsv"


def remove_results(folder: Path) -> None:
    """Remove course.tsv and the card, before the accepted pairs change."""
    for name in (CARD, COURSE):
        (folder / name).unlink(missing_ok=True)


def write_results(folder: Path, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Write course.tsv and the card for the `rounds` of the manifest; return the card.

    Raises DataError, OSError, StorageError.
    """
    for stage in (*CLASSES, "judged"):
        fetch(folder / stage)
    _write_course(folder)
    measures = measure(read(path, PAIRS) for path in shards_in(folder / ACCEPTED))
    text = card(rounds, measures, [_examples(folder, entry) for entry in rounds])
    with atomic_path(folder / CARD) as part:
        part.write_text(text, encoding="utf-8")
    for name in (CARD, COURSE):
        send(folder / name)
    return text


def _write_course(folder: Path) -> None:
    """Write course.tsv: all accepted pairs, then all hard negatives, in the columns of the course's Quora files.

    White space is collapsed, because the format has no quotes for tabs and line breaks.
    """
    schema = pa.schema([PAIRS.field(name) for name in TEXTS])
    with atomic_path(folder / COURSE) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write("\tid\tsentence1\tsentence2\tis_duplicate\n")
        number = 0
        for name, label in CLASSES.items():
            for shard in shards_in(folder / name):
                for row in read(shard, schema).select(TEXTS).to_pylist():
                    texts = (" ".join(text.split()) for text in row.values())
                    file.write("\t".join([str(number), *texts, f"{label}.0"]) + "\n")
                    number += 1


def _examples(folder: Path, entry: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return a round's example rows by reason: accepted rows first, then in the order of the filters."""
    names = [name for name in dict.fromkeys([ACCEPTED, *entry["pairs"]["reasons"]]) if name in entry["examples"]]
    return {name: [_row(folder / "judged" / file, id) for file, id in entry["examples"][name]] for name in names}


def _row(path: Path, id: str) -> dict[str, Any]:
    table = read(path, FILTERED)
    rows = table.filter(pc.equal(table["id"], id)).to_pylist()
    if not rows:
        raise DataError(f"{path}: has no row {shown(id)}, which the manifest names; run the same command again")
    return dict(rows[0])
