"""The end of a round: what is accepted of all judged shards, and hard negatives beside it, as Parquet files of their own."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.config import Thresholds
from gpt2core.distill.shards import JUDGED, PAIRS, Shard, read, remove_parts, write
from gpt2core.errors import DataError, shown
from gpt2core.files import atomic_path
from gpt2core.storage import fetch, send
from trainables.stages_on_ray import ACCEPTED, Tables

NEGATIVES = "negatives"
PARTS = {ACCEPTED: 1, NEGATIVES: 0}  # folder -> class of its pairs
LABEL = "is_duplicate"
EXAMPLES = 3  # of each reason
LINEAGE = ("context", "round", "first", "second")

#: The course's columns first, then where a pair is from, then its scores.
COLUMNS = (
    *("id", "sentence1", "sentence2", LABEL),
    *LINEAGE,
    *(name for name in PAIRS.names if name not in ("id", "sentence1", "sentence2", *LINEAGE)),
)


TEXTS = pa.schema([PAIRS.field(name) for name in COLUMNS[:3]])


def write_accepted(folder: Path, round: int, judged: Sequence[Shard], thresholds: Thresholds) -> dict[str, Any]:
    """Write accepted/ and negatives/ of a round, a file for each shard that has any; return counts and a digest.

    Files of this round and later ones are removed first, so that all files together are always one data set, and so is what
    killed processes left. One shard is in memory at a time, and of the accepted pairs of all others what `final_reasons` says.
    """
    from gpt2core.distill.accepting import EXACT, NEAR, final_reasons
    from gpt2core.distill.detection import hard_negatives
    from gpt2core.distill.filters import applied

    for part in PARTS:
        fetch(folder / part)
    remove_parts(folder)
    remove_from(folder, round)
    for shard in judged:
        shard.whole()  # fetches those that other machines judged
    tables = Tables([shard.path for shard in judged])
    reasons: Counter[str] = Counter()
    sizes: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    digest = hashlib.sha256()
    examples: dict[str, list[tuple[str, str]]] = {}
    for shard, table, column in zip(judged, tables, final_reasons(tables, round), strict=True):
        table = table.set_column(table.schema.get_field_index("reason"), "reason", column)
        reasons.update(reason or ACCEPTED for reason in column.to_pylist())
        _choose(examples, table.select(["id", "reason"]), shard.path.name)
        accepted = table.filter(pc.is_null(table["reason"]))
        chosen = {ACCEPTED: accepted, NEGATIVES: table.take(hard_negatives(table, len(accepted)))}
        for part, rows in chosen.items():
            sizes[part] += len(rows)
            if len(rows):
                write(folder / part / shard.path.name, labelled(rows, PARTS[part]))
        for row in accepted.select(["id", "sentence1", "sentence2"]).to_pylist():
            digest.update(json.dumps(list(row.values())).encode())
    for part in PARTS:
        send(folder / part)
    in_order = {reason: reasons[reason] for reason in (*applied(thresholds), EXACT, NEAR, ACCEPTED)}
    return {"reasons": in_order, **sizes, "digest": digest.hexdigest(), "examples": dict(sorted(examples.items()))}


def _choose(examples: dict[str, list[tuple[str, str]]], table: pa.Table, file: str) -> None:
    """Keep EXAMPLES of each reason, as the file and the id of each: those of the lowest hash, so from all over the data."""
    for reason in table["reason"].unique().to_pylist():
        ids = table.filter(pc.equal(pc.fill_null(table["reason"], ""), reason or ""))["id"].to_pylist()
        known = examples.setdefault(reason or ACCEPTED, [])
        places = [*known, *((file, name) for name in ids)]
        known[:] = sorted(places, key=lambda place: hashlib.sha256(place[1].encode()).digest())[:EXAMPLES]


def labelled(rows: pa.Table, label: int) -> pa.Table:
    """Judged pairs in COLUMNS, all of one class."""
    column = pa.array([label] * len(rows), pa.int8())
    return rows.append_column(LABEL, column).select(COLUMNS)


def files(folder: Path, part: str) -> list[Path]:
    """The files of a part, rounds and shards in order."""
    return sorted((folder / part).glob("r*.parquet"), key=_place)


def remove_from(folder: Path, round: int) -> None:
    """Remove the accepted pairs and negatives of a round and of those after it."""
    for part in PARTS:
        for path in files(folder, part):
            if _place(path)[0] >= round:
                path.unlink()


def _place(path: Path) -> tuple[int, int]:
    """Round and number of a file named like a shard."""
    round, number, *_ = path.stem.split("-")
    return int(round[1:]), int(number)


def write_course(folder: Path) -> Path:
    """Write course.tsv: all accepted pairs, then all negatives, in the columns of the course's Quora files; return its path.

    White space is collapsed, for such a file has no quotes that a tab or a line break could stand in.
    """
    path = folder / "course.tsv"
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write("\tid\tsentence1\tsentence2\tis_duplicate\n")
        number = 0
        for name, label in PARTS.items():
            for shard in files(folder, name):
                for row in read(shard, TEXTS).select(TEXTS.names).to_pylist():
                    texts = (" ".join(text.split()) for text in row.values())
                    file.write("\t".join([str(number), *texts, f"{label}.0"]) + "\n")
                    number += 1
    return path


def examples_of(folder: Path, entry: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows that a round of the manifest names as examples, by reason: accepted ones first, then in the filters' order."""
    names = [name for name in dict.fromkeys([ACCEPTED, *entry["pairs"]["reasons"]]) if name in entry["examples"]]
    return {name: [_row(folder / "judged" / file, id) for file, id in entry["examples"][name]] for name in names}


def _row(path: Path, id: str) -> dict[str, Any]:
    table = read(path, JUDGED)
    found = table.filter(pc.equal(table["id"], id)).to_pylist()
    if not found:
        raise DataError(f"{path}: there is no row {shown(id)}, which the manifest names")
    return dict(found[0])
