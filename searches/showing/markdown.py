"""Escape arbitrary text for Markdown: in a line, as code, or as a block."""

import re

from gpt2core.errors import visible

#: Marks of emphasis, code, links, tags, cells and formulas and, at the start of a line, of headings, quotes and lists.
_MARKS = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*\[\]<>|~&$]|(?<=:)/(?=/)|^#|^[+-](?= )|(?<=^\d)[.)](?= )")


def markdown_cell(text: object) -> str:
    """Return one line that Markdown shows as plain text."""
    line = " ".join(visible(str(text)).split())
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", line)


def markdown_fence(text: str) -> str:
    """Return a block of code, with a fence longer than the backticks in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}text\n{visible(text)}\n{fence}"


def markdown_code(text: object) -> str:
    """Return inline code, with a fence longer than the backticks in it."""
    line = " ".join(visible(str(text)).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    gap = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{gap}{line}{gap}{fence}"
