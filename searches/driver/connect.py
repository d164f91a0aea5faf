"""First step of a search: validate it, open its ledger, connect to MLflow and Ray."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import ray
from rich.console import Console

from gpt2core.cli import interrupt_on_signals
from gpt2core.console import print_line
from gpt2core.model_config import unused_decoding
from gpt2core.tasks import TaskData
from gpt2core.tasks.gold import check_gold
from gpt2core.weights import model_folder
from searches.deciding.confirmation import fix_design
from searches.flags import without
from searches.options import Options
from searches.pairs import jobs
from searches.planning.checking import check, record_data
from searches.programs.checking import check_program, record_program
from searches.running.ledger import Ledger
from searches.running.resources import connect_to_ray
from searches.running.resume import open_ledger, separate_copy
from searches.search_file import definition_of
from searches.showing.facts import OWN_PARTS, cluster, machine
from searches.showing.screen import Screen, waiting_for, warm_start_texts
from searches.showing.summary import model_line
from trainables.tracking import mlflow_address
from trainables.trial import TrialSpec

if TYPE_CHECKING:  # MLflow takes a second to import
    from searches.running.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What the three steps of a search share."""

    options: Options
    console: Console
    data: TaskData | None  # None if a program reads it
    ledger: Ledger
    screen: Screen

    @cached_property
    def tracker(self) -> "Tracker":
        """The ledger's listener that logs to MLflow."""
        from searches.running.tracking import Tracker

        options = self.options
        uri = mlflow_address(options.tracking_uri, options.storage_folder)
        return Tracker(options.plan, self.ledger, uri, self.screen.warn)


def open_search(options: Options, console: Console) -> SearchRun:
    """Validate plan, model and data, and open the ledger. Raises UserError."""
    plan, folder = options.plan, options.results_folder
    data = None
    if plan.program is not None:
        check_program(plan.program)
    else:
        with waiting_for(console, "Reading model and data"):
            data = check(plan, without_pairs=any(jobs(plan, folder)))
        if options.scores_test:
            check_gold(data.corpus, "test", plan.task)
    say = partial(print_line, console)
    ledger = open_ledger(folder, plan, options.resume, say)
    separate_copy(plan, ledger, folder, mlflow_address(options.tracking_uri, options.storage_folder), say)
    argv = without(options.argv, "--tracking-uri", "--notify")  # they may hold passwords
    search, environment = plan.search, machine()
    if ledger.state.trials and ledger.state.environment.get(OWN_PARTS) != environment.get(OWN_PARTS):
        before, now = (facts.get(OWN_PARTS, "none") for facts in (ledger.state.environment, environment))
        say(f"note: earlier trials ran with own parts {before}; now {now}")
    stated = {"file": search.source, "definition": search.definition or definition_of(search)}
    warm_start = [start.model_dump() for start in plan.warm_start]
    started = {"event": "started", "argv": argv, "folder": str(folder), "environment": environment}
    ledger.record({**started, **stated, "warm_start": warm_start})
    screen = Screen(plan, console, options.budget, ledger.state)
    return SearchRun(options=options, console=console, data=data, ledger=ledger, screen=screen)


def connect(run: SearchRun) -> TrialSpec:
    """Connect to MLflow and Ray, record data, comparison and cluster; return what every trial gets.

    Raises UserError if MLflow or Ray does not answer, or if data, model or comparison differ from those of an earlier start.
    """
    options, ledger, console = run.options, run.ledger, run.console
    plan = options.plan
    print_line(console, f"{'Program' if plan.program else 'Model'}: {model_line(plan)}")
    for line in warm_start_texts(plan):
        print_line(console, line)
    if plan.program is None and (unused := unused_decoding(model_folder(plan.config(plan.search.reference).model))):
        print_line(console, f"note: {unused}")

    def record() -> None:
        run.tracker.open(options)
        run.screen.link = run.tracker.while_running()
        ledger.listeners += [run.screen, run.tracker]
        if plan.program is not None:
            record_program(plan.program, ledger)
        elif run.data is not None:
            record_data(plan, ledger, run.data)
        fix_design(plan, ledger)

    with waiting_for(console, "Starting Ray and MLflow"), ThreadPoolExecutor(1) as executor:
        recorded = executor.submit(record)
        # In this thread, since Linux ends Ray's processes with the thread that started them.
        spec = connect_to_ray(options, options.results_folder, run.screen.warn)
        recorded.result()
    print_line(console, f"Data: {ledger.state.data['data']}")
    ledger.record({"event": "cluster", "cluster": cluster(ray.cluster_resources())})
    interrupt_on_signals()
    return spec
