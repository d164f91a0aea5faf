"""What Tune is told, and what of its answers is noted."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from gpt2core.estimates import Range
from searches.deciding.comparing import Comparing
from searches.deciding.strategy import Strategy
from searches.lora_rank import SEARCH as OF_A_FACTOR
from searches.plan import make_plan
from searches.running.budget import Budget
from searches.running.budget_stop import BudgetStopper
from searches.running.failures import translate_errors
from searches.running.gpu_sharing import GpuSharing, trials_per_gpu
from searches.running.ledger import BY_HAND, DIVERGED, OUT_OF_MEMORY, Ledger, LedgerError
from searches.running.quantities import Forecast
from searches.running.ray_tune import StrategyScheduler, StrategySearcher
from trainables.packs import Packs
from trainables.trial import TrialSpec

SEARCH = replace(OF_A_FACTOR, factor=())  # whose rungs measure all trials together


def result(score: float, epoch: int = 2) -> dict[str, Any]:
    return {"epoch": epoch, "objective": score, "metrics/chrf_continuation": score, "statistics": None, "samples": []}


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[StrategySearcher]:
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        yield made(ledger, tmp_path)


def made(ledger: Ledger, folder: Path, part: float = 0.0) -> StrategySearcher:
    by_chrf = Comparing(objective="chrf_continuation")
    plan = make_plan(SEARCH, "quick", trials=4, replicates=0, grace=1, settings={"epochs": "9"}, comparing=by_chrf)
    ledger.record({"event": "lag", "trials": 4})
    spec = TrialSpec(
        name="",
        run=plan.config(plan.search.reference),
        folder="",
        gpus_per_worker=part,
        concurrent=round(1 / (part or 1)),
    )
    strategy = Strategy(plan, ledger)
    sharing = GpuSharing(spec, ledger) if part else None
    budget = BudgetStopper(Budget(), plan, ledger)
    return StrategySearcher(strategy, spec, str(folder / "trials"), budget, sharing=sharing)


def test_a_trial_has_a_stable_name_and_folder(searcher: StrategySearcher, tmp_path: Path) -> None:
    spec = TrialSpec.from_dict(searcher.suggest("a")["spec"])
    assert (spec.name, spec.folder) == ("0000", str(tmp_path / "trials" / "0000"))
    assert (spec.parent, spec.until) == (None, None)


def test_what_an_earlier_driver_left_running_is_handed_out_first(searcher: StrategySearcher, tmp_path: Path) -> None:
    specs = [searcher.suggest(name)["spec"] for name in "ab"]
    searcher.on_trial_complete("a", result(1.0, 9))
    again = made(searcher.strategy.ledger, tmp_path)
    assert again.suggest("c")["spec"] == specs[1]
    assert again.suggest("d")["spec"]["name"] == "0002"


def test_it_waits_and_then_is_finished(searcher: StrategySearcher) -> None:
    for name in "abcd":
        assert searcher.suggest(name)["spec"]
    assert searcher.suggest("e") is None
    for name in "abcd":
        searcher.on_trial_complete(name, result(1.0, 9))
    assert searcher.suggest("f") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("kind", "status"), [("diverged", DIVERGED), ("out_of_memory", OUT_OF_MEMORY), ("failed", "failed")]
)
def test_a_failure_has_its_kind_and_reason(searcher: StrategySearcher, kind: str, status: str) -> None:
    searcher.suggest("a")
    failure = {"epoch": 0, "objective": float("nan"), "failure/kind": kind, "failure/reason": "because"}
    searcher.on_trial_complete("a", failure)
    assert (searcher.trials["0000"].status, searcher.trials["0000"].reason) == (status, "because")


REASON = "trials/0000: No space left on device"
FULL = {"epoch": 1, "objective": 1.0, "failure/kind": "no_room", "failure/reason": REASON}


def test_a_full_disk_of_the_search_ends_the_search_not_its_trials(searcher: StrategySearcher, tmp_path: Path) -> None:
    first = searcher.suggest("a")["spec"]
    searcher.suggest("b")
    searcher.on_trial_complete("a", FULL)
    assert searcher.budget.stop_all()
    searcher.on_trial_complete("b", result(1.0, 9))
    says = "^trials/0000: No space left on device; nothing recorded is lost: free some space"
    with pytest.raises(LedgerError, match=says), translate_errors(searcher.strategy.ledger):
        assert searcher.suggest("c") == Searcher.FINISHED
    searcher.strategy.ledger.close()
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        assert made(ledger, tmp_path).suggest("c")["spec"] == first


def test_a_full_disk_of_a_machine_elsewhere_ends_a_trial(searcher: StrategySearcher) -> None:
    searcher.trials_folder = "s3://bucket/searches/one/trials"
    searcher.suggest("a")
    searcher.on_trial_complete("a", FULL)
    assert (searcher.trials["0000"].status, searcher.trials["0000"].reason) == ("failed", FULL["failure/reason"])


def test_a_trial_whose_process_died_is_failed_not_lost(searcher: StrategySearcher) -> None:
    searcher.suggest("a")
    searcher.on_trial_complete("a", None, error=True)
    assert searcher.trials["0000"].status == "failed"
    assert "its process died" in str(searcher.trials["0000"].reason)


def test_a_trial_that_tune_gives_up_too_early_is_handed_out_again(searcher: StrategySearcher, tmp_path: Path) -> None:
    scheduler = StrategyScheduler(searcher)
    (tmp_path / "error.txt").write_text("Failure # 1\nray.exceptions.ActorDiedError: The actor died unexpectedly\n")
    spec = searcher.suggest("a")["spec"]
    for number, name in enumerate("abc"):
        dead = SimpleNamespace(trial_id=name, error_file=str(tmp_path / "error.txt"), num_failures=2)
        scheduler.on_trial_error(SimpleNamespace(), dead)
        searcher.on_trial_complete(name, None, error=True)
        if number < 2:
            assert searcher.suggest("abc"[number + 1])["spec"] == spec
    assert (searcher.trials["0000"].status, searcher.trials["0000"].reason) == ("failed", "its process died")


@pytest.mark.parametrize("by_actors", [True, False])
def test_a_report_is_noted_once_and_may_end_another_trial(searcher: StrategySearcher, by_actors: bool) -> None:
    """At once if an actor runs it, else at its next report."""
    scheduler, ended = StrategyScheduler(searcher), []
    searcher.actors = cast(Packs, SimpleNamespace(place=lambda spec: spec, leave=bool)) if by_actors else None
    for name in "abcd":
        searcher.suggest(name)
    for trial in searcher.trials.values():
        trial.origin = "sampler"
    trials = {name: SimpleNamespace(trial_id=name) for name in "abcd"}
    controller = SimpleNamespace(get_live_trials=lambda: list(trials.values()), stop_trial=ended.append)

    scheduler.on_trial_add(controller, trials["a"])

    def report(name: str, score: float) -> str:
        return scheduler.on_trial_result(controller, trials[name], result(score, 1))

    assert report("a", 2.0) == TrialScheduler.CONTINUE
    assert report("c", 1.0) == TrialScheduler.CONTINUE
    assert ended == []
    assert report("b", 3.0) == TrialScheduler.CONTINUE
    assert ended == ([trials["c"]] if by_actors else []), "that waited for what b has"
    assert report("c", 9.0) == TrialScheduler.STOP
    assert report("d", 1.5) == TrialScheduler.STOP
    assert report("d", 1.5) == TrialScheduler.STOP, "an epoch that is told twice"
    searcher.on_trial_complete("c")
    searcher.on_trial_complete("d", result(1.5, 1))
    assert [trial.status for trial in searcher.trials.values()] == ["running", "running", "stopped", "stopped"]


def test_a_pause_takes_a_trial_off_its_worker_and_hands_it_out_again(searcher: StrategySearcher) -> None:
    scheduler, trial = StrategyScheduler(searcher), SimpleNamespace(trial_id="a")
    spec = searcher.suggest("a")["spec"]
    searcher.paused = True
    assert scheduler.on_trial_result(None, trial, result(2.0, 1)) == TrialScheduler.STOP
    searcher.on_trial_complete("a", result(2.0, 1))
    assert searcher.suggest("b") is None
    assert searcher.trials["0000"].status == "running"
    searcher.paused = False
    assert searcher.suggest("b")["spec"] == spec
    searcher.paused = True
    scheduler.on_trial_result(None, SimpleNamespace(trial_id="b"), result(2.0, 9))
    searcher.on_trial_complete("b", result(2.0, 9))
    assert searcher.trials["0000"].status == "completed", "its last epoch"


def test_a_trial_that_is_stopped_before_its_first_report_has_ended(searcher: StrategySearcher) -> None:
    searcher.suggest("a")
    searcher.strategy.stop(searcher.trials["0000"], 0, BY_HAND)
    searcher.on_trial_complete("a", {"trial_id": "a", "done": False})
    assert (searcher.trials["0000"].status, searcher.trials["0000"].reason) == ("stopped", BY_HAND)


def forecast(gpu_gb: float | None, most: float) -> Forecast:
    """One of a GPU's memory, and of a trial that takes `most` gigabytes."""
    return Forecast(gpu_gb=gpu_gb, ranges={"memory_gb": Range(value=0.0, low=0.0, high=most)})


