"""Reproduce the study: run the searches of its tables, judge its claims by our runs, and compare its figures with ours."""

import sys

from rich.console import Console

from gpt2core.cli import command_text, run_or_explain
from gpt2core.component import lookup
from gpt2core.console import print_exact, print_line
from gpt2core.errors import ConfigError, UserError
from searches import options, runner
from searches.flags import parser, without
from searches.places import storage_path
from searches.published import CLAIMS, TABLES
from searches.question import search_of
from searches.result_files import SEARCHES, SUMMARY
from searches.summary import Summary

QUESTION = "Which claims of the study do our runs support, and which of its figures do they reproduce?"


def main(argv: list[str]) -> int:
    """Run the searches that the tables need and write a report; return 0 if at least one figure has a value of ours."""
    p = parser("study", QUESTION, ["quick", "study"])
    p.add_argument("--tables", default=",".join(TABLES), help=f"comma-separated: {', '.join(TABLES)} (default: all)")
    o = p.parse(argv)
    if o.json:
        raise ConfigError("The study prints no JSON: use `gpt2-search show NAME --json` for each of its searches")
    tables = o.tables.split(",")
    figures = [figure for name in tables for figure in lookup(TABLES, name, "table")]
    sources = [(figure.search, figure.task) for figure in figures]
    sources += [(claim.search, claim.task) for claim in CLAIMS if claim.table in tables]
    needed = [(search, task) for search, task in dict.fromkeys(sources) if search and search != "describe"]
    name = o.name or f"study-{'smoke' if o.smoke else o.profile}"
    console = runner.console()
    summaries: dict[tuple[str, str], Summary | str] = {}
    for number, (search, task) in enumerate(needed, start=1):
        console.rule(f"{number} of {len(needed)}: {search} on {task}")
        summaries[search, task] = run_one(search, task, f"{name}-{search}-{task}", argv, console)
    if o.plan:
        return 0
    from searches.deciding.study_figures import lines  # PyTorch and SciPy take seconds to import
    from searches.showing import study_report
    from searches.showing.tables import print_table

    path = storage_path(o.storage) / SEARCHES / f"{name}.html"
    claims, compared = study_report.judged(tables, summaries), lines(tables, summaries)
    study_report.write(path, claims, compared, summaries)
    if claims:
        print_table(console, study_report.claims_table(claims))
    print_table(console, study_report.figures_table(compared))
    print_exact(console, f"Report: {path}")
    return 0 if any(line.ours is not None for line in compared) else 1


def run_one(search: str, task: str, name: str, argv: list[str], console: Console) -> Summary | str:
    """Run a search; return its summary with a link to its report, or in one line why it could not run."""
    flags = [*without(argv, "--tables", "--name"), "--name", name, "--set", f"task={task}"]
    try:
        parsed = options.parse_for_user(lambda: search_of(search), flags)
        runner.run(parsed, keep_ray=True)
    except UserError as error:
        print_line(console, f"Not run: {error}", "yellow")
        return " ".join(str(error).split())
    if parsed.plan_only:
        return "only planned"
    summary = Summary.read(parsed.results_folder / SUMMARY)
    return summary.model_copy(update={"report": f"{name}/report.html"})


if __name__ == "__main__":
    run_or_explain(lambda: main(sys.argv[1:]), f"python searches/study.py {command_text(sys.argv[1:])}")
