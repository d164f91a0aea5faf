"""Parquet shards: the columns of each stage, and files named by all that decides them, so that none is made twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt2core.errors import DataError, first_line
from gpt2core.files import atomic_path, readable
from gpt2core.storage import fetch, local, send

CONTEXTS = pa.schema([("context", pa.string()), ("prefix", pa.string()), ("text", pa.string())])

#: `reason` says why a candidate takes part in no pair; `text` is its first sentence, or all of it where it has none.
CANDIDATES = pa.schema(
    [
        ("context", pa.string()),
        ("number", pa.int32()),
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("reason", pa.string()),
    ]
)

#: `first` and `second` are numbers of candidates; -1 is the context itself.
PAIRS = pa.schema(
    [
        ("id", pa.string()),
        ("context", pa.string()),
        ("round", pa.int32()),
        ("first", pa.int32()),
        ("second", pa.int32()),
        ("sentence1", pa.string()),
        ("sentence2", pa.string()),
        ("length_ratio", pa.float64()),
        ("forward", pa.float64()),  # sentence1 entails sentence2
        ("backward", pa.float64()),
        ("rouge_l", pa.float64()),
        ("numbers", pa.bool_()),  # whether both name the same ones
        ("critic", pa.float64()),
    ]
)

#: Filtered pairs: the component of mutual entailment, as `reason` the first filter that rejected, null for none, and of pairs
#: without a reason the keys by which near duplicates in other contexts are found.
FILTERED = pa.schema([*PAIRS, ("component", pa.int64()), ("reason", pa.string()), ("bands", pa.list_(pa.uint64()))])

#: Rows that a stage could not use. `id` is a context's, a candidate's or a pair's.
QUARANTINE = pa.schema([("stage", pa.string()), ("id", pa.string()), ("text", pa.string()), ("error", pa.string())])


#: The stages in order, with what each writes. Filtered pairs are in a folder `judged`.
STAGES = {"contexts": CONTEXTS, "candidates": CANDIDATES, "pairs": PAIRS, "judged": FILTERED}
ACCEPTED, NEGATIVES = "accepted", "negatives"  # the folders that a round ends with

NOTHING = pa.schema([])
MAY_LACK = ("reason", "bands")  # columns that have no value in some rows
MOST_ROWS, MOST_BYTES = 10**7, 2**34  # of one file, unpacked


def address(stage: str, **deciding: Any) -> str:
    """SHA-256 of all that decides a shard: JSON values, among them this digest of the shard that it is made from."""
    return hashlib.sha256(json.dumps({"stage": stage, **deciding}, sort_keys=True).encode()).hexdigest()


def code_version(*modules: ModuleType) -> str:
    """SHA-256 of the source of some modules, or of all modules of a package."""
    digest = hashlib.sha256()
    for module in modules:
        place = Path(str(module.__file__))
        files = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Shard:
    """The result of one stage for one part of the contexts."""

    place: str  # the job's folder, or its address
    stage: str
    round: int
    number: int
    address: str

    @property
    def path(self) -> Path:
        """The file of its rows."""
        return local(self.place) / self.stage / f"r{self.round}-{self.number:05d}-{self.address[:16]}.parquet"

    @property
    def quarantine(self) -> Path:
        """The file of the rows that the stage could not use; there is none where all were usable."""
        return local(self.place) / "quarantine" / f"{self.stage}-{self.path.name}"

    def exists(self) -> bool:
        """Whether its file is there and complete; it is fetched where another machine wrote it."""
        if not is_whole(self.path):
            fetch(self.quarantine)
            fetch(self.path)
        return is_whole(self.path)

    def write(
        self, rows: Sequence[dict[str, Any]] | pa.Table, schema: pa.Schema, bad: Sequence[dict[str, Any]]
    ) -> None:
        """Write the quarantine, then the rows: where the shard is there, all that belongs to it is."""
        if bad:
            write(self.quarantine, pa.Table.from_pylist(list(bad), QUARANTINE))
            send(self.quarantine)
        write(self.path, rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema))
        send(self.path)

    def read(self) -> pa.Table:
        """Return its rows, fetched where another machine wrote them."""
        self.exists()
        return read(self.path)


def write(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, whole or not at all."""
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd")


def read(path: Path, needed: pa.Schema = NOTHING) -> pa.Table:
    """Read a Parquet file; raise DataError where it is damaged, or does not have the columns that are `needed`.

    One process may read while others write, so no descriptor is shared.
    """
    try:
        with pq.ParquetFile(readable(path), memory_map=False) as file:
            _check_size(path, file.metadata)
            table = file.read()
        table.validate(full=True)
    except OSError as error:
        if error.errno is not None:  # else it is of what the file holds
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        raise DataError(f"{path}: is no whole Parquet file ({first_line(error)})") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no whole Parquet file ({first_line(error)})") from None
    _check_columns(path, table, needed)
    return table


def _check_size(path: Path, about: pq.FileMetaData) -> None:
    """Raise DataError for what no memory could hold."""
    size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if about.num_rows > MOST_ROWS or size > MOST_BYTES:
        raise DataError(
            f"{path}: has {about.num_rows:,} rows of {size:,} bytes, but must have at most {MOST_ROWS:,} of {MOST_BYTES:,}"
        )


def _check_columns(path: Path, table: pa.Table, needed: pa.Schema) -> None:
    for field in needed:
        if table.column_names.count(field.name) != 1 or table.schema.field(field.name).type != field.type:
            raise DataError(f"{path}: must have one column `{field.name}` of the type {field.type}")
        if field.name not in MAY_LACK and table[field.name].null_count:
            raise DataError(f"{path}: the column `{field.name}` must have a value in each row")


def shards_in(folder: Path) -> list[Path]:
    """The shards in a folder, by round and number."""
    return sorted(folder.glob("r*.parquet"), key=_place)


def remove_rounds(folder: Path, first: int) -> None:
    """Remove the shards of round `first` and of later ones."""
    for path in shards_in(folder):
        if _place(path)[0] >= first:
            path.unlink()


def _place(path: Path) -> tuple[int, int]:
    """Round and number of a shard, from its name."""
    round, number, *_ = path.stem.split("-")
    return int(round[1:]), int(number)


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in `folder` and the folders of the stages in it."""
    for part in (*folder.glob(".*.????????"), *folder.glob("*/.*.parquet.????????")):
        part.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a Parquet file is there and its footer, which is written last, can be read."""
    try:
        pq.read_metadata(readable(path))
    except PermissionError:
        raise  # it is there, and not to be made again
    except (OSError, pa.ArrowException):
        return False
    return True
