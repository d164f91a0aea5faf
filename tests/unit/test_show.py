"""A search shown from its ledger, for people and as JSON, whether it runs, was killed or has ended."""

import json
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from searches.__main__ import main
from searches.running.ledger import Ledger, read_state
from searches.showing.answers import OUTCOMES
from tests.ledgers import options_of, write_ledger
from tests.runs import status


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has ended, and the first half of its ledger."""
    storage = tmp_path_factory.mktemp("storage")
    write_ledger(options_of(8, storage, "--replicates", "3", "--name", "whole"), storage / "searches" / "whole")
    lines = (storage / "searches" / "whole" / "ledger.jsonl").read_text().splitlines(keepends=True)
    (storage / "searches" / "half").mkdir()
    (storage / "searches" / "half" / "ledger.jsonl").write_text("".join(lines[: len(lines) // 2]))
    return storage


def shown(storage: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert status(lambda: main([*words, "--storage", str(storage)])) == 0
    return capsys.readouterr().out


def as_json(storage: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(shown(storage, capsys, *words, "--json"), parse_constant=pytest.fail)


def test_the_screen_has_question_settings_trials_answer_and_what_to_run_next(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = shown(storage, capsys, "show", "whole")
    lines = page.splitlines()
    assert lines[0].startswith("whole: ")
    assert "Status: finished" in lines
    assert any(line.startswith("0003 ") for line in lines)
    purposes = {line: below.strip() for line, below in pairwise(lines) if line.startswith("To ")}
    for command in ("lora_rank", "search promote whole", "search report whole"):
        assert any(command in below for below in purposes.values())
    assert any(line.startswith("Answer: ") for line in lines)


def test_the_answer_as_json_has_words_and_intervals(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(storage, capsys, "show", "whole")
    answer = found["answer"]
    assert answer["outcome_text"] == OUTCOMES[answer["outcome"]]
    assert answer["text"] in " ".join(shown(storage, capsys, "show", "whole").split())
    assert all(pair["low"] < pair["difference"] < pair["high"] for pair in answer["pairs"])
    assert answer["pairs"]
    assert as_json(storage, capsys, "report", "whole")["answer"] == answer
    trials = read_state(storage / "searches" / "whole" / "ledger.jsonl").trials
    assert [row["id"] for row in found["trials"]] == list(trials)


def test_a_killed_search_has_no_answer_yet(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(storage, capsys, "show", "half")
    assert (found["status"], found["answer"]["outcome_text"]) == ("killed", "not decided")
    assert found["progress"]["trials_done"] < found["progress"]["trials_planned"]
    assert found["commands"]["go on with it"].endswith(f"--name half --storage {storage}")


def test_a_running_search_says_how_long_it_still_takes(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Ledger(storage / "searches" / "half" / "ledger.jsonl")):
        found = as_json(storage, capsys, "show", "half")
        page = shown(storage, capsys, "show", "half")
    assert found["status"] == "running"
    assert found["progress"]["seconds_left"] is not None
    assert "Status: running (" in page


def test_what_has_no_trial_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "searches" / "begun"
    with closing(Ledger(folder / "ledger.jsonl")) as ledger:
        ledger.begin("digest", "lora_rank", 1)
    for name, message in (
        ("begun", f"{folder}: the search has no trial yet"),
        ("", "The name of the search is '', but must be"),
    ):
        assert status(lambda name=name: main(["show", name, "--storage", str(tmp_path)])) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")


def test_an_error_is_json_if_json_is_asked_for(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: main(["show", "hole", "--json", "--storage", str(storage)])) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"].startswith("There is no search `hole` in ")
    assert said.err == ""
