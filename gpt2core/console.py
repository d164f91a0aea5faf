"""The terminal, for foreign texts: they are shown literally, never as markup or control codes."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from gpt2core.errors import visible


class PlainConsole(Console):
    """A console that reads no markup in texts and escapes control characters. Styles are given beside a text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Lay out a text with its control characters escaped, which changes its width."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render what is shown; everything passes here, table cells too."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def console(width: int, **options: Any) -> PlainConsole:
    """Return the terminal's console; without a terminal, one of a fixed width."""
    return PlainConsole(width=None if sys.stdout.isatty() else width, **options)
