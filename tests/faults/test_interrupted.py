"""A search that is interrupted or preempted loses nothing, and the same command goes on. Kills: test_search_killed.py."""

import signal
from pathlib import Path

import pytest

from tests.runs import events, search, search_until, summary

FLAGS = ("--smoke", "--trials", "3", "--max-concurrent", "1")
NAME = "lora_rank-smoke"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    storage = tmp_path_factory.mktemp("undisturbed")
    assert search(storage, *FLAGS).returncode == 0
    return summary(storage, NAME)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_goes_on_to_the_same_end(number: signal.Signals, tmp_path: Path, undisturbed: dict[str, object]) -> None:
    status, errors = search_until(tmp_path, "0001     epoch 1/2", number, *FLAGS)
    assert status == 130
    assert "to go on: python searches/lora_rank.py --storage" in errors
    finished = {event["trial"] for event in events(tmp_path, NAME, "ended")}
    assert "0000" in finished

    again = search(tmp_path, *FLAGS, "--resume", "must")
    assert again.returncode == 0, again.stderr
    result = summary(tmp_path, NAME)
    ended = [event["trial"] for event in events(tmp_path, NAME, "ended")]
    assert len(ended) == len(set(ended)), "a finished trial ran again"
    assert _scores(result) == _scores(undisturbed)
    assert result["best"]["id"] == undisturbed["best"]["id"]  # type: ignore[index]


def _scores(result: dict[str, object]) -> dict[str, tuple[str, float]]:
    return {row["id"]: (row["status"], row["score"]) for row in result["trials"]}  # type: ignore[attr-defined]
