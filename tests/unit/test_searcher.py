"""The searcher over real Optuna: known points first, no configuration twice, then replicates of the finalists."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from searches.ledger import DIVERGED, Ledger
from searches.lora_rank import SEARCH
from searches.question import Case, Choice, Plan, make_plan
from searches.searcher import OptunaSearcher, open_study
from trainables.trial import TrialSpec

Searchers = Callable[[Plan], OptunaSearcher]


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[Searchers]:
    """Make the searcher of a plan; the ledger is closed after the test."""
    with ExitStack() as opened:

        def make(plan: Plan) -> OptunaSearcher:
            study = open_study("s", str(tmp_path / "optuna.journal"), "max", plan.seed)
            spec = TrialSpec(name="", run=plan.config(plan.search.baseline), folder=str(tmp_path))
            ledger = opened.enter_context(closing(Ledger(tmp_path / "ledger.jsonl")))
            return OptunaSearcher(plan, ledger, study, spec, str(tmp_path / "trials"))

        yield make


def result(score: float, epoch: int = 2) -> dict[str, Any]:
    return {"epoch": epoch, "objective": score, "metrics/chrf_continuation": score, "statistics": None, "samples": []}


def run_all(tune: OptunaSearcher, score: Any = lambda run: run["rank"] + run["lr"]) -> list[dict[str, Any]]:
    """Ask and complete until the searcher is finished; return the configurations of the runs."""
    runs = []
    for number in range(1000):
        config = tune.suggest(str(number))
        if config == Searcher.FINISHED:
            return runs
        runs.append(config["spec"]["run"])
        tune.on_trial_complete(str(number), result(score(runs[-1])))
    raise AssertionError("the searcher never finished")


@pytest.fixture
def small() -> Plan:
    """A space of 12 points, and more trials than points."""
    space = {"rank": Choice(4, 8, 16), "batch_size": Choice(4, 8, 16, 32)}
    search = dataclasses.replace(
        SEARCH,
        scientific=space,
        nuisance={},
        tasks={"sonnet": Case(study=[{"rank": 4, "batch_size": 8}])},
        baseline={"rank": 8, "batch_size": 8},
    )
    return make_plan(search, "quick", trials=50, replicates=0)


def test_a_space_of_12_points_gives_12_different_trials_and_then_ends(small: Plan, searcher: Searchers) -> None:
    runs = run_all(searcher(small))
    points = [(run["rank"], run["batch_size"]) for run in runs]
    assert len(points) == len(set(points)) == 12
    assert points[:2] == [(8, 8), (4, 8)]


def test_duplicates_that_were_avoided_are_counted(small: Plan, searcher: Searchers) -> None:
    tune = searcher(small)
    run_all(tune)
    assert tune.ledger.state.duplicates >= 1


def test_two_ways_to_write_one_configuration_are_one_trial(searcher: Searchers) -> None:
    search = dataclasses.replace(
        SEARCH,
        nuisance={"alpha": Choice(32.0, "2r")},
        scientific={"rank": Choice(16)},
        tasks={"sonnet": Case()},
        baseline={"rank": 16, "alpha": "2r"},
    )
    runs = run_all(searcher(make_plan(search, "quick", trials=5, replicates=0)))
    assert [run["alpha"] for run in runs] == ["2r"]


def test_the_finalists_run_again_with_fresh_seeds_on_equal_terms(searcher: Searchers) -> None:
    tune = searcher(make_plan(SEARCH, "quick", trials=6, replicates=2))
    run_all(tune)
    repeats = [trial for trial in tune.ledger.state.trials.values() if trial.of]
    assert len(repeats) == 4
    assert {trial.of for trial in repeats} == set(tune.finalists())
    assert tune.finalists()[1] == "0000"
    assert sorted(trial.run["seed"] for trial in repeats) == [11712, 11712, 11713, 11713]


def test_a_resumed_searcher_hands_out_what_was_running_and_goes_on(searcher: Searchers) -> None:
    plan = make_plan(SEARCH, "quick", trials=6, replicates=0)
    first = searcher(plan)
    first.suggest("a")
    first.on_trial_complete("a", result(1.0))
    running = first.suggest("b")["spec"]
    first.ledger.close()

    second = searcher(plan)
    assert second.suggest("c")["spec"] == running
    second.on_trial_complete("c", result(2.0))
    names = [trial.name for trial in second.ledger.state.of_search()]
    assert names == ["0000", "0001"]
    run_all(second)
    assert len(second.ledger.state.of_search()) == 6
    assert all(trial.state.is_finished() for trial in second.study.trials)


def test_a_diverged_trial_ends_with_its_reason_and_the_search_goes_on(searcher: Searchers) -> None:
    tune = searcher(make_plan(SEARCH, "quick", trials=2, replicates=0))
    tune.suggest("a")
    failure = {
        "epoch": 0,
        "objective": float("nan"),
        "failure/kind": "diverged",
        "failure/reason": "The training loss is nan",
    }
    tune.on_trial_complete("a", failure)
    trial = tune.ledger.state.trials["0000"]
    assert (trial.status, trial.reason) == (DIVERGED, "The training loss is nan")
    assert tune.suggest("b")["spec"]["name"] == "0001"


def test_a_trial_whose_process_died_is_failed_not_lost(searcher: Searchers) -> None:
    tune = searcher(make_plan(SEARCH, "quick", trials=1, replicates=0))
    tune.suggest("a")
    tune.on_trial_complete("a", None, error=True)
    assert tune.ledger.state.trials["0000"].status == "failed"
    assert "its process died" in str(tune.ledger.state.trials["0000"].reason)


def test_optuna_is_told_the_best_epoch_not_the_last(searcher: Searchers) -> None:
    tune = searcher(make_plan(SEARCH, "quick", trials=1, replicates=0))
    tune.suggest("a")
    tune.on_trial_result("a", result(5.0, 1))
    tune.on_trial_complete("a", result(2.0, 2))
    assert tune.study.trials[0].value == 5.0
