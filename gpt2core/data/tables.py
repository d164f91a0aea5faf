"""Tables of a user: the columns of CSV, TSV, JSONL and Parquet files, of text files, and of data sets on the hub."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2core.component import nearest
from gpt2core.data.corpus import by_reason, read_lines, read_text
from gpt2core.data.hub import SPLITS, load_hub
from gpt2core.errors import DataError, first_line
from gpt2core.storage import fetch, local

LONGEST = 10_000_000  # characters of a field of a CSV file
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")  # owner/name, or owner/name:config
FOLDER_COLUMNS = ("text", "label", "file")

Record = Mapping[str, Any]  # values by column


@dataclass(frozen=True)
class Table:
    """Records with any of these columns, and a note about a guess of the reader, if any."""

    columns: Sequence[str]
    records: Sequence[Record]
    note: str = ""


def is_on_hub(place: str) -> bool:
    """Return whether this is the name of a data set on the hub: `owner/name`, and neither a path nor a file of a known kind."""
    path = Path(place).expanduser()
    return bool(HUB.fullmatch(place)) and path.suffix not in READERS and not path.exists()


def read_hub(name: str, split: str) -> Table | None:
    """Return a split (`train`, `dev` or `test`) of a data set on the hub, or None if it lacks it; raise HubError."""
    repository, _, config = name.partition(":")
    splits: Any = load_hub(repository, config or None, "give --train a file")
    if SPLITS[split] not in splits:
        return None
    rows = splits[SPLITS[split]]
    classes = {column: feature.names for column, feature in rows.features.items() if hasattr(feature, "names")}
    records = [{column: _named(value, classes.get(column)) for column, value in row.items()} for row in rows]
    return Table(rows.column_names, records)


def _named(value: Any, names: Sequence[str] | None) -> Any:
    """Return the name of a class that is stored as a number, None for the -1 of rows without a class, or any other value."""
    if names is None or value is None:
        return value
    return names[value] if value >= 0 else None


def read_table(place: str, rejected: Counter[str]) -> Table:
    """Return the table in a file or folder; count unusable lines in `rejected` by reason.

    A folder has a text per .txt file, with the columns `text`, `label` (its subfolder) and `file`. A .txt file has a text per
    paragraph. Raises DataError for a file that is missing, empty or of another kind, or that cannot be read.
    """
    path = local(place)
    fetch(path)
    try:
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            raise DataError(f"{place}: there is no such file or folder")
        if not is_folder and not path.stat().st_size:
            raise DataError(f"{place}: is empty")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    reader = _read_folder if is_folder else READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: must be a file of the kind {', '.join(READERS)}, or a folder of .txt files, or the name of a data set on "
            "the Hugging Face hub"
        )
    table = reader(path, rejected)
    if not table.records:
        raise DataError("; ".join([f"{path}: has no row", *by_reason(rejected)]))
    return table


def check_columns(source: str, table: Table, flags: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError if a table lacks a column that a flag names, or has it twice, or if flags name it twice."""
    named: dict[str, str] = {}
    for flag, columns in flags.items():
        for column in columns:
            if column in named:
                given = " and ".join(dict.fromkeys((f"--{named[column]}", f"--{flag}")))
                raise DataError(f"{source}: the column `{column}` is named twice, by {given}; name different columns")
            named[column] = flag
            if (count := list(table.columns).count(column)) == 1:
                continue
            if count:
                raise DataError(f"{source}: has {count} columns `{column}`, but --{flag} must name one")
            listed, hint = ", ".join(sorted(table.columns)), nearest(column, table.columns)
            others = "" if listed in hint else f" (columns: {listed})"
            raise DataError(f"{source}: has no column `{column}` for --{flag}: {hint}{others}")


def _read_csv(path: Path, rejected: Counter[str]) -> Table:
    """Read a CSV file with a header, delimited by the most frequent of DELIMITERS in that header."""
    first = next(read_lines(path), "")
    delimiter = max(DELIMITERS, key=first.count)
    table = _delimited(path, rejected, delimiter=delimiter, strict=True)
    return table if delimiter == "," else replace(table, note=f"read as fields separated by {DELIMITERS[delimiter]}")


def _read_tsv(path: Path, rejected: Counter[str]) -> Table:
    """Read tab-separated values with a header, in which quotes are literal."""
    return _delimited(path, rejected, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(path: Path, rejected: Counter[str], **dialect: Any) -> Table:
    csv.field_size_limit(LONGEST)
    rows = csv.reader((f"{line}\n" for line in read_lines(path)), **dialect)
    records = []
    try:
        header = [name.strip() for name in next(rows, [])]
        if not any(header):
            raise DataError(f"{path}, line 1: must name the columns, but is blank")
        for row in rows:
            if len(row) == len(header):
                records.append(dict(zip(header, row, strict=True)))
            elif row:
                rejected[f"{'fewer' if len(row) < len(header) else 'more'} fields than columns"] += 1
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}; quotes must be closed, and doubled within") from None
    return Table(header, records)


def _read_jsonl(path: Path, rejected: Counter[str]) -> Table:
    """Read a file with a JSON object per line."""
    records = []
    for line in filter(str.strip, read_lines(path)):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the latter for deeply nested JSON
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            rejected["not a JSON object on one line"] += 1
    return Table(list(dict.fromkeys(column for record in records for column in record)), records)


def _read_parquet(path: Path, rejected: Counter[str]) -> Table:
    import pyarrow as pa  # it takes a moment to import
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()  # unlike read_table, it accepts columns with equal names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: must be a Parquet file ({first_line(error)})") from None
    return Table(table.column_names, table.to_pylist())


def _read_text(path: Path, rejected: Counter[str]) -> Table:
    """Read the paragraphs of a text file, or its lines if it has no empty one."""
    text = read_text(path).strip()
    paragraphs = re.split(r"\n\s*\n", text)
    texts = paragraphs if len(paragraphs) > 1 else text.split("\n")
    return Table(["text"], [{"text": text} for text in texts if text.strip()])


def _read_folder(folder: Path, rejected: Counter[str]) -> Table:
    files = sorted(file for file in folder.rglob("*.txt") if file.is_file())
    if not files:
        raise DataError(f"{folder}: there is no .txt file in this folder")
    names = [file.relative_to(folder) for file in files]
    labels = ["" if name.parent == Path() else name.parent.as_posix() for name in names]
    values = [(read_text(file), label, str(name)) for file, label, name in zip(files, labels, names, strict=True)]
    records = [dict(zip(FOLDER_COLUMNS, row, strict=True)) for row in values]
    return Table(FOLDER_COLUMNS, records)


READERS: dict[str, Callable[[Path, Counter[str]], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
