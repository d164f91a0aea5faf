"""The installed command `gpt2-search`: the commands of `searches`, `gpt2core`, candidates and replay under one name."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from gpt2core.__main__ import parser as core
from gpt2core.cli import Parser, command_text, run_or_explain
from searches.__main__ import COMMANDS

#: Modules that are a command by themselves: name -> module and help.
MODULES = {
    "candidates": ("trainables.candidates.__main__", "generate and filter pairs for Impossible Distillation"),
    "replay": ("searches.replay", "compare search methods on recorded learning curves"),
}


def parser() -> Parser:
    """Return the parser of the names; the module of each command parses its flags."""
    top = Parser(prog="gpt2-search", description="Search how to fine-tune GPT-2, and work with what was found.")
    helps = {name: words for name, (words, _) in COMMANDS.items()}
    helps |= {name: str(command.description) for name, command in core().commands.items()}
    helps |= {name: words for name, (_, words) in MODULES.items()}
    for name in sorted(helps):
        top.add_command(name, help=helps[name], forwards=True)
    return top


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        name = words[0] if words else ""
        if name in MODULES:
            module, rest = MODULES[name][0], words[1:]
        elif name in COMMANDS:
            module, rest = "searches.__main__", words
        elif name in core().commands:
            module, rest = "gpt2core.__main__", words
        else:
            parser().parse(words)
            return 0
        import_module(module).main(rest)  # exits
        return 0

    run_or_explain(command, f"gpt2-search {command_text(words)}", as_json="--json" in words)
