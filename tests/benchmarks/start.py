"""Measure how long commands take that run no search: python -m tests.benchmarks.start.

Each command is a process, timed from start to end, in turns with one that only imports the libraries of a search. The first turn
does not count.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from tests.benchmarks.compare import CONSOLE, measure

ROOT = Path(__file__).parents[2]
EVERYTHING = "import torch, ray.tune, peft, mlflow, optuna; from transformers import GPT2LMHeadModel"

#: Command -> the seconds that it may take; None for the one that it is compared with.
COMMANDS: dict[tuple[str, ...], float | None] = {
    ("searches/lora_rank.py", "--help"): 1.0,
    ("-m", "gpt2core", "describe"): 3.0,
    ("-c", EVERYTHING): None,
}


def start(command: Sequence[str]) -> None:
    """Run a command; raise CalledProcessError if it fails."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rounds = [[measure(lambda: start(command)) for command in COMMANDS] for _ in range(repeats + 1)]  # noqa: B023
    table = Table("command", title="time to an answer")
    for heading in (r"seconds \[least, most]", "at most"):
        table.add_column(heading, justify="right")
    for (command, bound), seconds in zip(COMMANDS.items(), zip(*rounds[1:], strict=True), strict=True):
        middle = statistics.median(seconds)
        table.add_row(
            f"python {' '.join(command)}",
            f"{middle:.2f} [{min(seconds):.2f}, {max(seconds):.2f}]",
            "" if bound is None else f"{bound:g}{'' if middle <= bound else ': not reached'}",
        )
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
