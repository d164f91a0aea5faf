"""Run commands as their users do, and read what they left."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from mlflow.entities import Run

ROOT = Path(__file__).parent.parent
LORA_RANK = [sys.executable, "searches/lora_rank.py"]


def program(words: Sequence[str], *, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | variables
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


def python(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return program([sys.executable, *words], cwd=cwd, **variables)


def status(main: Callable[..., object], *given: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(*given)
    return int(stopped.value.code or 0)


def search(storage: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return program([*LORA_RANK, "--storage", str(storage), *flags])


def summary(storage: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((storage / "searches" / name / "summary.json").read_text()))


def events(storage: Path, name: str, kind: str) -> list[dict[str, Any]]:
    lines = (storage / "searches" / name / "ledger.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def mlflow_runs(place: Path | str, experiment: str) -> "list[Run]":
    """Return all runs of an experiment, from an MLflow at an address or in the database of a storage."""
    from mlflow import MlflowClient

    client = MlflowClient(place if isinstance(place, str) else f"sqlite:///{place / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def mlflow_trials(storage: Path, experiment: str) -> "dict[str, Run]":
    """Return the runs of an experiment with one search by trial; that of the search itself is at ""."""
    return {run.data.tags.get("trial", ""): run for run in mlflow_runs(storage, experiment)}
