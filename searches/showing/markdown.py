"""Texts of elsewhere in Markdown: in a line, as code, or as a block."""

import re

from gpt2core.errors import visible

#: What would be emphasis, code, a link, a tag, a cell, a formula, or at the start of a line a heading, a quote or a list.
_MARKS = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*\[\]<>|~&$]|(?<=:)/(?=/)|^#|^[+-](?= )|(?<=^\d)[.)](?= )")


def markdown_cell(text: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    line = " ".join(visible(str(text)).split())
    return _MARKS.sub(lambda found: f"\\{found[0]}", line)


def markdown_fence(text: str) -> str:
    """Text as a block of code, whatever backticks it holds."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}text\n{visible(text)}\n{fence}"


def markdown_code(text: object) -> str:
    """A short text as code within a line, whatever backticks it holds."""
    line = " ".join(visible(str(text)).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    gap = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{gap}{line}{gap}{fence}"
