"""Files of any content: valid rows are read unchanged, and each invalid one is counted."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2core.data.corpus import Corpus
from gpt2core.data.course import read_rows
from gpt2core.data.poems import load_poems
from gpt2core.data.shakespeare import NUMBER, load_sonnets
from gpt2core.errors import DataError

T = TypeVar("T")

HEADER = b"\tid\tsentence\tsentiment\n"
LINE_ENDS = re.compile(rb"\r*\n|\r")

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t\0"), min_size=1).map(str.strip)
texts = lines.filter(lambda text: text and not text[0] == text[-1] == '"')  # else it may be encoded twice
poems = st.lists(lines.filter(bool), min_size=1).map("\n".join)

PIECES = (b'"', b"\t", b"\n", b"\r", b"\r\r\n", b"1", b"4.0", b"id1", b"a fine film", b"\xef\xbb\xbf", b"\xe2\x80\xa8")
LINES = (b"\n\tb\tdull\t3\n", b"nan", b"\xff", b"\0", b"\n132\n", b"\n\n2\xc2\xa0\n", b"a\nb\nc\nd\n", b"XI", b"\n\n")
OBJECTS = (b'{"text": "a rose"}\n', b'{"text": "\\ud800"}\n', b"[[[", b'{"text": 1}')

#: Bytes of damaged files, and arbitrary bytes.
wrong = st.lists(st.sampled_from(PIECES + LINES + OBJECTS), max_size=40).map(b"".join) | st.binary(max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def count_of_lines(raw: bytes) -> int:
    result = LINE_ENDS.split(raw)
    return len(result) - (result[-1] == b"")


def unless_refused(load: Callable[[], T], begin: str) -> T | None:
    """Return the result of `load`, or None if it raises a DataError that matches `begin`."""
    try:
        return load()
    except DataError as error:
        if not re.match(begin, str(error)):
            raise
        return None


def accounted(corpus: Corpus) -> int:
    return sum(map(len, corpus.splits.values())) + corpus.rejected.total()


@given(
    rows=st.lists(st.tuples(texts, st.integers(0, 4)), min_size=1),
    end=st.sampled_from(["\n", "\r\n", "\r\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
@example(rows=[('"a" or "b', 1), ("\x85\u2028\x1c", 2)], end="\n", quoting=csv.QUOTE_MINIMAL)
def test_a_table_returns_the_written_rows(folder: Path, rows: list[tuple[str, int]], end: str, quoting: int) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([["", "id", "sentence", "sentiment"], *([n, f"id{n}", *row] for n, row in enumerate(rows))])
    path = folder / "table.csv"
    path.write_bytes(buffer.getvalue().encode())
    rejected: Counter[str] = Counter()
    result = read_rows(path, ["sentence"], "sentiment", 5, rejected) if any(t.strip() for t, _ in rows) else []
    assert [(row.text, row.label) for row in result] == [(text, label) for text, label in rows if text.strip()]
    assert rejected.total() == (len(rows) - len(result) if result else 0)


@given(raw=wrong, ending=st.sampled_from(["csv", "tsv"]), labelled=st.booleans())
def test_any_line_of_a_table_is_read_counted_or_refused(folder: Path, raw: bytes, ending: str, labelled: bool) -> None:
    path = folder / f"any.{ending}"
    path.write_bytes(HEADER + raw)
    rejected: Counter[str] = Counter()
    rows = unless_refused(
        lambda: read_rows(path, ["sentence"], "sentiment", 5, rejected, labelled=labelled),
        re.escape(str(path)) + r", line \d+: ",
    )
    assert rows is None or len(rows) + rejected.total() == count_of_lines(raw)


@given(written=st.lists(poems, min_size=1), ascii_only=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\r\r\n"]))
def test_valid_poems_are_read_unchanged(folder: Path, written: list[str], ascii_only: bool, end: str) -> None:
    path = folder / "pdpoems13754-000.jsonl"
    whole = [json.dumps({"title": "T", "text": text.replace("\n", end)}, ensure_ascii=ascii_only) for text in written]
    path.write_bytes((end.join(whole) + end).encode())
    corpus = load_poems(str(folder))
    assert not corpus.rejected
    rows = sorted((row for split in corpus.splits.values() for row in split), key=lambda row: int(row.id.split(":")[1]))
    assert [row.text for row in rows] == written


@given(raw=wrong)
def test_any_line_of_a_poem_file_is_read_or_counted_or_refused(folder: Path, raw: bytes) -> None:
    path = folder / "pdpoems13754-000.jsonl"
    path.write_bytes(raw)
    corpus = unless_refused(lambda: load_poems(str(folder)), re.escape(str(path)) + r", line \d+: ")
    assert corpus is None or accounted(corpus) == count_of_lines(raw)


@given(raw=wrong, held_out=wrong, dev=wrong, whole=st.none() | wrong)
def test_any_number_in_a_sonnet_file_is_read_or_counted_or_refused(
    folder: Path, raw: bytes, held_out: bytes, dev: bytes, whole: bytes | None
) -> None:
    poem = b"\n\n".join(b"%d\n\na\nb\nc\nd" % number for number in (130, 132)) + b"\n"
    files = {"sonnets.txt": poem + raw, "sonnets_held_out.txt": held_out, "TRUE_sonnets_held_out_dev.txt": dev}
    (folder / "TRUE_sonnets_held_out.txt").unlink(missing_ok=True)
    if whole is not None:
        files["TRUE_sonnets_held_out.txt"] = whole
    for name, content in files.items():
        (folder / name).write_bytes(content)
    corpus = unless_refused(lambda: load_sonnets(str(folder)), r".*(, line \d+: |There is no sonnet for the )")
    if corpus is not None:
        numbers = [line for text in files.values() for line in LINE_ENDS.split(text.removeprefix(b"\xef\xbb\xbf"))]
        twice = sum(NUMBER.fullmatch(line.decode()) is not None for line in numbers) - accounted(corpus)
        assert twice == 0 or (whole is not None and twice > 0), "what is there whole takes the place of what is given"
