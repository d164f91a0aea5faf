"""Parquet shards: the columns of each stage, and file names that hold a cache key, so that no shard is made twice."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt2core.errors import DataError, first_line
from gpt2core.files import atomic_path, readable
from gpt2core.storage import fetch, local, send

_TEXT, _INT, _FLOAT = pa.string(), pa.int32(), pa.float64()

CONTEXTS = pa.schema({"context": _TEXT, "prefix": _TEXT, "text": _TEXT})

#: `text` is the candidate's first sentence, or the whole text if no sentence ends. A candidate with a `reason` is in no pair.
CANDIDATES = pa.schema({"context": _TEXT, "number": _INT, "text": _TEXT, "tokens": _INT, "reason": _TEXT})

PAIRS = pa.schema(
    {
        "id": _TEXT,
        "context": _TEXT,
        "round": _INT,
        "first": _INT,  # the number of a candidate; -1 is the context itself
        "second": _INT,
        "sentence1": _TEXT,
        "sentence2": _TEXT,
        "length_ratio": _FLOAT,
        "forward": _FLOAT,  # how surely sentence1 entails sentence2
        "backward": _FLOAT,
        "rouge_l": _FLOAT,
        "numbers": pa.bool_(),  # whether both sentences name the same numbers
        "critic": _FLOAT,
    }
)

#: Filtered pairs. `component` is the pair's component of mutual entailment, `reason` the first filter that rejected it (null if
#: none did), and `bands` the keys by which near duplicates are found (null if rejected).
FILTERED = pa.schema([*PAIRS, ("component", pa.int64()), ("reason", _TEXT), ("bands", pa.list_(pa.uint64()))])

#: Rows that a stage could not use. `id` is the id of a context, a candidate or a pair.
QUARANTINE = pa.schema({"stage": _TEXT, "id": _TEXT, "text": _TEXT, "error": _TEXT})

#: Stage, which is also its folder -> columns, in order. Filtered pairs are in `judged`.
STAGES = {"contexts": CONTEXTS, "candidates": CANDIDATES, "pairs": PAIRS, "judged": FILTERED}
ACCEPTED, NEGATIVES = "accepted", "negatives"  # the folders that a round ends with

NULLABLE = ("reason", "bands")
MAX_ROWS, MAX_BYTES = 10**7, 2**34  # of one file, uncompressed


def cache_key(stage: str, **inputs: Any) -> str:
    """Return the SHA-256 of all that decides a shard: JSON values, among them the cache key of the shard it is made from."""
    return hashlib.sha256(json.dumps({"stage": stage, **inputs}, sort_keys=True).encode()).hexdigest()


def code_version(*modules: ModuleType) -> str:
    """Return the SHA-256 of the source of modules; a package counts with all its modules."""
    digest = hashlib.sha256()
    for module in modules:
        path = Path(str(module.__file__))
        for file in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Shard:
    """The output of one stage for one part of the contexts."""

    folder: str  # of the job: a path, or an s3:// URL
    stage: str
    round: int
    number: int
    key: str

    @property
    def path(self) -> Path:
        """The file of its rows."""
        return local(self.folder) / self.stage / f"r{self.round}-{self.number:05d}-{self.key[:16]}.parquet"

    @property
    def quarantine(self) -> Path:
        """The file of the rows that the stage could not use; missing if it could use all."""
        return local(self.folder) / "quarantine" / f"{self.stage}-{self.path.name}"

    def exists(self) -> bool:
        """Whether its file is complete; fetches it if another machine wrote it."""
        if not is_complete(self.path):
            fetch(self.quarantine)
            fetch(self.path)
        return is_complete(self.path)

    def write(
        self, rows: Sequence[dict[str, Any]] | pa.Table, schema: pa.Schema, bad: Sequence[dict[str, Any]]
    ) -> None:
        """Write the quarantine first, then the rows, so that a shard that exists has its quarantine."""
        if bad:
            write(self.quarantine, pa.Table.from_pylist(list(bad), QUARANTINE))
            send(self.quarantine)
        write(self.path, rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema))
        send(self.path)

    def read(self, schema: Iterable[pa.Field] = ()) -> pa.Table:
        """Return its rows, fetched if another machine wrote them; raise DataError, see `read`."""
        self.exists()
        return read(self.path, schema)


def write(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd")


def read(path: Path, schema: Iterable[pa.Field] = ()) -> pa.Table:
    """Read a Parquet file; raise DataError if it is damaged, too large, or lacks a column of `schema`.

    Other processes may write at the same time, so no file descriptor is shared.
    """
    try:
        with pq.ParquetFile(readable(path), memory_map=False) as file:
            rows, groups = file.metadata.num_rows, range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            if rows > MAX_ROWS or size > MAX_BYTES:  # would not fit into memory
                most = f"{MAX_ROWS:,} of {MAX_BYTES:,}"
                raise DataError(f"{path}: has {rows:,} rows of {size:,} bytes, but must have at most {most}")
            table = file.read()
        table.validate(full=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # else its content is wrong
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        raise DataError(f"{path}: is not a complete Parquet file ({first_line(error)})") from None
    for field in schema:
        if table.column_names.count(field.name) != 1 or table.schema.field(field.name).type != field.type:
            raise DataError(f"{path}: must have one column `{field.name}` of type {field.type}")
        if field.name not in NULLABLE and table[field.name].null_count:
            raise DataError(f"{path}: the column `{field.name}` must have a value in each row")
    return table


def shards_in(folder: Path) -> list[Path]:
    """Return the shards in a folder, by round and number."""
    return sorted(folder.glob("r*.parquet"), key=_round_and_number)


def _round_and_number(path: Path) -> tuple[int, int]:
    round, number, *_ = path.stem.split("-")
    return int(round[1:]), int(number)


def remove_stale(folder: Path, stages: Iterable[str], first: int) -> None:
    """Remove temporary files of killed processes, and from `stages` the shards of round `first` and later rounds."""
    for file in (*folder.glob(".*.????????"), *folder.glob("*/.*.parquet.????????")):
        file.unlink(missing_ok=True)
    for file in [file for stage in stages for file in shards_in(folder / stage)]:
        if _round_and_number(file)[0] >= first:
            file.unlink()


def is_complete(path: Path) -> bool:
    """Whether a Parquet file exists and its footer, which is written last, can be read."""
    try:
        pq.read_metadata(readable(path))
    except PermissionError:
        raise  # it exists, and must not be made again
    except (OSError, pa.ArrowException):
        return False
    return True
