"""The ledger: what was written is there after any end, and the state follows from the events alone."""

import json
import re
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from gpt2core.errors import UserError
from gpt2core.metrics.direction import Direction
from searches.running import events
from searches.running.events import KINDS, EventError, event_of
from searches.running.ledger import COMPLETED, RUNNING, Ledger, RawEvent, State, read_search, read_state
from searches.showing.facts import time_by_part


def proposed(name: str, **changes: object) -> RawEvent:
    trial = {"name": name, "point": {"rank": 8}, "run": {"epochs": 3}, "origin": "sampler", "of": None, "optuna": 0}
    return {"event": "proposed", "trial": {**trial, **changes}}


def report(name: str, epoch: int, score: float) -> RawEvent:
    return {
        "event": "report", "trial": name, "epoch": epoch, "metrics": {"score": score}, "statistics": None,
        "samples": [],
    }  # fmt: skip


def test_a_reopened_ledger_has_the_same_state(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for event in (
        {"event": "search", "digest": "d"},
        proposed("0000"),
        report("0000", 1, 1.0),
        report("0000", 2, 3.0),
        report("0000", 3, 2.0),
        {"event": "ended", "trial": "0000", "status": COMPLETED, "reason": None},
        proposed("0000-r1", of="0000"),
        {"event": "run", "trial": "0000", "run_id": "abc"},
        {"event": "duplicate", "point": {}},
    ):
        ledger.record(event)
    ledger.close()
    reopened = Ledger(tmp_path / "ledger.jsonl")
    reopened.close()
    again = reopened.state
    assert again == ledger.state
    assert again.trials["0000"].score("score", Direction.MAX) == 3.0
    assert again.trials["0000"].score("score", Direction.MIN) == 1.0
    assert [trial.name for trial in again.replicates("0000")] == ["0000-r1"]
    assert [trial.name for trial in again.searched] == ["0000"]


def test_scores_of_the_best_epoch_that_come_with_the_last_report_complete_its_own(tmp_path: Path) -> None:
    """A report that is given twice, by a trial that resumed, changes nothing."""
    whole = {
        "epoch": 2,
        "metrics": {"score": 3.0, "chrf": 40.0},
        "samples": [{"generated": "a rose"}],
        "judged": {"score": 2.5},
    }
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        ledger.record(proposed("0000"))
        for number, score in enumerate((1.0, 3.0), start=1):
            ledger.record(report("0000", number, score))
        for chrf in (40.0, 0.0):
            scores = whole | {"metrics": {"score": 3.0, "chrf": chrf}}
            ledger.record(report("0000", 3, 2.0) | ({"best": scores} if chrf else {}))
        trial = ledger.state.trials["0000"]
        best = trial.best("score", Direction.MAX)
        assert best is not None
        assert (best.epoch, best.metrics, best.judged) == (2, whole["metrics"], whole["judged"])
        assert best.samples == whole["samples"]
        assert [trial.reports[number].metrics for number in (1, 3)] == [{"score": 1.0}, {"score": 2.0}]
    assert read_state(ledger.path) == ledger.state


def test_a_half_written_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.record(proposed("0000"))
    ledger.close()
    with path.open("a") as file:
        file.write('{"event": "ended", "tri')
    again = Ledger(path)
    assert again.state.trials["0000"].status == RUNNING
    again.record(proposed("0001"))
    again.close()
    with closing(Ledger(path)) as last:
        assert set(last.state.trials) == {"0000", "0001"}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"event": "search", "digest": "d"}\nnonsense\n')
    for _ in range(2):  # and not that another search holds it
        with pytest.raises(UserError, match=r"ledger.jsonl, line 2: is not JSON"):
            Ledger(path)


