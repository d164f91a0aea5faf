"""Search the settings of any training program: each trial runs a command, and its metric is read from its output."""

import sys

from gpt2core.cli import command_text, run_or_explain
from gpt2core.parts import import_modules
from searches.flags import imports_of
from searches.programs.flags import parse_program
from searches.question import script_command
from searches.runner import run


def main(argv: list[str], file: str = __file__) -> int:
    """Run the search; `file` is how this script was called. Return the exit status."""
    import_modules(imports_of(argv))
    return run(parse_program(argv, file))


if __name__ == "__main__":
    words = sys.argv[1:]
    resume = f"{script_command(sys.argv[0])} {command_text(words)}"
    run_or_explain(lambda: main(words, sys.argv[0]), resume, as_json="--json" in words)
