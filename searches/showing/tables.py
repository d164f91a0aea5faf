"""Tables that are described once, by how each column shows a row, and drawn on the screen, in HTML and in Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, TypeVar

from markupsafe import Markup, escape
from rich.console import Console, RenderableType
from rich.text import Text

from gpt2core.console import PlainConsole, print_line
from gpt2core.errors import visible
from gpt2core.terminal_table import Heading, fitted
from searches.formatting import count
from searches.showing.markdown import markdown_cell, markdown_code

Row = TypeVar("Row")
WIDE = 140  # columns of a screen that shows details too
LONG_NAME, LONG = 25, 40  # characters above which a page may wrap a row's name, or another cell


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column: its heading and the text that it shows for a row.

    Numbers are aligned right, and `code` is shown in Markdown as code. `mark` returns a CSS class for a coloured mark, `style` a
    style for the screen. A narrow screen leaves out columns of `detail`.
    """

    heading: str
    show: Callable[[Row], str]
    _: KW_ONLY
    number: bool = False
    code: bool = False
    detail: bool = False
    mark: Callable[[Row], str] | None = None
    style: Callable[[Row], str] | None = None


@dataclass(frozen=True, kw_only=True)
class Table(Generic[Row]):
    """A table. Column number `name` names the rows.

    `marked` returns whether a row is highlighted, `trial` the trial that it is about, if any.
    """

    title: str
    columns: Sequence[Column[Row]]
    rows: Sequence[Row]
    note: str = ""
    name: int = 0
    marked: Callable[[Row], bool] = lambda row: False
    trial: Callable[[Row], str | None] = lambda row: None

    def cells(self) -> list[list[str]]:
        """Return the texts of each row."""
        return [[column.show(row) for column in self.columns] for row in self.rows]


def on_screen(table: Table[Any], width: int, *, wide: bool = False) -> RenderableType:
    """Draw a table without title and note for a screen of so many columns; texts are not parsed as markup.

    Below WIDE columns, those with details are left out, except if `wide`, and then rows that have only details.
    """
    columns = _shown(table, width, wide)
    headings = [Heading(column.heading, column.number) for column in columns]
    rows = [_row(table, row, columns) for row in table.rows]
    if len(columns) < len(table.columns):
        rows = [cells for cells in rows if any(cell.plain for cell in cells[1:])]
    return fitted(headings, rows, width)


def print_table(console: Console, table: Table[Any]) -> None:
    """Print a table with title and note, and say how many columns are left out."""
    wide = isinstance(console, PlainConsole) and console.wide
    if table.title:
        print_line(console, table.title, "bold")
    console.print(on_screen(table, console.width, wide=wide))
    hidden = len(table.columns) - len(_shown(table, console.width, wide))
    more = f"{count(hidden, 'more column')}: --wide, or the report." if hidden else ""
    if note := f"{table.note} {more}".strip():
        print_line(console, note, "dim")
    console.print()


def _shown(table: Table[Row], width: int, wide: bool) -> list[Column[Row]]:
    return [column for column in table.columns if wide or width >= WIDE or not column.detail]


def _row(table: Table[Row], row: Row, columns: Sequence[Column[Row]]) -> list[Text]:
    """Return the cells of a row; its own style goes before that of a marked row."""
    marked = "bold green" if table.marked(row) else ""
    styles = [column.style(row) if column.style else "" for column in columns]
    return [Text(visible(c.show(row)), style=style or marked) for c, style in zip(columns, styles, strict=True)]


def as_html(table: Table[Any], *, title: bool = True) -> Markup:
    """Draw a table for a page; without `title`, only screen readers get its caption."""
    hidden = "" if title else Markup(' class="unseen"')
    heads = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(_class("number" if column.number else ""), column.heading)
        for column in table.columns
    )
    body = Markup("\n").join(
        Markup("<tr{}{}>{}</tr>").format(
            _class("marked" if table.marked(row) else ""), _of_trial(table.trial(row)), _html_cells(table, row)
        )
        for row in table.rows
    )
    note = Markup('<p class="muted">{}</p>\n').format(visible(table.note)) if table.note else ""
    return Markup(
        '<div class="scroll" role="region" aria-label="{}" tabindex="0">\n<table>\n<caption{}><span>{}</span></caption>\n'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>\n</div>\n{}"
    ).format(table.title, hidden, table.title, heads, body, note)


def _html_cells(table: Table[Any], row: Any) -> Markup:
    parts = []
    for place, column in enumerate(table.columns):
        text, name = visible(column.show(row)), place == table.name
        look = "number" if column.number else "long" if len(text) > (LONG_NAME if name else LONG) else ""
        lines = Markup("<br>").join(escape(line) for line in text.split("\n"))
        shown = Markup('<span class="mark {}">{}</span>').format(column.mark(row), lines) if column.mark else lines
        if name:
            parts.append(Markup('<th scope="row"{}>{}</th>').format(_class(look), shown))
        else:
            parts.append(Markup('<td data-name="{}"{}>{}</td>').format(column.heading, _class(look), shown))
    return Markup("").join(parts)


def _of_trial(name: str | None) -> Markup:
    return Markup(' data-trial="{}"').format(name) if name else Markup("")


def _class(name: str) -> Markup:
    return Markup(' class="{}"').format(name) if name else Markup("")


def as_markdown(table: Table[Any]) -> str:
    """Draw a table for Markdown, with its title above if it has one."""
    lines = [
        "| " + " | ".join(markdown_cell(column.heading) for column in table.columns) + " |",
        "|" + "|".join(" ---: " if column.number else " --- " for column in table.columns) + "|",
        *("| " + " | ".join(_markdown(column, row) for column in table.columns) + " |" for row in table.rows),
    ]
    title = [f"**{markdown_cell(table.title)}**", ""] if table.title else []
    note = ["", markdown_cell(table.note)] if table.note else []
    return "\n".join([*title, *lines, *note])


def _markdown(column: Column[Any], row: Any) -> str:
    text = column.show(row)
    return markdown_code(text) if column.code and text else markdown_cell(text)
