"""Eight searches of two users write to one MLflow server at once, as a team's server is started; nothing is lost, nothing doubled.

Records and users are in PostgreSQL, files in a store that speaks S3, and everyone needs a name and a password.
"""

import json
import multiprocessing
import os
import secrets
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, make_url, text

from searches.question import make_plan, search_of
from searches.running.ledger import COMPLETED, Ledger
from searches.running.tracking import GRACE, Tracker
from tests.runs import ROOT
from tests.server import Server
from tests.services import BUCKET, PostgreSQL, Store, started

SEARCHES, EPOCHS, METRICS = 8, 5, 20
USERS = ("ann", "ben")
PLAN = make_plan(search_of("lora_rank"), "quick")
NAMES = (PLAN.objective, *(f"metric_{number}" for number in range(1, METRICS)))
TRIAL = "0000"


class TeamServer(Server):
    """The server as `cluster/mlflow/serve.sh` starts it, under compose and on Kubernetes."""

    def __init__(self, folder: Path, database: PostgreSQL, store: Store) -> None:
        self.store, self.place = store, make_url(database.uri)
        self.admin_password = secrets.token_hex(16)
        told = {
            "postgres_password": self.place.password,
            "s3_access_key_id": store.environment["AWS_ACCESS_KEY_ID"],
            "s3_secret_access_key": store.environment["AWS_SECRET_ACCESS_KEY"],
            "admin_password": self.admin_password,
            "flask_secret_key": secrets.token_hex(16),
        }
        for name, secret in told.items():
            (folder / name).write_text(str(secret))
        super().__init__(folder, workers=2)

    def start(self) -> None:
        """Start it; it is not there at once."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
            "SECRETS": str(self.folder),
            "POSTGRES_HOST": f"{self.place.host}:{self.place.port}",
            "AWS_ENDPOINT_URL": self.store.environment["AWS_ENDPOINT_URL"],
            "ARTIFACTS": f"s3://{BUCKET}/mlflow",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "MLFLOW_WORKERS": str(self.workers),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self.folder / "log.txt").open("a") as log:
            script = ["sh", str(ROOT / "cluster/mlflow/serve.sh")]
            self.process = subprocess.Popen(script, stdout=log, stderr=log, env=environment)

    def add_user(self, name: str, password: str) -> None:
        """Give somebody a name, as the page of `cluster` says."""
        admin = b64encode(f"admin:{self.admin_password}".encode()).decode()
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/users/create",
            data=json.dumps({"username": name, "password": password}).encode(),
            headers={"Authorization": f"Basic {admin}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    folder = tmp_path_factory.mktemp("server")
    with started(PostgreSQL) as database, started(lambda: Store(folder)) as store:
        with create_engine(database.uri, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE mlflow"))  # compose and Kubernetes have it made by the image
        server = TeamServer(folder, database, store)
        server.wait()
        for name in USERS:
            server.add_user(name, password_of(name))
        yield server
        server.kill()


def password_of(user: str) -> str:
    return f"the-password-of-{user}"  # MLflow wants twelve characters


def log_in(user: str) -> None:
    os.environ.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=password_of(user))


@pytest.fixture
def client(server: TeamServer, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """What a third search would read with, as the first user."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USERS[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password_of(USERS[0]))
    return MlflowClient(server.uri)


def value_of(search: int, epoch: int, name: str) -> float:
    """A value that no other metric, epoch or search has."""
    return float(1000 * search + 100 * epoch + NAMES.index(name))


