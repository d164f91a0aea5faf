"""The list of a storage's searches."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from searches.__main__ import main
from searches.running.ledger import Ledger
from searches.summary import Summary
from tests import summaries
from tests.runs import status

STARTED = {"event": "started", "argv": [], "folder": "", "environment": {}}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A search with results, one that was interrupted, and one whose ledger is damaged."""
    for name in ("done", "interrupted"):
        with closing(Ledger(tmp_path / "searches" / name / "ledger.jsonl")) as ledger:
            ledger.begin("digest", "lora_rank", 1)
            ledger.record(STARTED)
    summary = Summary.model_validate(summaries.summary(4))
    (tmp_path / "searches" / "done" / "summary.json").write_text(summary.model_dump_json())
    (tmp_path / "searches" / "damaged").mkdir()
    (tmp_path / "searches" / "damaged" / "ledger.jsonl").write_text("no event\n" * 2)
    return tmp_path


def listed(storage: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert status(lambda: main(["list", "--storage", str(storage), *flags])) == 0
    return capsys.readouterr().out


def test_each_search_has_its_answer_or_why_there_is_none(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(listed(storage, capsys, "--json"))}
    summary = Summary.model_validate(summaries.summary(4))
    assert (rows["done"]["answer"], rows["done"]["outcome"]) == (summary.answer.claim, "undecided")
    assert rows["interrupted"]["answer"].startswith("none: it has not ended")
    assert rows["damaged"]["answer"].startswith("cannot be read: ")
    assert (rows["done"]["pairs"], rows["done"]["status"]) == (
        [pair.model_dump() for pair in summary.answer.pairs],
        "killed",
    )


def test_a_search_that_a_process_runs_is_said_to_run(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Ledger(storage / "searches" / "interrupted" / "ledger.jsonl")):
        rows = {row["name"]: row for row in json.loads(listed(storage, capsys, "--json"))}
    assert (rows["interrupted"]["status"], rows["interrupted"]["answer"]) == ("running", "none yet")


def test_the_table_names_all_and_the_place(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = listed(storage, capsys)
    assert f"Searches in {storage / 'searches'}" in page
    assert all(name in page for name in ("done", "interrupted", "damaged"))


def test_a_missing_storage_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: main(["list", "--storage", str(tmp_path / "none")])) == 2
    assert capsys.readouterr().err == (
        f"error: There is no folder {tmp_path / 'none'} with searches; give the --storage of the searches\n"
    )


def test_a_storage_without_searches_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(tmp_path, capsys) == f"There are no searches in {tmp_path / 'searches'}; see --storage\n"
