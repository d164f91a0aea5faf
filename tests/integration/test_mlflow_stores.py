"""Eight searches of two users log to a team's MLflow server (PostgreSQL, S3) at once, without loss, doubles or intruders."""

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
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text

from searches.plan import make_plan
from searches.question import search_of
from searches.running.ledger import COMPLETED, Ledger, RawEvent
from searches.running.tracking import Tracker
from searches.summary import Summary, Verdict
from tests.runs import ROOT, mlflow_runs
from tests.server import Server
from tests.services import BUCKET, PostgreSQL, Store, started
from tests.waiting import PATIENCE
from trainables.tracking import experiment, open_client, sqlite_address

pytestmark = pytest.mark.slow

SEARCHES, EPOCHS, METRICS = 8, 5, 20
USERS = ("ann", "ben")
USERS_AT_ONCE = 4  # of a new database
PLAN = make_plan(search_of("lora_rank"), "quick")
NAMES = (PLAN.objective, *(f"metric_{number}" for number in range(1, METRICS)))
TRIAL = "0000"


class TeamServer(Server):
    """The server as `cluster/mlflow/serve.sh` starts it, under compose and on Kubernetes."""

    def __init__(self, folder: Path, database: PostgreSQL, store: Store) -> None:
        self.store, self.database_url = store, make_url(database.uri).set(database="mlflow")
        self.admin_password = secrets.token_hex(16)
        told = {
            "postgres_password": self.database_url.password,
            "s3_access_key_id": store.environment["AWS_ACCESS_KEY_ID"],
            "s3_secret_access_key": store.environment["AWS_SECRET_ACCESS_KEY"],
            "admin_password": self.admin_password,
            "flask_secret_key": secrets.token_hex(16),
        }
        for name, secret in told.items():
            (folder / name).write_text(str(secret))
        super().__init__(folder, workers=2)

    def start(self) -> None:
        environment = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.folder), "SECRETS": str(self.folder),
            "POSTGRES_HOST": f"{self.database_url.host}:{self.database_url.port}",
            "AWS_ENDPOINT_URL": self.store.environment["AWS_ENDPOINT_URL"], "ARTIFACTS": f"s3://{BUCKET}/mlflow",
            "HOST": "127.0.0.1", "PORT": str(self.port), "MLFLOW_WORKERS": str(self.workers),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip
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
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert answer.status == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    folder = tmp_path_factory.mktemp("server")
    with started(PostgreSQL) as database, started(lambda: Store(folder)) as store:
        with connected(make_url(database.uri)) as connection:
            connection.execute(text("CREATE DATABASE mlflow"))  # the image does, under compose and on Kubernetes
        server = TeamServer(folder, database, store)
        server.wait()
        for name in USERS:
            server.add_user(name, password_of(name))
        yield server
        server.kill()


