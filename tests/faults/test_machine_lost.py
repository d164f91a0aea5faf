"""After the loss of a machine, disk and driver, another resumes from the storage (S3) and MLflow's server (PostgreSQL).

A cache folder stands in for a machine: nothing else on this disk is read or written by a search in such a storage.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpt2core.storage import fetch, folders, local
from tests.faults.test_search_killed import in_mlflow_once
from tests.killing import EPOCHS, NAME, command, frozen, kill, make_toy
from tests.runs import ROOT, python
from tests.server import Server
from tests.services import BUCKET, PostgreSQL, Store, started
from tests.stored import reports, stored
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

STORAGE = f"s3://{BUCKET}/team"
FOLDER = f"{STORAGE}/searches/{NAME}"
SIZE = ("--trials", "3", "--replicates", "0")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What every machine of the team has set; this process too, with a cache of its own."""
    with started(PostgreSQL) as database, started(lambda: Store(tmp_path)) as store:
        artifacts = f"s3://{BUCKET}/mlflow"
        server = Server(tmp_path / "server", database=database.uri, artifacts=artifacts, environment=store.environment)
        server.wait()
        told = {**store.environment, "MLFLOW_TRACKING_URI": server.uri}
        for key, value in {**told, "GPT2_SEARCH_CACHE": str(tmp_path / "mine")}.items():
            monkeypatch.setenv(key, value)
        yield told
        server.kill()


class Machine:
    def __init__(self, folder: Path, toy: Path, told: dict[str, str]) -> None:
        self.folder = folder
        environment = {**os.environ, **told, "PYTHONPATH": str(ROOT), "GPT2_SEARCH_CACHE": str(folder)}
        folder.mkdir()
        with (folder / "output.txt").open("w") as output:
            self.process = subprocess.Popen(
                command(STORAGE, toy, *SIZE),
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def lose(self) -> None:
        """Kill all that runs on it, and remove all that is on its disk."""
        with frozen(self.process):
            below = psutil.Process(self.process.pid).children(recursive=True)
            kill([self.process.pid, *(child.pid for child in below)])
        assert self.process.wait() == -signal.SIGKILL
        shutil.rmtree(self.folder, ignore_errors=True)


def test_another_machine_resumes(toy: Path, environment: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = Machine(tmp_path / "first", toy, environment)
    request.addfinalizer(first.end)
    wait_until(lambda: len(reports(stored(FOLDER))) >= EPOCHS + 2, first.process, lambda: first.output)
    first.lose()
    before = reports(stored(FOLDER))

    second = Machine(tmp_path / "second", toy, environment)
    request.addfinalizer(second.end)
    assert second.process.wait(timeout=PATIENCE) == 0, second.output
    assert "Another machine was here" in second.output
    assert f": {FOLDER}/best" in second.output

    promoted = python("-m", "searches", "promote", NAME, "--storage", STORAGE, "--registered-name", "winner")
    assert promoted.returncode == 0, promoted.stderr
    assert f": {FOLDER}/promoted" in promoted.stdout
    assert "MLflow: version 1 of winner" in promoted.stdout
    assert set(folders(local(FOLDER))) >= {"best", "promoted", "trials"}

    state = stored(FOLDER)
    after = reports(state)
    assert before.items() <= after.items(), "what was reported was trained again"
    assert all(sorted(trial.reports) == list(range(1, max(trial.reports) + 1)) for trial in state.trials.values())
    in_mlflow_once(summary(), environment["MLFLOW_TRACKING_URI"])
    best = f"{FOLDER}/best"
    fetch(local(best))
    assert (local(best) / "model.safetensors").is_file()


def summary() -> dict[str, Any]:
    path = local(f"{FOLDER}/summary.json")
    fetch(path)
    return dict(json.loads(path.read_text()))
