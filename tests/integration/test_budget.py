"""Searches within a budget, in real Tune runs and from the command line: they end there, and a larger budget goes on."""

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray import tune
from rich.console import Console

from gpt2core.metrics.direction import Direction
from searches.deciding.strategy import Strategy
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.plan import Plan, make_plan
from searches.planning.measure import record_forecast
from searches.programs.flags import parse_program
from searches.running.budget import HOUR, Budget
from searches.running.budget_stop import BudgetStopper
from searches.running.ledger import COMPLETED, STOPPED, Event, Ledger, Report, State
from searches.running.ray_tune import RayTune, StrategyScheduler, StrategySearcher
from searches.running.resources import trial_spec
from tests.killing import NAME, finished, make_toy
from tests.runs import events, summary
from trainables.executors import trainable
from trainables.nodes import Machine
from trainables.trial import TrialSpec

pytestmark = pytest.mark.slow

EPOCHS, OBJECTIVE = 3, "dev_loss"
SLEEP = "54321"  # seconds, and what a program is found by


class Watch:
    """A clock that reports move: each epoch takes 100 seconds."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, Report):
            self.time += 100.0


def report(config: dict[str, Any], epoch: int) -> None:
    score = float(config["spec"]["run"]["rank"] + config["spec"]["run"]["seed"] % 7)
    tune.report({"epoch": epoch, "objective": score, "metrics": {OBJECTIVE: score}, "statistics": None})


def trains(config: dict[str, Any]) -> None:
    for epoch in range(1, EPOCHS + 1):
        report(config, epoch)


def never_ends(config: dict[str, Any]) -> None:
    report(config, 1)
    threading.Event().wait()


def plan(trials: int) -> Plan:
    return make_plan(SEARCH, "quick", trials=trials, replicates=1, settings={"epochs": EPOCHS})


def run(function: Callable[[dict[str, Any]], None], plan: Plan, budget: Budget, folder: Path, at_once: int) -> State:
    watch = Watch()
    with closing(Ledger(folder / "ledger.jsonl", now=lambda: watch.time)) as ledger:
        watch.time = ledger.state.clock.last or 0.0
        ledger.record({"event": "started"})
        ledger.listeners.append(watch)
        spec = TrialSpec(name="", run=plan.config(plan.search.reference), folder=str(folder), concurrent=at_once)
        stopper = BudgetStopper(budget, plan, ledger)
        stopper.begin(spec)
        ledger.record({"event": "lag", "trials": 2 * at_once})
        searcher = StrategySearcher(Strategy(plan, ledger, stopper.searching), spec, str(folder / "trials"), stopper)
        tune.Tuner(
            tune.with_resources(function, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StrategyScheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, stop=stopper),
        ).fit()
        stopper.close()
        return ledger.state


def test_a_part_is_kept_for_the_replicates_so_that_there_is_an_answer(local_ray: None, tmp_path: Path) -> None:
    state = run(trains, plan(20), Budget(hours=2750 / HOUR), tmp_path, at_once=1)
    assert 4 <= len(state.searched) < 20
    repeats = [trial for trial in state.trials.values() if trial.of]
    assert [trial.status for trial in repeats] == [COMPLETED] * 4, "one for each value of the rank"
    assert {trial.point["rank"] for trial in repeats} == {4, 8, 16, 32}
    assert state.clock.wall <= 2750
    assert {trial.reason for trial in state.searched} <= {None, "budget"}


def test_a_spent_budget_stops_a_hung_epoch_and_a_larger_one_resumes(local_ray: None, tmp_path: Path) -> None:
    first = run(never_ends, plan(2), Budget(hours=150 / HOUR), tmp_path, at_once=2)
    assert {name: (trial.status, trial.reason) for name, trial in first.trials.items()} == {
        "0000": (STOPPED, "budget"),
        "0001": (STOPPED, "budget"),
    }
    assert all(trial.score(OBJECTIVE, Direction.MIN) is not None for trial in first.trials.values())

    second = run(trains, plan(2), Budget(hours=1), tmp_path, at_once=2)
    assert [trial.status for trial in second.searched] == [COMPLETED, COMPLETED]
    assert len(second.replicates("0000")) == len(second.replicates("0001")) == 1


def test_a_spent_budget_ends_programs_at_once(local_ray: None, tmp_path: Path) -> None:
    command, flags = f"sh -c 'echo acc={{acc}}; exec sleep {SLEEP}'", ["--metric", "acc", "--search", "acc=0.1,0.2"]
    flags += ["--set", "epochs=2", "--trials", "2", "--replicates", "0", "--budget-hours", str(150 / HOUR)]
    options = parse_program(["--command", command, *flags])
    watch = Watch()
    with closing(Ledger(tmp_path / "ledger.jsonl", now=lambda: watch.time)) as ledger:
        ledger.record({"event": "started"})
        ledger.listeners.append(watch)
        spec = trial_spec(options, tmp_path, [Machine(2, 0)])
        stopper = BudgetStopper(options.budget, options.plan, ledger)
        stopper.begin(spec)
        strategy = Strategy(options.plan, ledger, stopper.searching)
        strategy.begin()
        RayTune(options, spec, trainable(spec), stopper, lambda scheduler: []).run(strategy)
        stopper.close()
        assert [(trial.status, trial.reason) for trial in ledger.state.searched] == [(STOPPED, "budget")] * 2
    assert not [process for process in psutil.process_iter(["cmdline"]) if SLEEP in (process.info["cmdline"] or ())]


def test_a_search_whose_budget_is_spent_reports_what_it_has_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    flags = ("--replicates", "0", "--set", "epochs=1", "--max-concurrent", "1")
    finished(tmp_path, toy, *flags, "--trials", "2")
    spent = summary(tmp_path, NAME)["budget"]["spent"]["hours"]

    over = finished(tmp_path, toy, *flags, "--trials", "4", "--budget-hours", str(spent))
    assert len(events(tmp_path, NAME, "proposed")) == 2
    assert "it ended the search, which the same command with a larger budget resumes" in over
    assert "Answer:" in over
    assert summary(tmp_path, NAME)["budget"]["ended"]

    larger = finished(tmp_path, toy, *flags, "--trials", "4", "--budget-hours", "10")
    assert len(events(tmp_path, NAME, "proposed")) == 4
    result = summary(tmp_path, NAME)
    assert not result["budget"]["ended"]
    fact = {row["quantity"]: row["actual"] for row in result["forecast"]}
    assert (fact["trials"], fact["epochs"], fact["gpu_hours"]) == (4, 4, 0)
    assert fact["hours"] > spent
    assert fact["memory_gb"] > 0.1
    assert fact["disk_gb"] > 0
    for part in ("Predicted and actual", "of the budget's hours", "CPU-hours so far"):
        assert part in larger


def test_a_search_with_gpus_is_timed_where_its_trials_run(local_ray: None, tmp_path: Path) -> None:
    flags = ["--storage", str(tmp_path), "--gpus-per-worker", "1", "--usd-per-gpu-hour", "3"]
    options = parse(SEARCH, ["--smoke", *flags])
    spec = trial_spec(options, tmp_path, [Machine(4, 2)])
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        record_forecast(options, ledger, spec, Console(quiet=True))
        noted = ledger.state.forecast
        record_forecast(options, ledger, spec, Console(quiet=True))
        assert ledger.state.forecast is noted, "it was timed again"
    assert noted.ranges["usd"].value == pytest.approx(3 * noted.ranges["gpu_hours"].value)
    assert 0 < noted.ranges["gpu_hours"].low < noted.ranges["gpu_hours"].high < 1
