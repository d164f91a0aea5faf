"""The course's tables: tab-separated, a header first, some of them encoded as CSV twice."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gpt2core.data.corpus import NO_LABEL, Row, read_lines, unique
from gpt2core.errors import DataError
from gpt2core.storage import fetch, local

LONGEST = 131_072  # characters of a field


def course_folder(data_dir: str, name: str) -> Path:
    """Return the folder `name` of `data_dir`, or `data_dir` itself; raise DataError where there is none."""
    folder = local(data_dir)
    fetch(folder)
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder; --data-dir must hold the course's files")
        return folder / name if (folder / name).is_dir() else folder
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


def read_rows(
    path: Path, texts: Sequence[str], label: str, classes: int, rejected: Counter[str], *, labelled: bool = True
) -> list[Row]:
    """Return the good rows of a table whose columns are `id`, one or two `texts` and `label`, 0 to `classes` - 1.

    A row is a line. In a .csv file quotes are undone, also those of a second encoding; in a .tsv file a quote is a quote.
    Rows that are not good are counted in `rejected` by reason; if none is good, DataError names the first line and its
    reason. It also names a line whose quotes do not match: what its fields are is not known, and what follows may be part
    of them. Unless `labelled`, a row may go without a label.
    """
    lines, quoted = read_lines(path), path.suffix != ".tsv"
    header = [name.strip() for name in _fields(next(lines, ""), quoted, path, 1)]
    places = _places(header, ["id", *texts, *([label] if labelled or label in header else [])], path)
    rules = (
        "an empty line",
        f"a field of more than {LONGEST:,} characters",
        "more fields than the header names",
        "no label",
        f"label is none of 0 to {classes - 1}",
        "empty text",
        "no id",
        "fewer fields than the header names",
    )
    rows, faults, first = [], Counter[str](), (2, "there is no row")
    for number, line in enumerate(lines, start=2):
        fields = _fields(line, quoted, path, number)
        named = {column: fields[place].strip() for column, place in places.items() if place < len(fields)}
        name, value, words = named.get("id", ""), named.get(label, ""), [named.get(column, "") for column in texts]
        gold = _label(value, classes) if value else NO_LABEL
        broken = (
            not line.strip(),
            len(line) > LONGEST and max(map(len, fields)) > LONGEST,
            len(fields) > len(header) and any(map(str.strip, fields[len(header) :])),
            labelled and not value,
            gold is None,
            not all(words),
            not name,
            len(fields) < len(header),
        )
        if gold is not None and not any(broken):
            rows.append(Row(id=name, text=words[0], second="".join(words[1:]), label=gold))
        else:
            fault = rules[broken.index(True)]
            first = first if faults else (number, fault)
            faults[fault] += 1
    if not rows:
        raise DataError(f"{path}, line {first[0]}: {first[1]}, and no row of the file is good")
    rejected.update(faults)
    return unique(rows, rejected)


def _fields(line: str, quoted: bool, path: Path, number: int) -> list[str]:
    """The fields of a line; raise DataError where a quote opens one that none closes."""
    fields = line.split("\t")
    if not quoted or '"' not in line:
        return fields
    texts = []
    for field in fields:
        text = _without_quotes(field) if field.startswith('"') else field
        if text is None:
            raise DataError(
                f"{path}, line {number}: the quote that begins the field {_begin(field)} must be closed at the end of the "
                'field, and each quote within be doubled; a text that begins with a quote is written """Yes"" she said"'
            )
        texts.append(decoded(text))
    return texts


def _without_quotes(field: str) -> str | None:
    """Undo one CSV encoding: quotes around the whole field, and each quote within doubled. None for what has none."""
    inner = field[1:-1]
    encoded = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if encoded else None


def decoded(field: str) -> str:
    """Undo the second of two CSV encodings, where there is one."""
    text = _without_quotes(field.strip())
    return field if text is None else text


def _begin(field: str, length: int = 40) -> str:
    return repr(field if len(field) <= length else field[:length] + "...")


def _places(header: Sequence[str], columns: Sequence[str], path: Path) -> dict[str, int]:
    """Where each of `columns` stands; raise DataError where one is not there, or there twice."""
    if not set(columns) <= set(header):
        named = ", ".join(filter(None, header))[:200] or "none"
        raise DataError(f"{path}, line 1: must name the columns {', '.join(columns)}, tab-separated; found: {named}")
    for column in columns:
        if header.count(column) > 1:
            raise DataError(
                f"{path}, line 1: must name the column {column} once, but names it {header.count(column)} times"
            )
    return {column: header.index(column) for column in columns}


def _label(value: str, classes: int) -> int | None:
    """The class that is written as `1` or `1.0`; None for what is no class."""
    try:
        number = float(value)
    except ValueError:
        return None
    plain = value.isascii() and "_" not in value  # Python reads 1_0 as 10
    return int(number) if plain and number in range(classes) else None
