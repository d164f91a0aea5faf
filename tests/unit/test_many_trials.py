"""Thousands of trials: what is shown of them, and that what is counted event by event is what a recount of all finds."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpt2core.metrics.direction import Direction
from searches.deciding.comparing import Comparing
from searches.deciding.objectives import Ranking, ranked
from searches.deciding.results import pareto
from searches.deciding.stopping import Scores, dominates
from searches.deciding.strategy import finalists
from searches.lora_rank import SEARCH
from searches.plan import make_plan
from searches.planning.forecast import seconds_left, trials_of
from searches.running.budget import Budget, comparable, whole_trial_seconds
from searches.running.events import event_of
from searches.running.ledger import BAD, CLONE, COMPLETED, RUNNING, STOPPED, RawEvent, State, Trial, read_state
from searches.showing import report
from searches.showing.plots import POINTS
from searches.showing.report_tables import MOST
from searches.showing.screen import Screen, show
from searches.showing.summary import summarise
from searches.summary import Summary, TrialRow
from tests.ledgers import OBJECTIVE, options_of, write_ledger

TRIALS = 1500
REPLICATES = 2 * 4  # fresh seeds of the best trial of each value of the rank
COMPARING = Comparing(objective=OBJECTIVE)
PLAN = make_plan(SEARCH, "quick", trials=8, replicates=1, settings={"epochs": 3}, comparing=COMPARING)
BEST_FIRST = make_plan(SEARCH, "quick", trials=8, replicates=1, confirm=1, comparing=COMPARING)  # beside the reference
RUN = PLAN.config(PLAN.search.reference).model_dump()


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, Summary, Path]:
    folder = tmp_path_factory.mktemp("many")
    options = options_of(TRIALS, folder, "--sampler", "random", "--minimize", "seconds")
    write_ledger(options, folder, texts=2)
    state = read_state(folder / "ledger.jsonl")
    return state, summarise(options, state, folder), folder


@pytest.fixture(scope="module")
def written(search: tuple[State, Summary, Path]) -> tuple[str, str]:
    _, summary, folder = search
    page, text, *_ = report.write(folder, summary)
    return page.read_text(), text.read_text()


def test_every_trial_is_counted_once(search: tuple[State, Summary, Path]) -> None:
    state, summary, _ = search
    counts, trials = summary.counts, list(state.trials.values())
    assert counts["trials"] == TRIALS
    assert counts["replicates"] == len(trials) - TRIALS == REPLICATES
    assert [row.trials for row in summary.answer.rows] == [TRIALS // 4] * 4
    for status in (COMPLETED, STOPPED, *BAD):
        assert counts[status] == sum(trial.status == status for trial in state.searched) > 0
    assert sum(counts[status] for status in (COMPLETED, STOPPED, *BAD)) == TRIALS
    assert sum(counts[status] for status in BAD) == TRIALS // 50


def test_a_report_shows_the_best_of_many(search: tuple[State, Summary, Path], written: tuple[str, str]) -> None:
    _, summary, _ = search
    html, markdown = written
    best = summary.ranked()
    rows = [line.split(" | ") for line in markdown.split("**Trials, best first**")[1].split("**")[0].splitlines()]
    shown = [row[0].removeprefix("| ") for row in rows if row[0].removeprefix("| ").isdigit()]
    assert shown == [row.id for row in best[:MOST]]
    assert best[0].score == max(row.score for row in summary.trials if row.of is None and row.score)
    for text in written:
        assert f"The best {MOST} are shown; {TRIALS - MOST} more are in summary.json." in text
        assert f"{best[0].score:.2f}" in text
    assert f'<th scope="row">{best[MOST - 1].id}</th>' in html
    assert f'<th scope="row">{best[MOST].id}</th>' not in html
    assert len(html) < 1_000_000


def test_pictures_of_many_trials_show_a_sample(search: tuple[State, Summary, Path], written: tuple[str, str]) -> None:
    _, summary, _ = search
    scored = sum(row.of is None and row.score is not None for row in summary.trials)
    drawn = POINTS + len(summary.pareto)
    assert f"{drawn} of {scored} trials, spread evenly from best to worst" in written[0]
    assert f"200 of {scored} trials, spread evenly" in written[0]
    assert f"of the best 25 of {scored} trials" in written[0]


def test_the_table_at_the_end_shows_the_best_trials_and_all_replicates(search: tuple[State, Summary, Path]) -> None:
    _, summary, _ = search
    console = Console(file=io.StringIO(), width=250, record=True)
    show(summary, console)
    text, best = console.export_text(), summary.ranked()
    assert f"The best {MOST} are shown; {TRIALS - MOST} more are in summary.json." in text
    names = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert best[0].id in names
    assert best[MOST].id not in names
    assert all(row.of is None or row.id in names for row in summary.trials)


def test_the_live_view_shows_the_best_trial_and_how_far_the_search_is(search: tuple[State, Summary, Path]) -> None:
    state, _, folder = search
    options = options_of(TRIALS, folder, "--sampler", "random", "--minimize", "seconds")
    console = Console(file=io.StringIO(), width=250, record=True)
    console.print(Screen(options.plan, console, Budget(), state).view())
    text = console.export_text()
    assert f"{TRIALS + REPLICATES} of {TRIALS + REPLICATES}" in text
    assert f"Best so far: trial {ranked(list(state.trials.values()), options.plan)[0].name}," in text


def test_the_screen_counts_the_trials_that_make_each_value_equal_and_clones(tmp_path: Path) -> None:
    plan, state = options_of(5, tmp_path).plan, State()
    for number in range(plan.trials + 1):
        origin = "sampler" if number < plan.trials else CLONE
        trial = {"name": f"{number:04}", "point": {}, "run": {"epochs": 1}, "origin": origin}
        state.apply(event_of({"event": "proposed", "trial": trial, "time": 0.0}))
        ended = {"event": "ended", "trial": trial["name"], "status": COMPLETED, "reason": None, "time": 1.0}
        state.apply(event_of(ended))
    console = Console(file=io.StringIO(), width=250, record=True)
    console.print(Screen(plan, console, Budget(), state).view())
    assert f"9 of {9 + plan.replicates}" in console.export_text()


# what is counted event by event

NAMES = ("0000", "0001", "0002", "0002-c1", "0002-r1")
RANKS = {"0000": 8, "0001": 8, "0002": 4}
actions = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(("report", "report", "ended", "ended", "stopped", "reopened")),
        st.sampled_from((COMPLETED, COMPLETED, STOPPED, BAD[0])),
        st.integers(1, 3),
        st.sampled_from((1.0, 2.0, 3.0, math.nan)),
        st.sampled_from((0.0, 1.0, 2.5)),
    ),
    min_size=20,
    max_size=40,
)


def events(done: Sequence[tuple[str, str, str, int, float, float]]) -> Iterator[RawEvent]:
    yield {"event": "started", "time": 0.0}
    yield {"event": "share", "gpus": 1.0, "cpus": 1.0, "concurrent": 2, "time": 0.0}
    known: set[str] = set()
    times = accumulate(seconds for *_, seconds in done)
    for (name, kind, status, epoch, score, _), now in zip(done, times, strict=True):
        if name not in known:
            known.add(name)
            yield {"event": "proposed", "trial": proposed(name), "time": now}
        metrics = {OBJECTIVE: score}
        ending = {"status": status, "reason": "its rung"}
        yield {"event": kind, "trial": name, "epoch": epoch, "metrics": metrics, "time": now, **ending}


def proposed(name: str) -> dict[str, Any]:
    origin = "reference" if name == "0000" else CLONE if "-c" in name else "replicate" if "-r" in name else "sampler"
    of = name.split("-")[0] if origin == "replicate" else None
    point = {**PLAN.search.reference, "rank": RANKS[name.split("-")[0]]}
    return {"name": name, "point": point, "run": RUN, "origin": origin, "of": of}


@given(actions)
def test_incremental_counts_equal_a_recount(done: list[tuple[str, str, str, int, float, float]]) -> None:
    state = State()
    everything, may_win = Ranking(PLAN, state), Ranking(PLAN, state, lambda trial: trial.of is None)
    for event in map(event_of, events(done)):
        state.apply(event)
        for ranking in (everything, may_win):
            ranking(event, state)
        trials = list(state.trials.values())
        assert set(state.clock.running) == {trial.name for trial in trials if trial.status == RUNNING}
        assert list(everything) == ranked(trials, PLAN) == list(Ranking(PLAN, state))
        assert list(may_win) == ranked([trial for trial in trials if trial.of is None], PLAN)
        assert whole_trial_seconds(state) == slow_whole_trial_seconds(state)
        assert comparable(PLAN, state) == (len({RANKS[trial.name] for trial in scored(state)}) > 1)
        assert comparable(BEST_FIRST, state) == (len({trial.origin for trial in scored(state)}) > 1)
        now = (event.time or 0.0) + 1.0
        assert seconds_left(PLAN, state, now) == pytest.approx(slow_seconds_left(state, now), abs=1e-6)


def slow_whole_trial_seconds(state: State) -> float:
    return max((state.clock.trials.get(t.name, 0.0) for t in state.trials.values() if t.status == COMPLETED), default=0)


def scored(state: State) -> list[Trial]:
    """The trials of the search that have ended with a score: the reference and two others, of two ranks."""
    ended = [trial for trial in state.searched if trial.status in (COMPLETED, STOPPED)]
    return [trial for trial in ended if trial.score(OBJECTIVE, Direction.MAX) is not None]


def slow_seconds_left(state: State, now: float) -> float:
    def seconds(trial: Trial) -> float:
        more = now - (state.clock.last or 0.0) if trial.status == RUNNING and state.clock.trials_run else 0.0
        return state.clock.trials.get(trial.name, 0.0) + more

    trials, whole = list(state.trials.values()), slow_whole_trial_seconds(state)
    ended = [seconds(trial) for trial in state.searched if trial.status != RUNNING]
    usual = sum(ended) / len(ended) if ended else whole
    search = sum(seconds(trial) for trial in trials if trial.status == RUNNING and trial.of is None)
    again = sum(seconds(trial) for trial in trials if trial.status == RUNNING and trial.of is not None)
    repeated = sum(trial.of is not None and trial.status != RUNNING for trial in trials)
    left = max(0.0, (trials_of(PLAN) - len(ended)) * usual - search)
    return (left + max(0.0, (PLAN.replicates - repeated) * whole - again)) / state.clock.concurrent


vectors = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=25)


@given(vectors)
def test_fronts_kept_up_to_date_are_those_peeled_off_anew(found: list[tuple[float, ...]]) -> None:
    scores = Scores()
    for count, mine in enumerate(found):
        assert scores.add(mine) == (in_earlier_fronts(found[:count], mine), count)


def in_earlier_fronts(found: list[tuple[float, ...]], mine: tuple[float, ...]) -> int:
    left, better = [*found, mine], 0
    while True:
        front = [one for one in left if not any(dominates(other, one) for other in left)]
        if mine in front:
            return better
        better, left = better + len(front), [one for one in left if one not in front]


@given(vectors)
def test_the_front_is_what_no_other_trial_dominates(found: list[tuple[float, ...]]) -> None:
    named = enumerate(dict(zip("abc", values, strict=True)) for values in found)
    rows = [TrialRow(id=str(n), status=COMPLETED, metrics=metrics) for n, metrics in named]
    expected = [str(n) for n, mine in enumerate(found) if not any(dominates(other, mine) for other in found)]
    assert pareto(rows, dict.fromkeys("abc", -1)) == expected


def test_finalists_are_the_best_and_the_reference(search: tuple[State, Summary, Path]) -> None:
    state, summary, folder = search
    plan = options_of(TRIALS, folder, "--confirm", "3").plan
    assert finalists(state, plan) == state.finalists, "what is compared was fixed with the first fresh seed"
    state = replace(state, finalists=[])
    best = [row.id for row in summary.ranked() if row.status in (COMPLETED, STOPPED)]
    assert finalists(state, plan) == [*[name for name in best if name != "0000"][:3], "0000"]
