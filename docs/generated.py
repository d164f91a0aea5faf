"""Pages of the reference that are made from code: all flags, all keys of a run, and all files of results."""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpt2core.cli import Parser

WIDTH = 88  # columns of help texts


def write(folder: Path) -> None:
    """Write the pages into a folder, each only if its text has changed."""
    os.environ["COLUMNS"] = str(WIDTH)
    for name, lines in {"commands.md": _commands(), "keys.md": _keys(), "files.md": _files()}.items():
        path, text = folder / name, "\n".join(lines) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _commands() -> Iterator[str]:
    from gpt2core.__main__ import parser as core
    from searches import flags
    from searches.__main__ import parser as searches
    from searches.lora_rank import SEARCH
    from searches.programs.flags import parser as program
    from searches.replay import parser as replay
    from trainables.candidates.__main__ import parser as candidates

    yield "# Commands and flags"
    yield "\nAll help texts, as the commands print them.\n"
    search = flags.parser(SEARCH.name, SEARCH.question, list(SEARCH.profiles))
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


def _files() -> Iterator[str]:
    from gpt2core.checkpoints.layout import CHECKPOINT_FILES, RUN_FILES
    from gpt2core.model_folder import FILES as MODEL_FILES
    from searches.result_files import FILES as SEARCH_FILES
    from searches.result_files import SEARCHES
    from trainables.candidates.folder import FILES as PAIR_FILES
    from trainables.programs.trial import FILES as PROGRAM_FILES
    from trainables.tracking import FILES as MLFLOW_FILES

    yield "# Files"
    yield (
        f"\nResults are in `STORAGE/{SEARCHES}/NAME/`; the storage is `runs` unless `--storage` or `GPT2_SEARCH_STORAGE` names "
        "another. A file that states a search has this schema: `gpt2-search schema`."
    )
    yield from _table(
        "Storage", {f"{SEARCHES}/": "a folder for each search, and reports of `study.py`", **MLFLOW_FILES}
    )
    yield from _table("Search", SEARCH_FILES)
    yield from _table("Trial, and run of `gpt2-search train`", RUN_FILES)
    yield from _table("Trial of a program, next to the program's own files", PROGRAM_FILES)
    yield from _table("Checkpoint", CHECKPOINT_FILES)
    yield from _table("Model folder", MODEL_FILES)
    yield from _table("Generated pairs", PAIR_FILES)


def _table(title: str, contents: Mapping[str, str]) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield _row("file", "content")
    yield _row("---", "---")
    yield from (_row(f"`{name}`", content) for name, content in contents.items())


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
