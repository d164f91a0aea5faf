"""Tables that fit their terminal: cells wrap at words, and a table that is still too wide becomes a list of records."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gpt2core.errors import visible

GAP = 2  # spaces between two columns
WRAPPED = 24  # width to which a column of longer cells may shrink


@dataclass(frozen=True)
class Heading:
    """The heading of a column; numbers are aligned right."""

    text: str
    number: bool = False


def fitted(headings: Sequence[Heading], rows: Sequence[Sequence[Text]], width: int) -> RenderableType:
    """Return a table no wider than `width`, or its rows as records if it cannot be. No cell is cut; the first names its row."""
    columns = [[row[place].plain for row in rows] for place in range(len(headings))]
    widths = _widths([heading.text for heading in headings], columns, width)
    return _records(headings, rows) if widths is None else _table(headings, rows, widths)


def _widths(headings: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the widths of columns, None if they have no room. Room to spare goes to those that want least first."""
    least = [_least(*column) for column in zip(headings, columns, strict=True)]
    most = [_longest([heading, *cells]) for heading, cells in zip(headings, columns, strict=True)]
    spare = width - sum(least) - GAP * len(least)
    if spare < 0:
        return None
    wanted = sorted(range(len(least)), key=lambda place: most[place] - least[place])
    for done, place in enumerate(wanted):
        more = max(0, min(most[place] - least[place], spare // (len(wanted) - done)))
        least[place] += more
        spare -= more
    return least


def _least(heading: str, cells: Sequence[str]) -> int:
    """Return the smallest width of a column: only cells wider than WRAPPED wrap, and no word breaks."""
    word = max((cell_len(word) for text in cells for word in text.split()), default=0)
    return max(*(cell_len(word) for word in heading.split()), min(_longest(cells), max(word, WRAPPED)), 1)


def _longest(texts: Sequence[str]) -> int:
    return max((cell_len(line) for text in texts for line in text.split("\n")), default=0)


def _table(headings: Sequence[Heading], rows: Sequence[Sequence[Text]], widths: Sequence[int]) -> Table:
    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold")
    for heading, width in zip(headings, widths, strict=True):
        drawn.add_column(
            visible(heading.text), justify="right" if heading.number else "left", width=width, overflow="fold"
        )
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _records(headings: Sequence[Heading], rows: Sequence[Sequence[Text]]) -> Group:
    parts: list[RenderableType] = []
    for name, *cells in rows:
        parts.append(name)
        for heading, cell in zip(headings[1:], cells, strict=True):
            if cell.plain:
                parts.append(Padding(Text.assemble(f"{visible(heading.text)}: ", cell), (0, 0, 0, 2)))
    return Group(*parts)
