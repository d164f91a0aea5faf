"""The arithmetic of budgets: what a ledger's times add up to, what is kept for replicates, and what may go on."""

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2core.errors import ConfigError
from searches.deciding.comparing import Comparing
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.plan import make_plan
from searches.running.budget import BUDGET, HOUR, Amount, Budget, nearest_limit, phase, phase_of, reserve, spent
from searches.running.budget_stop import BudgetStopper
from searches.running.clock import Clock
from searches.running.events import event_of
from searches.running.ledger import COMPLETED, STOPPED, Ledger, RawEvent, State
from tests.summaries import summary_of

BY_CHRF = Comparing(objective="chrf_continuation")
PLAN = make_plan(SEARCH, "quick", trials=6, replicates=1, confirm=1, settings={"epochs": 2}, comparing=BY_CHRF)
seconds = st.floats(0, 1e6)


def event(kind: str, time: float, **values: object) -> RawEvent:
    return {"event": kind, "time": time, **values}


def proposed(name: str, time: float, **changes: object) -> RawEvent:
    run = PLAN.config(PLAN.search.reference).model_dump()
    trial = {"name": name, "point": dict(PLAN.search.reference), "run": run, "origin": "sampler"}
    return event("proposed", time, trial={**trial, **changes})


def report(name: str, time: float, epoch: int = 1, score: float = 1.0) -> RawEvent:
    values = {"metrics": {"chrf_continuation": score}, "statistics": None, "samples": []}
    return event("report", time, trial=name, epoch=epoch, **values)


def share_event(time: float, gpus: float = 0, concurrent: int = 1) -> RawEvent:
    return event("share", time, gpus=gpus, cpus=2, concurrent=concurrent)


def state_of(*events: RawEvent) -> State:
    state = State()
    for one in events:
        state.apply(event_of(one))
    return state


def two_that_ended(seconds_each: float, gpus: float = 0) -> State:
    return state_of(
        event("started", 0.0),
        share_event(0.0, gpus),
        proposed("0000", 0.0, origin="reference"),
        report("0000", seconds_each),
        event("ended", seconds_each, trial="0000", status=COMPLETED),
        proposed("0001", seconds_each),
        report("0001", 2 * seconds_each),
        event("ended", 2 * seconds_each, trial="0001", status=COMPLETED),
    )


def test_trials_count_while_they_run_and_the_search_from_its_start() -> None:
    state = state_of(
        event("started", 100.0),
        share_event(110.0, gpus=2),
        proposed("0000", 110.0),
        proposed("0001", 120.0),
        event("ended", 150.0, trial="0000", status=COMPLETED),
        event("left", 160.0),
    )
    assert state.clock.trials == {"0000": 40.0, "0001": 40.0}
    used = spent(Budget(usd_per_gpu_hour=3.0), state)
    assert (used.hours * HOUR, used.gpu_hours * HOUR, used.cpu_hours * HOUR) == pytest.approx((60, 160, 160))
    assert used.usd == pytest.approx(3.0 * 160 / HOUR)
    later = spent(Budget(), state, now=170.0)
    assert (later.hours * HOUR, later.gpu_hours * HOUR) == pytest.approx((70, 180))
    assert state.clock.wall == 60.0, "looking ahead changed it"


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=5))
def test_what_lies_between_a_kill_and_the_next_start_counts_nothing(sessions: list[tuple[float, float]]) -> None:
    clock, now, total = Clock(), 0.0, 0.0
    clock.tick(event_of(proposed("0000", now)))
    for down, up in sessions:
        now += down
        clock.tick(event_of(event("started", now)))
        clock.tick(event_of(share_event(now, gpus=1)))
        now, total = now + up, total + up
        clock.tick(event_of(event("left", now)))
    same = pytest.approx(total, abs=1e-6)  # differences of two times lose the digits below a microsecond
    assert clock.wall == same
    assert clock.trials.get("0000", 0.0) == same
    assert clock.gpu == same


