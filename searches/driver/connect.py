"""First step of a search: check it, open its ledger, connect to MLflow and to Ray."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ray
from rich.console import Console

from gpt2core.cli import interrupt_on_signals
from gpt2core.model_config import unused_decoding
from gpt2core.tasks import TaskData
from gpt2core.tasks.gold import check_gold
from gpt2core.weights import model_folder
from searches.deciding.confirmation import fix_design
from searches.options import Options, without
from searches.pairs import jobs
from searches.planning.checking import check, record_data
from searches.running.ledger import Ledger
from searches.running.resources import connect_to_ray
from searches.running.resume import open_ledger, separate_copy
from searches.running.tracking import Tracker, start_tracking
from searches.showing.facts import cluster, machine
from searches.showing.screen import Screen
from searches.showing.summary import model_line
from trainables.tracking import mlflow_address
from trainables.trial import TrialSpec


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """A search that is being driven: what its three steps share."""

    options: Options
    console: Console
    data: TaskData
    ledger: Ledger
    tracker: Tracker
    screen: Screen


def open_search(options: Options, console: Console) -> SearchRun:
    """Check everything that costs no trial, and open the ledger. Raises UserError."""
    plan, folder = options.plan, options.results_folder
    data = check(plan, without_pairs=any(jobs(plan, folder)))
    if options.scores_test:
        check_gold(data.corpus, "test", plan.task)
    ledger = open_ledger(folder, plan, options.resume, say=lambda text: console.print(text, markup=False))
    uri = mlflow_address(options.tracking_uri, options.storage_folder)
    separate_copy(plan, ledger, folder, uri, lambda text: console.print(text, markup=False, soft_wrap=True))
    argv = without(options.argv, "--tracking-uri")  # which may hold a password
    ledger.record({"event": "started", "argv": argv, "folder": str(folder), "environment": machine()})
    screen = Screen(plan, console, options.budget, ledger.state)
    tracker = Tracker(plan, ledger, uri, screen.warn)
    return SearchRun(options=options, console=console, data=data, ledger=ledger, tracker=tracker, screen=screen)


def connect(run: SearchRun) -> TrialSpec:
    """Connect to MLflow and Ray, record what is searched, on which data, and where; return what every trial gets.

    Raises UserError where either does not answer, or data, model or comparison are not those that the search began with.
    """
    options, ledger, console = run.options, run.ledger, run.console
    plan = options.plan
    console.print(f"{options.name}: {plan.search.question}", style="bold", markup=False)
    console.print(f"Model: {model_line(plan)}", markup=False, highlight=False)
    if unused := unused_decoding(model_folder(plan.config(plan.search.reference).model)):
        console.print(f"note: {unused}", markup=False, highlight=False, soft_wrap=True)
    with ThreadPoolExecutor(1) as executor:  # a new database takes seconds, and Ray waits for its processes
        tracking = executor.submit(start_tracking, run.tracker, options)
        spec = connect_to_ray(options, options.results_folder, run.screen.warn)
        tracking.result()
    ledger.listeners += [run.screen, run.tracker]
    record_data(plan, ledger, run.data)
    fix_design(plan, ledger)
    console.print(f"Data: {ledger.state.data['data']}", markup=False, highlight=False, soft_wrap=True)
    ledger.record({"event": "cluster", "cluster": cluster(ray.cluster_resources())})
    interrupt_on_signals()
    return spec
