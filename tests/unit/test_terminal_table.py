"""Tables on terminals of any width: they fit, and lose nothing."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from gpt2core.console import PlainConsole
from gpt2core.terminal_table import Heading, fitted

WORDS = st.lists(st.text("abc漢 -0189", min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=12).map(
    " ".join
)


def drawn(headings: list[str], rows: list[list[str]], width: int) -> str:
    console = PlainConsole(file=io.StringIO(), width=width, record=True)
    console.print(fitted([Heading(text) for text in headings], [[Text(cell) for cell in row] for row in rows], width))
    return console.export_text()


@given(st.data(), st.integers(20, 200))
def test_every_word_is_there_whole_and_no_line_is_too_long(data: st.DataObject, width: int) -> None:
    columns = data.draw(st.integers(1, 9))
    headings = [f"key{place}" for place in range(columns)]
    rows = data.draw(st.lists(st.lists(WORDS, min_size=columns, max_size=columns), min_size=1, max_size=4))
    text = drawn(headings, rows, width)
    assert all(cell_len(line.rstrip()) <= width for line in text.splitlines())
    shown = set(text.split())
    assert all(set(cell.split()) <= shown for row in rows for cell in row)


def test_short_cells_stay_in_one_line_and_long_ones_wrap() -> None:
    lines = drawn(["trial", "score", "answer"], [["0001", "4.397 [4.257, 4.537]", "word " * 20]], 60).splitlines()
    assert lines[2].startswith("0001   4.397 [4.257, 4.537]  word word")
    assert len(lines) > 3
    assert all(line.startswith(" " * 29 + "word") for line in lines[3:])


def test_a_table_without_room_becomes_records() -> None:
    lines = [
        line.rstrip()
        for line in drawn(["trial", "score", "of"], [["0001-r1", "4.397 [4.257, 4.537]", ""]], 26).splitlines()
    ]
    assert lines == ["0001-r1", "  score: 4.397 [4.257,", "  4.537]"]


def test_room_is_shared_by_the_columns_that_want_it() -> None:
    header = drawn(["a", "b", "c"], [["1", "x" + " x" * 39, "y" + " y" * 14]], 100).splitlines()[0]
    assert header.index("c") == 1 + 2 + 64 + 2, "c has its 29 columns, b the other 64"