def connected(database: URL) -> Connection:
    return create_engine(database, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()


def password_of(user: str) -> str:
    return f"the-password-of-{user}"  # MLflow wants twelve characters


@pytest.fixture
def client(server: TeamServer, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """What the first user reads with."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USERS[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password_of(USERS[0]))
    return MlflowClient(server.uri)


def value_of(search: int, epoch: int, name: str) -> float:
    """A value that no other metric, epoch or search has."""
    return float(1000 * search + 100 * epoch + NAMES.index(name))


def track(search: int, uri: str, folder: Path) -> list[str]:
    """One search of one trial, without training, in a process of its own; returns what it warned of."""
    user = USERS[search % len(USERS)]
    os.environ.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=password_of(user))
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(round(PATIENCE))
    warnings: list[str] = []
    ledger = Ledger(folder / f"ledger-{search}.jsonl")
    ledger.record({"event": "search", "digest": "d", "id": f"search-{search}"})
    tracker = Tracker(PLAN, ledger, uri, warnings.append)
    gate.wait(PATIENCE)
    tracker.start(f"search-{search}", {"seed": search}, {"search": f"search-{search}"})
    ledger.listeners.append(tracker)
    for event in events_of(search):
        ledger.record(event)
    assert tracker.queue.finish(PATIENCE) == 0
    tracker.finish(Summary(trials=[], answer=Verdict(sentences=[f"answer of {search}"])), "FINISHED")
    ledger.close()
    return warnings


def events_of(search: int) -> Iterator[RawEvent]:
    data = {"data": f"data of {search}", "digest": "d" * 64}
    yield {"event": "data", "data": data, "baselines": {f"baseline-{search}": {"meaning": "none", "scores": {}}}}
    run = {**PLAN.config({"rank": 4}).model_dump(), "seed": search}
    trial = {"name": TRIAL, "point": {"rank": 4}, "run": run, "origin": "reference", "of": None, "optuna": None}
    yield {"event": "proposed", "trial": trial}
    samples = [{"id": "one", "written": f"written by {search}"}]
    for epoch in range(1, EPOCHS + 1):
        metrics = {name: value_of(search, epoch, name) for name in NAMES}
        report: RawEvent = {"event": "report", "trial": TRIAL, "epoch": epoch, "metrics": metrics, "statistics": None}
        yield {**report, "samples": samples, "tables": {}, "data": {"digest": "x"}}
    yield {"event": "ended", "trial": TRIAL, "status": COMPLETED, "reason": None}


def keep(barrier: Any) -> None:
    global gate
    gate = barrier


def test_eight_searches_at_once_lose_nothing(server: TeamServer, client: MlflowClient, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # what takes seconds to import is imported once
    with ProcessPoolExecutor(SEARCHES, context, keep, (context.Barrier(SEARCHES),)) as processes:
        tracked = [processes.submit(track, search, server.uri, tmp_path) for search in range(SEARCHES)]
        warnings = [future.result(2 * PATIENCE) for future in tracked]
    # MLflow refuses one of two searches that name the same new data at once; it is sent again
    assert all(told[-1].endswith("answers again") for told in warnings if told)

    runs = mlflow_runs(server.uri, PLAN.task)
    parents = {run.info.run_name: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    trials = {run.data.tags["search"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    names = [f"search-{search}" for search in range(SEARCHES)]
    assert sorted(parents) == sorted(trials) == names
    assert len(runs) == 2 * SEARCHES
    for search, name in enumerate(names):
        check_parent(search, parents[name], server.store)
        check_trial(search, trials[name], parents[name], server)


def open_at_once(uri: str) -> str:
    gate.wait(PATIENCE)
    return experiment(open_client(uri), PLAN.task)


def test_searches_begun_together_share_a_new_database(tmp_path: Path) -> None:
    """Also where the first one was killed while it made it."""
    (tmp_path / "mlflow.db").touch()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(USERS_AT_ONCE, context, keep, (context.Barrier(USERS_AT_ONCE),)) as processes:
        opened = [processes.submit(open_at_once, sqlite_address(tmp_path / "mlflow.db")) for _ in range(USERS_AT_ONCE)]
        assert len({future.result(PATIENCE) for future in opened}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def check_parent(search: int, run: Run, store: Store) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": str(search), "data_data": f"data of {search}", "data_digest": "d" * 64}
    assert run.data.tags["answer"] == f"answer of {search}"
    baselines = {f"baseline-{search}": {"meaning": "none", "scores": {}}}
    assert json.loads(artifact(store, run, "baselines.json")) == baselines
    assert json.loads(artifact(store, run, "summary.json"))["answer"]["text"] == f"answer of {search}"


def check_trial(search: int, run: Run, parent: Run, server: TeamServer) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.data.params["rank"], run.data.params["seed"]) == ("4", str(search))
    assert f"written by {search}" in artifact(server.store, run, "samples.md")
    epochs = range(1, EPOCHS + 1)
    told = sorted((name, epoch, value_of(search, epoch, name)) for name in NAMES for epoch in epochs)
    assert recorded(server, run) == told, "a value is missing, or there twice"


def recorded(server: TeamServer, run: Run) -> list[tuple[str, int, float]]:
    query = text("SELECT key, step, value FROM metrics WHERE run_uuid = :run AND key NOT LIKE 'best/%'")
    with connected(server.database_url) as connection:
        rows = connection.execute(query, {"run": run.info.run_id})
        return sorted((key, step, value) for key, step, value in rows)


def artifact(store: Store, run: Run, name: str) -> str:
    told = store.environment
    s3 = boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_REGION"],
    )
    key = f"mlflow/{run.info.experiment_id}/{run.info.run_id}/artifacts/{name}"
    with closing(s3), closing(s3.get_object(Bucket=BUCKET, Key=key)["Body"]) as body:
        return str(body.read().decode())


@pytest.mark.parametrize("password", [None, "not-the-password"])
def test_a_wrong_password_is_refused(server: TeamServer, monkeypatch: pytest.MonkeyPatch, password: str | None) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USERS[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(MlflowException, match="401"):
        MlflowClient(server.uri).search_experiments()


def test_who_has_a_password_is_let_in(client: MlflowClient) -> None:
    assert "Default" in [experiment.name for experiment in client.search_experiments()]
