"""First step of a search: validate it, open its ledger, connect to MLflow and Ray."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

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
from searches.showing.screen import Screen, print_line
from searches.showing.summary import model_line
from trainables.tracking import mlflow_address
from trainables.trial import TrialSpec


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What the three steps of a search share."""

    options: Options
    console: Console
    data: TaskData
    ledger: Ledger
    tracker: Tracker
    screen: Screen


def open_search(options: Options, console: Console) -> SearchRun:
    """Validate plan, model and data, and open the ledger. Raises UserError."""
    plan, folder = options.plan, options.results_folder
    data = check(plan, without_pairs=any(jobs(plan, folder)))
    if options.scores_test:
        check_gold(data.corpus, "test", plan.task)
    say = partial(print_line, console)
    ledger = open_ledger(folder, plan, options.resume, say)
    uri = mlflow_address(options.tracking_uri, options.storage_folder)
    separate_copy(plan, ledger, folder, uri, say)
    argv = without(options.argv, "--tracking-uri")  # it may hold a password
    ledger.record({"event": "started", "argv": argv, "folder": str(folder), "environment": machine()})
    screen = Screen(plan, console, options.budget, ledger.state)
    tracker = Tracker(plan, ledger, uri, screen.warn)
    return SearchRun(options=options, console=console, data=data, ledger=ledger, tracker=tracker, screen=screen)


def connect(run: SearchRun) -> TrialSpec:
    """Connect to MLflow and Ray, record data, comparison and cluster; return what every trial gets.

    Raises UserError if MLflow or Ray does not answer, or if data, model or comparison differ from those of an earlier start.
    """
    options, ledger, console = run.options, run.ledger, run.console
    plan = options.plan
    print_line(console, f"{options.name}: {plan.search.question}", style="bold")
    print_line(console, f"Model: {model_line(plan)}")
    if unused := unused_decoding(model_folder(plan.config(plan.search.reference).model)):
        print_line(console, f"note: {unused}")
    with ThreadPoolExecutor(1) as executor:  # both take seconds
        tracking = executor.submit(start_tracking, run.tracker, options)
        spec = connect_to_ray(options, options.results_folder, run.screen.warn)
        tracking.result()
    ledger.listeners += [run.screen, run.tracker]
    record_data(plan, ledger, run.data)
    fix_design(plan, ledger)
    print_line(console, f"Data: {ledger.state.data['data']}")
    ledger.record({"event": "cluster", "cluster": cluster(ray.cluster_resources())})
    interrupt_on_signals()
    return spec
