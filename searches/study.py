"""The whole study: ask each of its tables again, judge its claims by our runs, and lay its figures and ours side by side."""

import sys

from rich.console import Console

from gpt2core.cli import command_text, run_or_explain
from gpt2core.component import lookup
from gpt2core.errors import UserError
from gpt2core.files import read_json
from searches import options, runner
from searches.published import CLAIMS, TABLES
from searches.question import search_of
from searches.summary import Summary

QUESTION = "Which claims of the study do our runs support, and which of its figures do they reproduce?"


def main(argv: list[str]) -> int:
    """Run the searches that the tables need and write a report; 0 where at least one figure has a value of ours."""
    p = options.parser("study", QUESTION, ["quick", "study"])
    p.add_argument("--tables", default=",".join(TABLES), help=f"which of {', '.join(TABLES)} (default: all)")
    asked = p.parse(argv)
    tables = asked.tables.split(",")
    figures = [figure for name in tables for figure in lookup(TABLES, name, "table")]
    asked_by = [(figure.search, figure.task) for figure in figures]
    asked_by += [(claim.search, claim.task) for claim in CLAIMS if claim.table in tables]
    needed = [(search, task) for search, task in dict.fromkeys(asked_by) if search and search != "describe"]
    name = asked.name or f"study-{'smoke' if asked.smoke else asked.profile}"
    console = runner.console()
    summaries: dict[tuple[str, str], Summary | str] = {}
    for number, (search, task) in enumerate(needed, start=1):
        console.rule(f"{number} of {len(needed)}: {search} on {task}")
        summaries[search, task] = ask(search, task, f"{name}-{search}-{task}", argv, console)
    if asked.plan:
        return 0
    from searches.deciding.study_figures import lines  # PyTorch and SciPy take seconds to import
    from searches.showing import study_report
    from searches.showing.tables import on_screen

    path = options.storage_path(asked.storage) / "searches" / f"{name}.html"
    judged, found = study_report.judged(tables, summaries), lines(tables, summaries)
    study_report.write(path, judged, found, summaries)
    if judged:
        console.print(on_screen(study_report.claims_table(judged)))
    console.print(on_screen(study_report.figures_table(found)))
    console.print(f"Report: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0 if any(line.ours is not None for line in found) else 1


def ask(search: str, task: str, name: str, argv: list[str], console: Console) -> Summary | str:
    """Run one search; return its summary, with what judged and where its report is, or in one line why it could not run."""
    flags = [*options.without(argv, "--tables", "--name"), "--name", name, "--set", f"task={task}"]
    try:
        parsed = options.parse(search_of(search), flags)
        runner.run(parsed, keep_ray=True)
    except UserError as error:
        console.print(f"Not run: {error}", style="yellow", markup=False)
        return " ".join(str(error).split())
    if parsed.plan_only:
        return "planned alone"
    summary = Summary.model_validate(read_json(parsed.results_folder / "summary.json"))
    return summary.model_copy(update={"report": f"{name}/report.html"})


if __name__ == "__main__":
    run_or_explain(lambda: main(sys.argv[1:]), f"python searches/study.py {command_text(sys.argv[1:])}")
