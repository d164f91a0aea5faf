"""All that a search has found so far, from its flags and from what its ledger adds up to: what summary.json holds."""

import argparse
from importlib.metadata import version
from pathlib import Path

from gpt2core.storage import address
from searches.deciding.results import summarise
from searches.options import Options, parse, search_folder
from searches.planning.measure import with_costs
from searches.question import Plan, search_of
from searches.running.ledger import State, read_search
from searches.showing.facts import with_facts
from searches.showing.report import write
from searches.summary import Summary

PACKAGES = ("torch", "ray", "optuna", "mlflow", "sacrebleu", "tokenizers")


def summary_of(options: Options, state: State, folder: Path) -> Summary:
    """What tables, plots and reports are made from; `folder` is that of the search's results."""
    versions = {package: version(package) for package in PACKAGES}
    summary = summarise(options.plan, state, options.name, model_line(options.plan), versions)
    return with_facts(with_costs(summary, options, state, folder), options, state)


def model_line(plan: Plan) -> str:
    """Which model a search used, in plain words."""
    name = plan.config(plan.search.reference).model
    if name == "gpt2-nano":
        return "gpt2-nano, the small stand-in that ships with the project; for the real one, --model gpt2"
    return name


def reopened(asked: argparse.Namespace) -> tuple[Path, State, Options]:
    """Folder, state and flags of the search that a command names. Raises UserError."""
    folder = search_folder(asked.storage, asked.name)
    state = read_search(folder, needs_script=True)
    storage = ["--storage", asked.storage] if asked.storage else []
    return folder, state, parse(search_of(state.script), [*state.argv, "--name", asked.name, *storage])


def report(asked: argparse.Namespace) -> int:
    """Write the report of a search as it stands, whether it runs, was interrupted or has ended. Raises UserError."""
    folder, state, options = reopened(asked)
    page, *_ = write(folder, summary_of(options, state, folder))
    print(f"Report: {address(page)}")
    return 0
