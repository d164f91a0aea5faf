"""A terminal console that prints texts literally, never as markup or control codes."""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from gpt2core.errors import visible


class PlainConsole(Console):
    """A console without markup, which escapes control characters. Styles are separate arguments.

    `wide` is whether tables show all of their columns even where these do not fit in one line.
    """

    def __init__(self, *, wide: bool = False, **options: Any) -> None:
        self.wide = wide
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Render text with control characters escaped, which changes its width."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything that is printed, including table cells."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def console(width: int, **options: Any) -> PlainConsole:
    """Return a console, of fixed width if stdout is not a terminal."""
    return PlainConsole(width=None if sys.stdout.isatty() else width, **options)


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Print a text, wrapped at words on a terminal and in one line elsewhere."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def status(what: str, *, as_json: bool) -> AbstractContextManager[object]:
    """Show on a terminal what takes seconds; show nothing if the output is to be JSON."""
    return nullcontext() if as_json else console(80).status(what)


def print_exact(console: Console, text: str) -> None:
    """Print a link or a command without line breaks, so that it can be opened or copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
