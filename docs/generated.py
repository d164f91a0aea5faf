"""Pages of the reference that are made from code: all flags, and all keys of a run."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from gpt2core.cli import Parser

WIDTH = 100  # columns of help texts


def write(folder: Path) -> None:
    """Write the pages into a folder, each only if its text has changed."""
    os.environ["COLUMNS"] = str(WIDTH)
    for name, lines in {"commands.md": _commands(), "keys.md": _keys()}.items():
        path, text = folder / name, "\n".join(lines) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _commands() -> Iterator[str]:
    from gpt2core.__main__ import parser as core
    from searches import options
    from searches.__main__ import parser as searches
    from searches.lora_rank import SEARCH
    from searches.programs.flags import parser as program
    from searches.replay import parser as replay
    from trainables.candidates.__main__ import parser as candidates

    yield "# Commands and flags"
    yield "\nAll help texts, as the commands print them.\n"
    search = options.parser(SEARCH.name, SEARCH.question, list(SEARCH.profiles))
    yield from _help("Every search", "python searches/lora_rank.py", search)
    script = "python searches/command.py"
    yield from _help("A search of any program", script, program([], script))
    yield from _group("Searches that ran", searches())
    yield from _group("One run", core())
    yield from _help("Candidates", "gpt2-search candidates", candidates())
    yield from _help("Replay", "gpt2-search replay", replay())


def _group(title: str, parser: Parser) -> Iterator[str]:
    yield f"## {title}\n"
    for name, command in parser.commands.items():
        yield from _help(name, command.prog, command, level=3)


def _help(title: str, program: str, parser: argparse.ArgumentParser, level: int = 2) -> Iterator[str]:
    parser.prog = program
    yield f"{'#' * level} {title}\n"
    yield f"```text\n{parser.format_help().rstrip()}\n```\n"


def _keys() -> Iterator[str]:
    from gpt2core.keys import KEY_HEADINGS, described_keys, key_cells

    yield "# Keys of a run"
    yield "\nA search may search or fix each of these; `gpt2-search keys` prints them.\n"
    yield _row(*KEY_HEADINGS)
    yield _row(*("---" for _ in KEY_HEADINGS))
    for row in described_keys():
        name, *cells = key_cells(row)
        yield _row(f"`{name}`", *cells)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
