"""The ledger: what was written is there after any end, and the state follows from the events alone."""

from contextlib import closing
from pathlib import Path

import pytest

from gpt2core.errors import UserError
from searches.running.ledger import COMPLETED, RUNNING, Event, Ledger, State


def proposed(name: str, **changes: object) -> Event:
    trial = {"name": name, "point": {"rank": 8}, "run": {"epochs": 3}, "origin": "sampler", "of": None, "optuna": 0}
    return {"event": "proposed", "trial": {**trial, **changes}}


def report(name: str, epoch: int, score: float) -> Event:
    return {
        "event": "report",
        "trial": name,
        "epoch": epoch,
        "metrics": {"score": score},
        "statistics": None,
        "samples": [],
    }


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
    assert again.trials["0000"].score("score", "max") == 3.0
    assert again.trials["0000"].score("score", "min") == 1.0
    assert [trial.name for trial in again.replicates("0000")] == ["0000-r1"]
    assert [trial.name for trial in again.searched] == ["0000"]


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
        with pytest.raises(UserError, match=r"ledger.jsonl, line 2: is no JSON"):
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
        state.apply(event)
    assert state.trials["0000"].score("score", "max") == 1.0


def test_a_score_that_is_no_number_is_none() -> None:
    state = State()
    for event in (proposed("0000"), report("0000", 1, float("nan"))):
        state.apply(event)
    assert state.trials["0000"].score("score", "max") is None
