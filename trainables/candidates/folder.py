"""The folder of a job: its lock, its manifest, and its results: course.tsv and the data card."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.acceptance import CLASSES, TEXTS
from gpt2core.distill.card import card, measure
from gpt2core.distill.manifest import MANIFEST, ReportedRound, validated_rounds
from gpt2core.distill.shards import ACCEPTED, FILTERED, NEGATIVES, PAIRS, read, shards_in
from gpt2core.errors import DataError, UserError, shown
from gpt2core.files import atomic_path, lock, read_json, write_json
from gpt2core.lease import Lease, LeaseKeeper
from gpt2core.storage import address, fetch, is_copy, send

VERSION = 1  # of the manifest
CARD, COURSE, LOCK, OWNER = "README.md", "course.tsv", ".lock", "owner.json"
#: Of a folder of generated pairs: name -> content.
FILES = {
    f"{ACCEPTED}/": "accepted pairs (Parquet): the course's columns, scores and lineage",
    f"{NEGATIVES}/": "hard negatives, with the same columns",
    COURSE: "both in the format of the course's Quora files",
    CARD: "data card: sources, settings, measures, examples",
    MANIFEST: "the settings, counts and shards of each round",
    "contexts/": "sentences that the teacher continued",
    "candidates/": "their continuations",
    "pairs/": "pairs of candidates with their scores",
    "judged/": "all pairs, with the reason why one was rejected",
    "quarantine/": "rows that could not be used",
    "students/": "the student of each round, with `--rounds`",
    LOCK: "held while a job writes to the folder",
    OWNER: "the machine that writes to it, if the folder is in a bucket",
}

#: Folders that this process has locked -> their lease, if they are in remote storage.
_HELD: dict[Path, LeaseKeeper | None] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other jobs; raise UserError if another job holds it. The lock ends with the process.

    A process may lock a folder again while it holds the lock.
    """
    if folder in _HELD:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None
    with file:
        try:
            lock(file)
        except BlockingIOError:
            raise UserError(f"{folder}: another job writes to it; wait for its end, or choose another --out") from None
        _HELD[folder] = _lease(folder, file) if is_copy(folder) else None
        try:
            yield
        finally:
            kept = _HELD.pop(folder)
            if kept is not None:
                kept.close()


def _lease(folder: Path, file: IO[str]) -> LeaseKeeper:
    """Lock a folder against jobs on other machines too; raise UserError if one holds it."""
    lease = Lease(folder / OWNER, file, folder, lambda text: print(text, file=sys.stderr, flush=True))
    lease.claim(f"{address(folder)}: a job on another machine writes to it ({{}}); choose another --out")
    return LeaseKeeper(lease)


def check_lease(folder: Path) -> None:
    """Raise UserError if a job on another machine has taken the folder over."""
    kept = _HELD.get(folder)
    if kept is not None and kept.lost:
        raise UserError(f"{address(folder)}: a job on another machine has taken it over; resume when that job ends")


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, without rounds if there is no file; raise UserError if it is damaged."""
    path = folder / MANIFEST
    fetch(path)
    if not path.exists():
        return {"version": VERSION, "rounds": []}
    try:
        values = read_json(path)
        version = values.get("version")
        rounds = validated_rounds(path, values, ReportedRound) if version == VERSION else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise UserError(f"{path}: is damaged; remove it, and run the same command again ({error})") from None
    if version != VERSION:
        raise UserError(f"{path}: its version is {shown(version)}, but must be {VERSION}; choose another --out")
    return {"version": version, "rounds": rounds}


def write_manifest(folder: Path, rounds: list[dict[str, Any]]) -> None:
    """Write the manifest; raise UserError if a job on another machine has taken the folder over."""
    check_lease(folder)
    write_json(folder / MANIFEST, {"version": VERSION, "rounds": rounds})
    send(folder / MANIFEST)


def remove_results(folder: Path) -> None:
    """Remove course.tsv and the card, before the accepted pairs change."""
    for name in (CARD, COURSE):
        (folder / name).unlink(missing_ok=True)


def write_results(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Write course.tsv and the data card for the rounds of the manifest, if any; return the rounds and the card.

    Raises UserError, OSError.
    """
    rounds = manifest(folder)["rounds"]
    if not rounds:
        return [], ""
    for stage in (*CLASSES, "judged"):
        fetch(folder / stage)
    _write_course(folder)
    measures = measure(read(path, PAIRS) for path in shards_in(folder / ACCEPTED))
    text = card(rounds, measures, [_examples(folder, entry) for entry in rounds])
    with atomic_path(folder / CARD) as part:
        part.write_text(text, encoding="utf-8")
    for name in (CARD, COURSE):
        send(folder / name)
    return rounds, text


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