def track(search: int, uri: str, folder: Path) -> list[str]:
    """One search of one trial, without training; returns what it warned of."""
    log_in(USERS[search % len(USERS)])
    warnings: list[str] = []
    ledger = Ledger(folder / f"ledger-{search}.jsonl")
    ledger.record({"event": "search", "digest": "d", "id": f"search-{search}"})
    tracker = Tracker(PLAN, ledger, uri, None, warnings.append)
    gate.wait()
    tracker.start(f"search-{search}", {"seed": search}, {"search": f"search-{search}"})
    ledger.listeners.append(tracker)
    data = {"data": f"data of {search}", "digest": "d" * 64}
    ledger.record({"event": "data", "data": data, "floors": {"floor": search}})
    run = PLAN.config({"rank": 4, "seed": search}).model_dump()
    trial = {"name": TRIAL, "point": {"rank": 4}, "run": run, "origin": "baseline", "of": None, "optuna": None}
    ledger.record({"event": "proposed", "trial": trial})
    samples = [{"id": "one", "written": f"written by {search}"}]
    for epoch in range(1, EPOCHS + 1):
        metrics = {name: value_of(search, epoch, name) for name in NAMES}
        report = {"event": "report", "trial": TRIAL, "epoch": epoch, "metrics": metrics, "statistics": None}
        ledger.record({**report, "samples": samples, "tables": {}, "data": {"digest": "x"}})
    ledger.record({"event": "ended", "trial": TRIAL, "status": COMPLETED, "reason": None})
    tracker.finish({"best": None, "verdict": {"text": f"verdict of {search}"}}, "FINISHED")
    ledger.close()
    return warnings


def keep(barrier: Any) -> None:
    """Keep what all processes start at."""
    global gate
    gate = barrier


def test_eight_searches_at_once_lose_nothing(server: TeamServer, client: MlflowClient, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # what takes seconds to import is imported once
    barrier = context.Barrier(SEARCHES)
    with ProcessPoolExecutor(SEARCHES, context, keep, (barrier,)) as processes:
        told = [processes.submit(track, search, server.uri, tmp_path) for search in range(SEARCHES)]
        assert [tracked.result(timeout=4 * GRACE) for tracked in told] == [[]] * SEARCHES

    experiment = client.get_experiment_by_name(PLAN.task)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_name: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    trials = {run.data.tags["search"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    names = [f"search-{search}" for search in range(SEARCHES)]
    assert sorted(parents) == sorted(trials) == names
    assert len(runs) == 2 * SEARCHES
    for search, name in enumerate(names):
        check_parent(search, parents[name], server.store)
        check_trial(search, trials[name], parents[name], server.store, client)


def check_parent(search: int, run: Run, store: Store) -> None:
    assert run.info.status == "FINISHED"
    assert run.info.user_id == USERS[search % len(USERS)]
    assert run.data.params == {"seed": str(search), "data_data": f"data of {search}", "data_digest": "d" * 64}
    assert run.data.tags["verdict"] == f"verdict of {search}"
    assert json.loads(stored(store, run, "floors.json")) == {"floor": search}
    assert json.loads(stored(store, run, "summary.json"))["verdict"]["text"] == f"verdict of {search}"


def check_trial(search: int, run: Run, parent: Run, store: Store, client: MlflowClient) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.data.params["rank"], run.data.params["seed"]) == ("4", str(search))
    assert f"written by {search}" in stored(store, run, "samples.md")
    for name in NAMES:
        history = client.get_metric_history(run.info.run_id, name)
        logged = sorted((entry.step, entry.value) for entry in history)
        assert logged == [(epoch, value_of(search, epoch, name)) for epoch in range(1, EPOCHS + 1)]


def stored(store: Store, run: Run, name: str) -> str:
    """A file of a run, from the store itself."""
    told = store.environment
    s3 = boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_REGION"],
    )
    key = f"mlflow/{run.info.experiment_id}/{run.info.run_id}/artifacts/{name}"
    return str(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode())


@pytest.mark.parametrize("password", [None, "not-the-password"])
def test_nobody_is_let_in_without_the_password(
    server: TeamServer, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USERS[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(MlflowException, match="401"):
        MlflowClient(server.uri).search_experiments()


def test_who_has_a_password_is_let_in(client: MlflowClient) -> None:
    assert "Default" in [experiment.name for experiment in client.search_experiments()]