def test_two_searches_under_one_name_at_once_are_refused(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(UserError, match="another search is running under this name; choose another --name"):
        Ledger(tmp_path / "ledger.jsonl")
    first.close()
    Ledger(tmp_path / "ledger.jsonl").close()


def test_an_epoch_that_is_reported_twice_counts_once() -> None:
    state = State()
    for event in (proposed("0000"), report("0000", 1, 1.0), report("0000", 1, 9.0)):
        state.apply(event_of(event))
    assert state.trials["0000"].score("score", Direction.MAX) == 1.0


def test_a_score_that_is_no_number_is_none() -> None:
    state = State()
    for event in (proposed("0000"), report("0000", 1, float("nan"))):
        state.apply(event_of(event))
    assert state.trials["0000"].score("score", Direction.MAX) is None


DATA: RawEvent = {
    "data": {"data": "x", "digest": "d"},
    "origin": {"source": "x", "licence": {"terms": "none"}, "sizes": {"train": 3}},
    "baselines": {"random": {"meaning": "random", "scores": {"s": [1, 2]}}},
}
PREDICTED = {"ranges": {"hours": {"value": 1.0, "low": 0.5, "high": 2.0}}, "trials": 3, "replicates": 0, "gpu_gb": None}
MADE: RawEvent = {
    "contexts": {"made": 1}, "candidates": {"made": 2}, "pairs": {"made": 3}, "accepted": 2,
    "critic": {"critic": "overlap", "model": "none"}, "stand_in": None, "digest": "d",
}  # fmt: skip
#: A ledger with an event of every kind, each with all of its fields.
WHOLE: list[RawEvent] = [
    {"event": "search", "schema_version": 2, "digest": "d", "id": "i", "name": "lora_rank", "seed": 1},
    {"event": "started", "argv": ["--smoke"], "environment": {"Python": "3"}},
    {"event": "run", "trial": "", "run_id": "r"},
    {"event": "data", **DATA, "judges": {"on": "folds", "texts": 5, "run": {"folds": 5}}},
    {"event": "cluster", "cluster": {"cluster": "1 node"}},
    {"event": "design", "design": {"looks": [3, 8], "each": True, "confirm": 1, "margin": 1.0}},
    {"event": "plan", "plan": PREDICTED},
    {"event": "candidates", "name": "t1.0", "made": MADE},
    {"event": "share", "gpus": 0.0, "cpus": 1.0, "concurrent": 2},
    {"event": "lag", "trials": 8},
    {**proposed("0000"), "time": 5.0},
    {"event": "run", "trial": "0000", "run_id": "r0"},
    {"event": "gpu_part", "part": 0.5, "trial": "0000", "reason": "memory"},
    {
        **report("0000", 1, 1.0), "statistics": {}, "judged": {"score": 1.0},
        "samples": [{"id": "1", "generated": "x"}], "tables": {"confusion": [[1]]}, "data": {"digest": "d"},
        "seconds": {"train": 1.0}, "began": 4.0,
    },
    {"event": "stopped", "trial": "0000", "epoch": 1, "reason": "plateau"},
    {"event": "ended", "trial": "0000", "status": "stopped", "reason": "plateau"},
    {"event": "reopened", "trial": "0000"},
    {"event": "control", "command": "stop", "trial": "0000", "set": {}},
    {"event": "duplicate", "point": {"rank": 8}},
    {"event": "finalists", "trials": ["0000"]},
    proposed("0000-r1", of="0000", parent="0000", until=3),
    {"event": "testing", "trials": ["0000"]},
    {"event": "test", "trial": "0000", "metrics": {"score": 1.0}, "statistics": None},
    {"event": "left", "time": 9.0},
]  # fmt: skip


def lines_of(found: list[RawEvent]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in found)


def opened(path: Path) -> State:
    """The state of a ledger by either way of reading it, which agree; raises UserError as both do."""
    before = path.read_bytes()
    try:
        state = read_state(path)
    except UserError as error:
        refused = error
    else:
        return _reopened(path, before, state)
    with pytest.raises(UserError, match=re.escape(str(refused))):
        Ledger(path)
    assert path.read_bytes() == before, "what cannot be read is left as it is"
    assert "\n" not in str(refused)
    raise refused


def _reopened(path: Path, before: bytes, state: State) -> State:
    with closing(Ledger(path)) as ledger:
        assert ledger.state == state
    assert before.startswith(path.read_bytes())
    assert before.count(b"\n") == path.read_bytes().count(b"\n"), "no whole line is cut off"
    return state


def test_every_kind_of_event_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(lines_of(WHOLE))
    assert {event["event"] for event in WHOLE} == set(KINDS)
    assert set(opened(path).trials) == {"0000", "0000-r1"}
    with closing(Ledger(tmp_path / "again.jsonl")) as again:
        for event in WHOLE:
            again.record(event)


def test_a_ledger_that_lost_its_first_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(lines_of([proposed("0000")]))
    with pytest.raises(UserError, match=r"ledger\.jsonl: no `search` line names the script; mend the file"):
        read_search(tmp_path, needs_script=True)


@pytest.mark.parametrize(("line", "why"), [
    (b"[]", "is not a JSON object"),
    (b"3", "is not a JSON object"),
    (b"null", "is not a JSON object"),
    (b"", "is not JSON"),
    (b"{}", "has the `event` 'None', but must have one of search, started"),
    (b'{"event": ["report"]}', "has the `event`"),
    (b'{"event": "nonsense"}', "has the `event` 'nonsense'"),
    (b'{"event": "left", "time": "noon"}', "has a wrong `time`: input should be a valid number"),
    (b'{"event": "left", "time": NaN}', "has a wrong `time`"),
    (b'{"event": "left", "time": 1e400}', "has a wrong `time`"),
    (b'{"event": "left", "time": true}', "has a wrong `time`"),
    (b'{"event": "left", "time": ' + b"9" * 4000 + b"}", "has a wrong `time`"),
    (b'{"event": "left", "time": ' + b"9" * 5000 + b"}", "has a number of thousands of digits"),
    (b'{"event": "left", "x": "\xff"}', "is not UTF-8"),
    (b"\xff\xfe{\x00", "is not UTF-8"),
    (b'{"x":' * 100_000, "is no|is nested too deep"),
    (b"[" * 100_000, "is nested too deep"),
    (b'{"event": "ended", "trial": "0009", "status": "completed"}', "names trial 0009, which no earlier line"),
    (b'{"event": "ended", "trial": "0000", "status": "well"}', "has a wrong `status`"),
    (b'{"event": "report", "trial": "0000", "epoch": "1", "metrics": {}}', "has a wrong `epoch`"),
    (b'{"event": "report", "trial": "0000", "epoch": -1, "metrics": {}}', "has a wrong `epoch`"),
    (b'{"event": "report", "trial": "0000", "epoch": 1, "metrics": {"score": "x"}}', "has a wrong `metrics.score`"),
    (b'{"event": "report", "trial": "0000", "epoch": 1}', "has a wrong `metrics`: field required"),
    (b'{"event": "finalists", "trials": ["0001"]}', "names trial 0001"),
    (lines_of([proposed("0000")])[:-1], "proposes trial 0000 a second time"),
    (lines_of([proposed("../../x")])[:-1], "has a wrong `trial.name`"),
    (lines_of([proposed("0001", status="completed")])[:-1], "has a wrong `trial.status`"),
    (lines_of([proposed("0001", of="0007")])[:-1], "names trial 0007"),
    (lines_of([proposed("0001", run={"epochs": "3"})])[:-1], "has a wrong `trial.run.epochs`"),
])  # fmt: skip
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_that_is_no_event_is_named_with_its_reason(tmp_path: Path, line: bytes, why: str, end: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(lines_of([proposed("0000")]) + line + end + lines_of([proposed("0002")]))
    with pytest.raises(UserError, match=rf"ledger\.jsonl, line 2: ({why})"):
        opened(path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searches.running.events.LONGEST_LINE", 1000)
    monkeypatch.setattr("searches.running.ledger.LONGEST_LINE", 1000)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(lines_of([proposed("0000")]) + b" " * 5000)
    with pytest.raises(UserError, match=r"line 2: is longer than 1,000 bytes"):
        opened(path)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_half_line_behind_line_ends_of_any_system_costs_no_whole_one(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = lines_of(WHOLE).replace(b"\n", end)
    path.write_bytes(whole + '{"event": "ended", "reason": "h\u00e4lf'.encode()[:-1])
    assert set(opened(path).trials) == {"0000", "0000-r1"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", ["folder", "missing"])
def test_what_is_no_ledger_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ledger.jsonl"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(UserError, match=r"ledger\.jsonl: cannot be read"):
        read_state(path)


@pytest.mark.parametrize("event", [
    {"event": "ended", "trial": "0000", "status": "well"},
    {"event": "ended", "trial": "0001", "status": "failed"},
    {"event": "nonsense"},
    {**report("0000", 1, 1.0), "metrics": {"score": None}},
    {**report("0000", 1, 1.0), "samples": "x" * 2000},
])  # fmt: skip
def test_unreadable_events_are_not_written(tmp_path: Path, event: RawEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LONGEST_LINE", 1000)
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        ledger.record(proposed("0000"))
        before = ledger.path.read_bytes()
        with pytest.raises(EventError, match="an event is refused: it"):
            ledger.record(event)
        assert ledger.path.read_bytes() == before
        ledger.record(proposed("0001"))
    assert set(read_state(ledger.path).trials) == {"0000", "0001"}


#: Whatever JSON there is, and numbers that it can write but few can read.
values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.sampled_from([10**4000, -1, 1e308, float("nan"), float("inf"), "0000", "../x", "\ud800", "\x1b[2J"])
    | strategies.text(max_size=5),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=5), inner),
    max_leaves=5,
)


@strategies.composite
def damaged(draw: strategies.DrawFn) -> bytes:
    found = [json.loads(json.dumps(event)) for event in WHOLE]
    for _ in range(draw(strategies.integers(1, 3))):
        _spoil(draw, draw(strategies.sampled_from(found)))
    order = draw(strategies.sampled_from(["same", "lost", "doubled", "swapped"]))
    place = draw(strategies.integers(0, len(found) - 1))
    match order:
        case "lost":
            del found[place]
        case "doubled":
            found.insert(place, found[place])
        case "swapped":
            found[place], found[0] = found[0], found[place]
    written = lines_of(found)
    cut = draw(strategies.integers(0, len(written)))
    junk = draw(strategies.binary(max_size=4))
    return written if draw(strategies.booleans()) else written[:cut] + junk + written[cut:]


def _spoil(draw: strategies.DrawFn, part: Any) -> None:
    """Put another value into a place of an event, or take the place away."""
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            return
        key = draw(strategies.sampled_from(keys))
        if isinstance(part[key], dict | list) and part[key] and draw(strategies.booleans()):
            part = part[key]
            continue
        if draw(strategies.booleans()):
            part[key] = draw(values)
        else:
            del part[key]
        return


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damaged())
def test_a_ledger_is_read_whole_or_refused_by_its_line_whatever_it_holds(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(written)
    with suppress(UserError):
        state = opened(path)
        assert set(state.clock.running) <= set(state.trials)
        assert sum(time_by_part(state).values()) >= 0
        for trial in state.trials.values():
            assert (trial.score("score", Direction.MAX) or 0) == pytest.approx(trial.score("score", Direction.MIN) or 0)
