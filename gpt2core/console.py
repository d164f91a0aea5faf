"""The screen, for texts that come from elsewhere: they are shown as they are, never obeyed."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from gpt2core.errors import visible


class PlainConsole(Console):
    """A console that takes no text for markup, and writes out what a terminal would obey. Styles are given beside a text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is laid out: what is written out needs its room, or a table's cell would lose its end."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is shown: everything passes here, the cells of a table too."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def console(width: int, **options: Any) -> PlainConsole:
    """The screen, or a page of that width where nobody looks on."""
    return PlainConsole(width=None if sys.stdout.isatty() else width, **options)
