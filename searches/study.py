"""The whole study: ask each of its tables again, and lay its figures, ours, their intervals and the floors side by side."""

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt2core.cli import run_or_explain
from gpt2core.errors import ConfigError, UserError
from gpt2core.lookup import nearest
from searches import options, runner
from searches.published import TABLES

QUESTION = "Which figures of the study does this run reproduce?"


def main(argv: list[str]) -> int:
    """Run the searches that the tables need and write report.html; 0 where at least one figure has a value of ours."""
    p = options.parser("study", QUESTION, ["quick", "study"])
    p.add_argument("--tables", default=",".join(TABLES), help=f"which of {', '.join(TABLES)} (default: all)")
    asked = p.parse(argv)
    tables = asked.tables.split(",")
    for name in tables:
        if name not in TABLES:
            raise ConfigError(f"Unknown table `{name}`: {nearest(name, TABLES)}")
    console = Console(width=None if sys.stdout.isatty() else 200)
    name = asked.name or f"study-{'smoke' if asked.smoke else asked.profile}"
    needed = {(f.search, f.task): None for t in tables for f in TABLES[t] if f.search not in (None, "describe")}
    summaries: dict[Any, Any] = {}
    for number, (search, task) in enumerate(needed, start=1):
        console.rule(f"{number} of {len(needed)}: {search} on {task}")
        summaries[search, task] = ask(str(search), task, f"{name}-{search}-{task}", argv, console)
    if asked.plan:
        return 0
    from searches import report

    found = report.lines(tables, summaries)
    path = runner.storage_path(asked.storage) / "searches" / f"{name}.html"
    report.write(path, found, summaries)
    console.print(report.table(found))
    console.print(f"Report: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0 if any(line.ours is not None for line in found) else 1


def ask(search: str, task: str, name: str, argv: list[str], console: Console) -> dict[str, Any] | str:
    """Run one search; return its summary, or in one line why it could not run."""
    flags = options.without(argv, "--tables", "--name")
    module = importlib.import_module(f"searches.{search}")
    try:
        parsed = options.parse(module.SEARCH, [*flags, "--name", name, "--set", f"task={task}"])
        runner.run(parsed)
        path: Path = runner.storage_folder(parsed) / "searches" / name / "summary.json"
        return dict(json.loads(path.read_text())) if path.exists() else "it was planned only"
    except UserError as error:
        console.print(f"Not run: {error}", style="yellow", markup=False)
        return " ".join(str(error).split())


if __name__ == "__main__":
    run_or_explain(lambda: main(sys.argv[1:]), f"python searches/study.py {shlex.join(sys.argv[1:])}")