@pytest.mark.parametrize(("plan", "several"), [
    (Forecast(), 1), (forecast(None, 1.0), 1), (forecast(80.0, 1.0), 4), (forecast(80.0, 30.0), 2),
    (forecast(80.0, 60.0), 1), (forecast(80.0, 100.0), 1),
])  # fmt: skip
def test_as_many_trials_share_a_gpu_as_its_memory_has_room_for(plan: Forecast, several: int) -> None:
    assert trials_per_gpu(plan) == several


def test_a_trial_whose_part_of_a_gpu_was_too_small_is_tried_again_with_more(tmp_path: Path) -> None:
    def gpus(answer: Any) -> tuple[str, float]:
        spec = TrialSpec.from_dict(answer["spec"])
        return spec.name, spec.gpus_per_worker

    none_left = {"epoch": 0, "failure/kind": "out_of_memory", "failure/reason": "no memory left"}
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        searcher = made(ledger, tmp_path, part=0.25)
        assert [gpus(searcher.suggest(name)) for name in "abcd"] == [(f"000{number}", 0.25) for number in range(4)]
        assert searcher.suggest("e") is None, "a GPU has no more parts"
        searcher.on_trial_complete("a", none_left)
        assert searcher.suggest("e") is None, "a quarter is free, and half of a GPU is wanted"
        searcher.on_trial_complete("b", none_left)
        assert gpus(searcher.suggest("e")) == ("0000", 0.5)
        searcher.on_trial_complete("e", none_left)
        for name in "cd":
            searcher.on_trial_complete(name, result(1.0, 9))
        assert gpus(searcher.suggest("f")) == ("0001", 1.0)
        assert gpus(made(ledger, tmp_path, part=0.25).suggest("g"))[1] == 1.0, "it was forgotten"
        searcher.on_trial_complete("f", none_left)
        assert searcher.trials["0001"].status == OUT_OF_MEMORY, "there is no more to give"


def test_a_trial_that_holds_more_than_its_part_of_a_gpu_leaves_those_after_it_more(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        ledger.record({"event": "plan", "plan": {"gpu_gb": 40.0}})
        searcher = made(ledger, tmp_path, part=0.25)
        scheduler = StrategyScheduler(searcher)
        for name, held, part in (("a", 9.0, 0.25), ("b", 9.8, 0.5)):
            searcher.suggest(name)
            report = {**result(1.0, 1), "metrics/gpu_memory_gb": held}
            scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), report)
            assert TrialSpec.from_dict(searcher.suggest(f"{name}2")["spec"]).gpus_per_worker == part
            searcher.on_trial_complete(f"{name}2", result(1.0, 9))
