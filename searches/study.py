"""The whole study: ask each of its tables again, and lay its figures, ours, their intervals and the floors side by side."""

import json
import sys
from typing import Any

from rich.console import Console

from gpt2core.cli import command_text, run_or_explain
from gpt2core.errors import UserError
from gpt2core.lookup import lookup
from searches import options, runner
from searches.published import TABLES
from searches.question import search_of

QUESTION = "Which figures of the study does this run reproduce?"


def main(argv: list[str]) -> int:
    """Run the searches that the tables need and write a report; 0 where at least one figure has a value of ours."""
    p = options.parser("study", QUESTION, ["quick", "study"])
    p.add_argument("--tables", default=",".join(TABLES), help=f"which of {', '.join(TABLES)} (default: all)")
    asked = p.parse(argv)
    tables = asked.tables.split(",")
    figures = [figure for name in tables for figure in lookup(TABLES, name, "table")]
    needed = list(dict.fromkeys((f.search, f.task) for f in figures if f.search and f.search != "describe"))
    name = asked.name or f"study-{'smoke' if asked.smoke else asked.profile}"
    console = runner.console()
    summaries: dict[Any, Any] = {}
    for number, (search, task) in enumerate(needed, start=1):
        console.rule(f"{number} of {len(needed)}: {search} on {task}")
        summaries[search, task] = ask(search, task, f"{name}-{search}-{task}", argv, console)
    if asked.plan:
        return 0
    from searches.showing import study_report

    path = options.storage_path(asked.storage) / "searches" / f"{name}.html"
    found = study_report.lines(tables, summaries)
    study_report.write(path, found, summaries)
    console.print(study_report.table(found))
    console.print(f"Report: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0 if any(line.ours is not None for line in found) else 1


def ask(search: str, task: str, name: str, argv: list[str], console: Console) -> dict[str, Any] | str:
    """Run one search; return its summary, or in one line why it could not run."""
    flags = [*options.without(argv, "--tables", "--name"), "--name", name, "--set", f"task={task}"]
    try:
        parsed = options.parse(search_of(search), flags)
        runner.run(parsed, keep_ray=True)
    except UserError as error:
        console.print(f"Not run: {error}", style="yellow", markup=False)
        return " ".join(str(error).split())
    return {} if parsed.plan_only else dict(json.loads((runner.results(parsed) / "summary.json").read_text()))


if __name__ == "__main__":
    run_or_explain(lambda: main(sys.argv[1:]), f"python searches/study.py {command_text(sys.argv[1:])}")
