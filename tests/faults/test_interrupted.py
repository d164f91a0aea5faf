"""A search that is interrupted or preempted loses nothing, and the same command goes on. Kills: test_search_killed.py."""

import signal
from pathlib import Path
from typing import Any

from tests.runs import events, search, search_until, summary

FLAGS = ("--smoke", "--trials", "3", "--max-concurrent", "1")
NAME = "lora_rank-smoke"


def test_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    assert search(tmp_path / "undisturbed", *FLAGS).returncode == 0
    storage = tmp_path / "interrupted"
    interrupted(storage, signal.SIGINT, "0001", *FLAGS)
    interrupted(storage, signal.SIGTERM, "0002", *FLAGS, "--resume", "must")

    again = search(storage, *FLAGS, "--resume", "must")
    assert again.returncode == 0, again.stderr
    ended = [event["trial"] for event in events(storage, NAME, "ended")]
    assert len(ended) == len(set(ended)), "a finished trial ran again"
    undisturbed, result = summary(tmp_path / "undisturbed", NAME), summary(storage, NAME)
    assert scores(result) == scores(undisturbed)
    assert result["best"]["id"] == undisturbed["best"]["id"]


def interrupted(storage: Path, number: signal.Signals, trial: str, *flags: str) -> None:
    """Run a search until it gets a signal, in the middle of one of its trials."""
    status, errors = search_until(storage, f"{trial}     epoch 1/2", number, *flags)
    assert status == 130, errors
    assert "to go on: python searches/lora_rank.py --storage" in errors
    finished = {event["trial"] for event in events(storage, NAME, "ended")}
    assert finished >= {f"{before:04}" for before in range(int(trial))}


def scores(result: dict[str, Any]) -> dict[str, tuple[str, float]]:
    return {row["id"]: (row["status"], row["score"]) for row in result["trials"]}
