"""A terminal console that prints texts literally, never as markup or control codes."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from gpt2core.errors import visible


class PlainConsole(Console):
    """A console without markup, which escapes control characters. Styles are separate arguments."""

    def __init__(self, **options: Any) -> None:
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
