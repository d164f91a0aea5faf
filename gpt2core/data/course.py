"""The course's tables: tab-separated, a header first, some of them encoded as CSV twice."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2core.data.corpus import NO_LABEL, Row, read_text, unique
from gpt2core.errors import DataError
from gpt2core.storage import fetch, local


def course_folder(data_dir: str, name: str) -> Path:
    """Return the folder `name` of `data_dir`, or `data_dir` itself; raise DataError where there is none."""
    folder = local(data_dir)
    fetch(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; --data-dir must hold the course's files")
    return folder / name if (folder / name).is_dir() else folder


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the fields, by column, of each row; a field that a short row lacks is not there.

    In a .csv file quotes are undone, also those of a second encoding; in a .tsv file a quote is a quote.
    Raises DataError where the file is missing, is no table, or lacks one of `columns`.
    """
    plain = path.suffix == ".tsv"
    file = io.StringIO(read_text(path))
    reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
    try:
        header = next(reader, [])
        if not set(columns) <= set(header):
            found = ", ".join(filter(None, header)) or "none"
            raise DataError(
                f"{path}, line 1: must name the columns {', '.join(columns)}, tab-separated; found: {found}"
            )
        for fields in reader:
            values = fields if plain else map(decoded, fields)
            yield reader.line_num, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: must be tab-separated CSV ({error})") from None


def decoded(field: str) -> str:
    """Undo the second of two CSV encodings: quotes around the whole field, and each quote within doubled."""
    text = field.strip()
    inner = text[1:-1]
    encoded = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if encoded else field


def read_rows(
    path: Path, texts: Sequence[str], label: str, classes: int, rejected: Counter[str], *, labelled: bool = True
) -> list[Row]:
    """Return the good rows of a table whose columns are `id`, one or two `texts` and `label`, 0 to `classes` - 1.

    Others are counted in `rejected` by reason; if none is good, DataError names the first line and its reason. Unless
    `labelled`, a row may go without a label.
    """
    rows, faults = [], []
    for line, fields in read_table(path, ["id", *texts, *([label] if labelled else [])]):
        name, value = fields.get("id", "").strip(), fields.get(label, "").strip()
        words = [fields.get(column, "").strip() for column in texts]
        number = NO_LABEL if not value else _label(value, classes)
        if labelled and not value:
            faults.append((line, "no label"))
        elif number is None:
            faults.append((line, f"label is none of 0 to {classes - 1}"))
        elif not all(words):
            faults.append((line, "empty text"))
        elif not name:
            faults.append((line, "no id"))
        else:
            rows.append(Row(id=name, text=words[0], second="".join(words[1:]), label=number))
    if not rows:
        line, fault = next(iter(faults), (2, "there is no row"))
        raise DataError(f"{path}, line {line}: {fault}, and no row of the file is good")
    rejected.update(fault for _, fault in faults)
    return unique(rows, rejected)


def _label(value: str, classes: int) -> int | None:
    """The class that is written as `1` or `1.0`; None for what is no class."""
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number in range(classes) else None