def test_a_clock_that_is_put_back_never_gives_time_back() -> None:
    clock = Clock()
    for one in (event("started", 100.0), event("left", 160.0), event("left", 50.0), event("left", 60.0)):
        clock.tick(event_of(one))
    assert clock.wall == 70.0


def test_a_reopened_ledger_has_the_same_times(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        for one in (event("started", 0.0), share_event(0.0), proposed("0000", 0.0)):
            ledger.record(one)
    with closing(Ledger(tmp_path / "ledger.jsonl")) as again:
        assert again.state.clock == ledger.state.clock


@given(need=seconds, limit=st.floats(0.01, 1e3), gpus=st.integers(0, 8), concurrent=st.integers(1, 8))
def test_no_more_than_half_of_a_limit_is_kept(need: float, limit: float, gpus: int, concurrent: int) -> None:
    budget = Budget(hours=limit, gpu_hours=limit, usd=limit, usd_per_gpu_hour=2.0)
    state = two_that_ended(need, gpus)
    state.clock.concurrent = concurrent
    kept = reserve(budget, state, replicates=4, epochs=2)
    assert min(kept.hours, kept.gpu_hours, kept.usd) >= 0
    assert max(kept.hours, kept.gpu_hours, kept.usd) <= limit / 2


def test_what_is_kept_is_what_the_replicates_need_and_an_epoch_of_what_still_runs() -> None:
    state = two_that_ended(100.0, gpus=2)
    kept = reserve(Budget(hours=10, gpu_hours=10), state, replicates=4, epochs=2)
    assert (kept.hours * HOUR, kept.gpu_hours * HOUR) == pytest.approx((450, 900))
    assert reserve(Budget(hours=10), state, replicates=0, epochs=2) == Amount()


def test_before_the_first_trial_has_ended_the_plan_says_what_replicates_need() -> None:
    plan = {"ranges": {"trial_seconds": {"value": 50.0, "low": 10.0, "high": 80.0}}}
    state = state_of(event("started", 0.0), share_event(0.0), event("plan", 0.0, plan=plan))
    assert reserve(Budget(hours=10), state, replicates=1, epochs=2).hours * HOUR == pytest.approx(120)


@given(
    used=st.floats(0, 10), need=st.floats(0, 10), small=st.floats(0.01, 10), more=st.floats(0, 10), pair=st.booleans()
)
def test_a_larger_budget_never_allows_less(used: float, need: float, small: float, more: float, pair: bool) -> None:
    order = ["search", "replicates", "over"]
    phases = [
        phase(Budget(hours=limit), Amount(hours=used), Amount(hours=min(need, limit / 2)), comparable=pair)
        for limit in (small, small + more)
    ]
    assert order.index(phases[1]) <= order.index(phases[0])


def test_the_search_ends_in_time_for_its_replicates_and_everything_at_the_limit() -> None:
    state, budget = two_that_ended(100.0), Budget(hours=1000 / HOUR)  # 250 are kept
    found = [phase_of(budget, PLAN, state, now) for now in (740.0, 760.0, 999.0, 1000.0)]
    assert found == ["search", "replicates", "replicates", "over"]


def test_without_two_trials_to_compare_the_search_goes_on() -> None:
    state = state_of(event("started", 0.0), share_event(0.0), proposed("0000", 0.0, origin="reference"))
    budget = Budget(hours=100 / HOUR)
    assert [phase_of(budget, PLAN, state, now) for now in (99.0, 100.0)] == ["search", "over"]


def test_a_machine_without_gpus_spends_no_gpu_hours() -> None:
    budget = Budget(gpu_hours=1e-6)
    assert phase_of(budget, PLAN, two_that_ended(1e6), 1e7) == "search"
    assert phase_of(budget, PLAN, two_that_ended(1e6, gpus=1), 1e7) == "over"


def test_the_nearest_limit_is_shown() -> None:
    assert nearest_limit(Budget(hours=10, gpu_hours=4), Amount(hours=1, gpu_hours=3)) == ("gpu_hours", 0.75)
    assert nearest_limit(Budget(), Amount(hours=1)) == ("", 0.0)


@pytest.mark.parametrize(("flags", "message"), [
    (["--budget-hours", "0"], "The value of `--budget-hours` is 0, but must be > 0"),
    (["--budget-gpu-hours", "-1"], "The value of `--budget-gpu-hours` is -1, but must be > 0"),
    (["--budget-hours", "nan"], "The value of `--budget-hours` is nan, but must be > 0"),
    (["--budget-usd", "5"], "`--budget-usd` needs a price: give --usd-per-gpu-hour"),
    (["--usd-per-gpu-hour", "0"], "The value of `--usd-per-gpu-hour` is 0, but must be > 0"),
    (["--budget-hours", "inf"], "The value of `--budget-hours` is inf, but must be > 0"),
])  # fmt: skip
def test_a_limit_that_cannot_be_kept_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(SEARCH, flags)
    assert str(error.value).startswith(message)


def test_a_replicate_that_the_budget_cut_short_is_not_compared(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        for name, origin in (("0000", "reference"), ("0001", "study")):
            ledger.record(proposed(name, 0.0, origin=origin))
            ledger.record(report(name, 0.0))
            ledger.record(event("ended", 0.0, trial=name, status=COMPLETED))
            ledger.record(proposed(f"{name}-r1", 0.0, origin="replicate", of=name))
            ledger.record(report(f"{name}-r1", 0.0))
        ledger.record(event("ended", 0.0, trial="0001-r1", status=COMPLETED))
        ledger.record(event("ended", 0.0, trial="0000-r1", status=STOPPED, reason=BUDGET))
        answer = summary_of(PLAN, ledger.state)["answer"]
    assert answer["winner"] is None
    assert answer["text"] == "Not decided: no fresh seed has been run for all settings yet."


def test_a_trial_of_a_population_is_a_part_of_a_run(tmp_path: Path) -> None:
    """What is kept for replicates, which train for all epochs, follows from what members took for their few."""
    plan = make_plan(SEARCH, "quick", trials=6, replicates=1, confirm=1, settings={"epochs": 6}, comparing=BY_CHRF)
    run = plan.config(plan.search.reference).model_dump()
    events = [event("started", 0.0), share_event(0.0)]
    for number, (parent, until) in enumerate([(None, 2), ("0000", 4), ("0001", 6)]):
        name, began = f"{number:04d}", 100.0 * number
        events.append(proposed(name, began, run=run, origin="population", parent=parent, until=until))
        events.append(report(name, began + 100.0, epoch=until))
        events.append(event("ended", began + 100.0, trial=name, status=COMPLETED))
    state = state_of(*events)
    assert state.clock.longest == pytest.approx(300.0)
    assert sum(state.clock.trials.values()) == pytest.approx(300.0), "what they took stays what it is"
    assert reserve(Budget(hours=1.0), state, replicates=2, epochs=6).hours * HOUR == pytest.approx((2 + 1 / 6) * 300.0)

    with closing(Ledger(tmp_path / "ledger.jsonl", now=lambda: 0.0)) as ledger:
        ledger.record(event("started", 0.0))
        ledger.record(share_event(0.0))
        ledger.record(proposed("0000", 0.0, run=run, origin="population", until=2))
        ledger.record(report("0000", 0.0, epoch=2))
        ledger.record(proposed("0001", 0.0, run=run, origin="population", parent="0000", until=4))
        ledger.record(report("0001", 0.0, epoch=3))
        stopper = BudgetStopper(Budget(hours=1e-9), plan, ledger)
        stopper.over = lambda: True  # type: ignore[method-assign]
        stopper.close()
        found = {name: (trial.status, trial.reason) for name, trial in ledger.state.trials.items()}
    assert found == {"0000": (COMPLETED, None), "0001": (STOPPED, BUDGET)}
