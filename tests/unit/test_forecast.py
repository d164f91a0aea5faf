"""What a search takes: the arithmetic before it and while it runs, and timings of real steps on the toy."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2core import speed
from gpt2core.config import RunConfig
from gpt2core.data.order import epoch_sizes
from gpt2core.distill.shards import Shard
from gpt2core.estimates import Range, exactly
from gpt2core.speed import evaluation_seconds, mean_range, step_seconds, threads
from gpt2core.testing import toys
from gpt2core.training import train
from searches import distillation
from searches.deciding.comparing import Judges
from searches.deciding.method import Method
from searches.lora_rank import SEARCH
from searches.pairs import jobs, pairs_seconds
from searches.plan import Plan, make_plan
from searches.planning.forecast import GROUP, Outlook, TrialCost, expected_epochs, predict, seconds_left, trials_of
from searches.planning.measure import Meter
from searches.result_files import CANDIDATES
from searches.running.budget import HOUR
from searches.running.events import event_of
from searches.running.ledger import COMPLETED, STOPPED, State
from searches.running.quantities import Quantity
from tests import course
from tests.unit.test_budget import event, proposed, share_event
from trainables.candidates.actors import GeneratorActor, ScorerActor
from trainables.candidates.progress import Report
from trainables.trial import TrialSpec

FACTOR = 4  # within which a prediction on the toy must be right, on a machine that does other things as well

sorted_three = st.lists(st.floats(0, 1e6), min_size=3, max_size=3).map(sorted)


def plan(**changes: int) -> Plan:
    return make_plan(replace(SEARCH, factor=()), "quick", settings={"epochs": 3}, **changes)


def cost(memory: float = 1.0, disk: float = 0.5) -> TrialCost:
    return TrialCost(
        steps=(10, 10, 10),
        step=exactly(0.1),
        evaluation=exactly(1.0),
        before=exactly(0.0),
        memory_gb=exactly(memory),
        disk_gb=disk,
    )


def predicted(plan: Plan, outlook: Outlook, price: float | None = None, **spec: float) -> dict[Quantity, Range]:
    shape = TrialSpec(name="", run=plan.config(plan.search.reference), folder="", **spec)  # type: ignore[arg-type]
    return predict(plan, outlook, shape, price)


@pytest.mark.parametrize(
    ("grace", "epochs", "expected"),
    [(1, 1, 1), (1, 3, 1 + 2 / 3), (1, 9, 1 + 2 / 3 + 6 / 9), (2, 10, 2 + 4 / 3 + 4 / 9)],
)
def test_one_of_three_passes_each_rung(grace: int, epochs: int, expected: float) -> None:
    assert expected_epochs(grace, epochs) == pytest.approx(expected)


@given(grace=st.integers(1, 50), epochs=st.integers(1, 50))
def test_a_trial_runs_to_its_first_rung_at_least_and_to_its_end_at_most(grace: int, epochs: int) -> None:
    assert min(grace, epochs) <= expected_epochs(grace, epochs) + 1e-9 <= epochs + 1e-6


@given(sorted_three, sorted_three, st.floats(0, 100))
def test_ranges_stay_in_order(a: list[float], b: list[float], times: float) -> None:
    first, second = (Range(low=low, value=value, high=high) for low, value, high in (a, b))
    total = (first + second) * times
    assert total.low <= total.value <= total.high


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8))
def test_an_interval_of_a_mean_holds_it_and_is_above_0(values: list[float]) -> None:
    found = mean_range(values)
    assert 0 < found.low <= found.value * (1 + 1e-9)
    assert found.value <= found.high * (1 + 1e-9)


def test_epochs_lie_between_all_stopped_at_the_first_rung_and_none() -> None:
    asked = plan(trials=10, replicates=2)  # 5 known points, 5 of the sampler, 4 replicates
    rows = predicted(asked, Outlook(known=[cost()] * 5, drawn=[cost()] * 3, once=exactly(0.0)))
    assert rows["trials"] == exactly(14)
    assert (rows["epochs"].low, rows["epochs"].high) == (9 * 3 + 5 * 1, 14 * 3)
    assert rows["epochs"].value == pytest.approx(27 + 5 * (1 + 2 / 3))
    assert all(row.low <= row.value <= row.high for row in rows.values())


def test_each_value_of_a_factor_is_counted_and_runs_that_judge_may_take_more() -> None:
    asked = make_plan(SEARCH, "quick", settings={"epochs": 3}, trials=10, replicates=3)
    outlook = Outlook(known=[cost()] * 5, drawn=[cost()] * 3, once=exactly(0.0))
    assert predicted(asked, outlook)["trials"] == exactly(12 + 4 * 3), (
        "of each of four ranks three trials, and the best again"
    )
    shape = TrialSpec(name="", run=asked.config(asked.search.reference), folder="")
    once, twice = (predict(asked, outlook, shape, None, n) for n in (1.0, 2.0))
    assert twice["cpu_hours"].value - once["cpu_hours"].value == pytest.approx(12 * 6 / HOUR)


def test_gpu_hours_and_money_count_the_gpus_of_each_trial() -> None:
    asked = plan(trials=5, replicates=1)
    outlook = Outlook(known=[cost()] * 5, drawn=[cost()], once=exactly(0.0))
    rows = predicted(asked, outlook, price=2.0, workers=2, gpus_per_worker=1.0, concurrent=7)
    assert rows["gpu_hours"].value == pytest.approx(2 * 7 * (6 + GROUP.value) / HOUR)
    few = predicted(asked, outlook, price=2.0, workers=2, gpus_per_worker=1.0, concurrent=1)
    assert few["gpu_hours"].value == pytest.approx(2 * (7 * 6 + GROUP.value) / HOUR), (
        "one group takes trial after trial"
    )
    assert rows["usd"].high == pytest.approx(2.0 * rows["gpu_hours"].high)
    without = predicted(asked, outlook, concurrent=1)
    assert without["gpu_hours"] == exactly(0)
    assert "usd" not in without


def test_more_trials_at_once_take_less_wall_clock_and_the_same_work() -> None:
    outlook = Outlook(known=[cost()] * 5, drawn=[cost()], once=exactly(0.0))
    one, four = (predicted(plan(trials=8, replicates=2), outlook, concurrent=n) for n in (1, 4))
    assert four["hours"].value < one["hours"].value
    assert four["epochs"] == one["epochs"]


def test_memory_is_that_of_the_largest_trial_and_disk_that_of_all() -> None:
    known = [cost(memory=1.0, disk=0.5), cost(memory=3.0, disk=1.5)]
    rows = predicted(plan(trials=2, replicates=0), Outlook(known=known, drawn=[cost()], once=exactly(0.0)))
    assert rows["memory_gb"] == Range(value=3.0, low=1.0, high=3.0)
    assert (rows["disk_gb"].low, rows["disk_gb"].high) == (1.0, 3.0)


def test_a_part_of_an_epoch_is_a_part_of_its_steps() -> None:
    assert cost().seconds(1.5).value == pytest.approx(3.0)
    assert cost().seconds(3).value == pytest.approx(6.0)


def test_searched_epochs_count_as_often_as_they_are_drawn() -> None:
    asked = plan(trials=10, replicates=2)  # 5 known points, 5 of the sampler, 4 replicates
    short = replace(cost(), steps=(10,))
    rows = predicted(asked, Outlook(known=[cost()] * 5, drawn=[cost(), short], once=exactly(0.0)))
    again = 4 * (6 * 3 + 1) / 7  # replicates of any of the known and drawn points
    assert rows["epochs"].low == pytest.approx(5 * 3 + 5 * 1 + again)
    assert rows["epochs"].value == pytest.approx(5 * 3 + 5 * (1 + 2 / 3 + 1) / 2 + again)
    assert rows["epochs"].high == pytest.approx(5 * 3 + 5 * 2 + again)
    assert short.seconds(3) == short.seconds(1)


def test_what_is_left_follows_the_plan_until_a_trial_has_ended_and_then_the_trials() -> None:
    state = State()
    seconds = {"value": 10.0, "low": 5.0, "high": 20.0}
    for one in (
        event("started", 0.0),
        share_event(0.0, concurrent=2),
        event("plan", 0.0, plan={"ranges": {"trial_seconds": seconds}}),
        proposed("0000", 0.0, origin="reference"),
    ):
        state.apply(event_of(one))
    asked = plan(trials=5, replicates=1)
    assert seconds_left(asked, state, 0.0) == pytest.approx((5 * 10 + 2 * 20) / 2)
    assert seconds_left(asked, state, 4.0) == pytest.approx((5 * 10 + 2 * 20 - 4) / 2)
    state.apply(event_of(event("ended", 30.0, trial="0000", status=COMPLETED)))
    assert seconds_left(asked, state, 30.0) == pytest.approx((4 * 30 + 2 * 30) / 2)
    state.apply(event_of(proposed("0001", 30.0)))
    state.apply(event_of(event("ended", 40.0, trial="0001", status=STOPPED)))
    assert seconds_left(asked, state, 40.0) == pytest.approx((3 * 20 + 2 * 30) / 2)


def test_a_trial_of_the_toy_takes_what_was_timed_within_a_factor() -> None:
    run, base, data = toys.RUN.but(batch_size=4, epochs=3), toys.model(), toys.data(train=60)
    with threads(1):
        step = step_seconds(run, base, data, patience=5)
        scoring, generating = evaluation_seconds(run, base, data, patience=5)
        started = time.perf_counter()
        reports = list(train(run, base, data))
        took = time.perf_counter() - started
    steps = [size / run.batch_size for size in epoch_sizes(run, 60)]
    foreseen = step * sum(steps) + (scoring + generating) * len(reports)
    assert foreseen.low / FACTOR < took < foreseen.high * FACTOR


def test_what_generates_no_text_takes_no_time_for_it() -> None:
    base, data = toys.model(), toys.data()
    assert evaluation_seconds(toys.RUN, base, data, patience=0).generating.low > 0
    for run in (toys.RUN.but(decode_seeds=0), toys.RUN.but(task="sst")):
        assert evaluation_seconds(run, base, data, patience=0).generating == exactly(0.0)


@pytest.mark.parametrize(
    ("folds", "examples", "cost"),
    [(1, None, 1.0), (2, None, 1.0), (2, 60, 1.0), (2, 40, 1.5), (2, 30, 2.0), (5, 20, 5.0)],
)
def test_a_judged_run_costs_as_many_trainings_as_folds_if_each_has_all_examples_of_a_trial(
    folds: int, examples: int | None, cost: float
) -> None:
    judges = Judges(on="folds", texts=60, run={"judged": True, "folds": folds})
    assert judges.cost(examples) == pytest.approx(cost)


def test_what_does_not_train_takes_no_steps() -> None:
    assert step_seconds(toys.RUN.but(adapter="frozen"), toys.model(), toys.data(), patience=1) == exactly(0.0)


def test_once_patience_is_over_the_nearest_timing_stands_in() -> None:
    meter = Meter(workers=1, patience=0.0)
    run = RunConfig(task="sonnet", adapter="full", train_examples=16, batch_size=8)
    first = meter.step(run)
    assert meter.step(run.but(batch_size=4)) == first
    assert len(meter.steps) == 1


def test_a_grid_has_as_many_trials_as_points_at_most() -> None:
    fixed = {"epochs": 1, "rank": 4, "batch_size": 8}
    for wanted, expected in ((100, 5 * 3), (7, 7)):  # values of lr, of alpha
        grid = make_plan(SEARCH, "quick", settings=fixed, trials=wanted, method=Method(sampler="grid"))
        assert trials_of(grid) == expected
        assert trials_of(make_plan(SEARCH, "quick", settings=fixed, trials=wanted)) == wanted


def charged(run: Callable[..., Report], clock: list[float]) -> Callable[..., Report]:
    """An actor's `run` on a clock: a second for each context of a shard, and a minute for the first, which loads models."""
    loading = [60.0]

    def running(self: Any, number: int, files: dict[str, Shard]) -> Report:
        report = run(self, number, files)
        clock.append(clock[-1] + len(files["contexts"].read()) + (loading.pop() if loading else 0.0))
        return report

    return running


def test_pairs_are_timed_by_what_their_actors_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, spec = course.folder(tmp_path / "data"), TrialSpec(name="", run=toys.RUN, folder="", concurrent=2, workers=2)
    settings = {"data_dir": str(data), "pairs": str(tmp_path / "results" / CANDIDATES), "pairs_temperature": 0.7}
    asked = make_plan(distillation.SEARCH, "quick", smoke=True, settings=settings)
    (part,) = jobs(asked, tmp_path / "results")
    clock = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock[-1]))
    for actor in (GeneratorActor, ScorerActor):
        monkeypatch.setattr(actor, "run", charged(actor.run, clock))
    assert pairs_seconds(asked, spec, tmp_path / "results", patience=100) == exactly(2 * part.job.contexts / 4)
    assert pairs_seconds(asked, spec, tmp_path / "elsewhere", patience=100) == exactly(0.0), "the pairs are given"
