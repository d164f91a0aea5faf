"""The commands that README and documentation show."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.runs import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "cluster" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PLACEHOLDERS = {"FILE": "file.json", "NAME": "name", "DATA": "data"}


def commands(page: Path) -> Iterator[str]:
    """The commands of a page's console blocks, with the lines that they go on in."""
    return (command for command, _ in examples(page))


def examples(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of a page, each with the lines of output that its console block or a text block below it shows."""
    blocks = re.findall(r"^```(console|text)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for (kind, text), below in pairwise([*blocks, ("", "")]):
        if kind == "console":
            *others, (command, lines) = _commands(text)
            yield from others
            yield command, [*lines, *(below[1].splitlines() if below[0] == "text" else [])]


def _commands(block: str) -> Iterator[tuple[str, list[str]]]:
    joined = re.sub(r"\\\n\s*", " ", block)
    for chunk in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
        command, *after = chunk.splitlines()
        while after and not _is_whole(command):
            command = f"{command}\n{after.pop(0)}"
        yield command, after


def _is_whole(command: str) -> bool:
    """Whether the quotes of a command are closed."""
    try:
        return bool(shlex.split(command, comments=True))
    except ValueError:
        return False


def parts(command: str) -> Iterator[list[str]]:
    """The words of each command of a line, without redirections and comments."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;"):
            yield words
            words = []
        elif set(word) <= set("<>"):
            next(lexer)
        else:
            words.append(PLACEHOLDERS.get(word, word))
    yield words
