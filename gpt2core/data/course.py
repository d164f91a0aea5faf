"""The course's tables: tab-separated with a header; some are CSV-encoded twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from os.path import lexists
from pathlib import Path

from gpt2core.data.corpus import NO_LABEL, Corpus, Row, read_lines, unique
from gpt2core.data.origin import DataOrigin
from gpt2core.errors import DataError, shown
from gpt2core.storage import fetch, local

LONGEST = 131_072  # characters of a field


def course_folder(data_dir: str, name: str) -> Path:
    """Return the folder `name` of `data_dir` if it exists, else `data_dir`; raise DataError if that is no folder."""
    folder = local(data_dir)
    fetch(folder)
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder; --data-dir must hold the course's files")
        return folder / name if (folder / name).is_dir() else folder
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


def check_exists(path: Path, name: str) -> None:
    """Raise DataError if a file that the data set `name` needs is missing."""
    if not lexists(path):
        raise DataError(
            f"{path}: there is no such file; --data-dir must hold the course's files, directly or in a folder {name}"
        )


def course_corpus(
    name: str, origin: DataOrigin, paths: Mapping[str, Path], texts: Sequence[str], label: str, classes: int
) -> Corpus:
    """Return a corpus of one table per split, see `read_rows`. The table of the test split may be missing or unlabelled."""
    for split, path in paths.items():
        if split != "test":
            check_exists(path, name)
    rejected: Counter[str] = Counter()
    splits = {
        split: read_rows(path, texts, label, classes, rejected, labelled=split != "test")
        for split, path in paths.items()
        if split != "test" or lexists(path)
    }
    return Corpus(name=name, origin=origin, splits=splits, rejected=rejected)


def read_rows(
    path: Path, texts: Sequence[str], label: str, classes: int, rejected: Counter[str], *, labelled: bool = True
) -> list[Row]:
    """Return the valid rows of a table with the columns `id`, one or two `texts`, and `label`, an integer below `classes`.

    Each line is a row. Quotes of .csv files are decoded, twice if they were encoded twice; quotes of .tsv files are literal.
    Invalid rows are counted in `rejected` by reason. With `labelled=False`, rows may lack a label.

    Raises DataError if no row is valid, naming the first fault, and for a line with unmatched quotes, whose fields and
    following lines cannot be told apart.
    """
    lines, quoted = read_lines(path), path.suffix != ".tsv"
    header = [name.strip() for name in _fields(next(lines, ""), quoted, path, 1)]
    places = _places(header, ["id", *texts, *([label] if labelled or label in header else [])], path)
    rows, faults, first_fault = [], Counter[str](), (2, "there is no row")
    for number, line in enumerate(lines, start=2):
        fields = _fields(line, quoted, path, number)
        named = {column: fields[place].strip() for column, place in places.items() if place < len(fields)}
        name, value, words = named.get("id", ""), named.get(label, ""), [named.get(column, "") for column in texts]
        gold = _label(value, classes) if value else NO_LABEL
        checks = (
            ("an empty line", not line.strip()),
            (f"a field of more than {LONGEST:,} characters", len(line) > LONGEST and max(map(len, fields)) > LONGEST),
            ("more fields than columns", len(fields) > len(header) and any(map(str.strip, fields[len(header) :]))),
            ("no label", labelled and not value),
            (f"label is not one of 0 to {classes - 1}", gold is None),
            ("empty text", not all(words)),
            ("no id", not name),
            ("fewer fields than columns", len(fields) < len(header)),
        )
        fault = next((rule for rule, broken in checks if broken), "")
        if gold is not None and not fault:
            rows.append(Row(id=name, text=words[0], second="".join(words[1:]), label=gold))
        else:
            first_fault = first_fault if faults else (number, fault)
            faults[fault] += 1
    if not rows:
        raise DataError(f"{path}, line {first_fault[0]}: {first_fault[1]}, and no row of the file is valid")
    rejected.update(faults)
    return unique(rows, rejected)


def _fields(line: str, quoted: bool, path: Path, number: int) -> list[str]:
    """Return the fields of a line; raise DataError if a field begins with a quote that is not closed."""
    fields = line.split("\t")
    if not quoted or '"' not in line:
        return fields
    texts = []
    for field in fields:
        text = _without_quotes(field) if field.startswith('"') else field
        if text is None:
            raise DataError(
                f"{path}, line {number}: the field {shown(field)} begins with a quote, so it must end with one and double the "
                'quotes in between; a text that begins with a quote is written """Yes"" she said"'
            )
        texts.append(decoded(text))
    return texts


def _without_quotes(field: str) -> str | None:
    """Undo one CSV encoding: quotes around the field, inner quotes doubled; return None if the field is not encoded so."""
    inner = field[1:-1]
    encoded = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if encoded else None


def decoded(field: str) -> str:
    """Undo a second CSV encoding, if there is one."""
    text = _without_quotes(field.strip())
    return field if text is None else text


def _places(header: Sequence[str], columns: Sequence[str], path: Path) -> dict[str, int]:
    """Return the index of each of `columns`; raise DataError if one is missing or occurs twice."""
    if not set(columns) <= set(header):
        named = ", ".join(filter(None, header))[:200] or "none"
        raise DataError(f"{path}, line 1: must name the columns {', '.join(columns)}, tab-separated; found: {named}")
    for column in columns:
        if (count := header.count(column)) > 1:
            raise DataError(f"{path}, line 1: must name the column {column} once, but names it {count} times")
    return {column: header.index(column) for column in columns}


def _label(value: str, classes: int) -> int | None:
    """Return the class that is written as `1` or `1.0`; None if there is no such class."""
    try:
        number = float(value)
    except ValueError:
        return None
    plain = value.isascii() and "_" not in value  # Python reads 1_0 as 10
    return int(number) if plain and number in range(classes) else None
