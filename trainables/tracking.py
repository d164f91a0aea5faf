"""MLflow for candidate generation: a run for each job in the experiment `candidates`. It never stops a job."""

import hashlib
import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from gpt2core.distill.card import filter_rows
from gpt2core.errors import UserError, first_line, without_password, without_passwords
from gpt2core.files import atomic_path, locked
from gpt2core.storage import address
from trainables.pipeline import Progress

EXPERIMENT = "candidates"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the pages of training runs, not those of chat traces
EVERY, REST = 5.0, 60.0  # seconds between two entries, and after one that MLflow did not take


ARTIFACTS = "mlartifacts"  # the folder of artifacts, beside a database that is a file
#: Where such a database says that artifacts are: table -> column.
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
#: What SQLite or the network says -> what is said of it.
SAID = {
    "readonly database": "its database may only be read",
    "invalid interpolation syntax": "it cannot make a database where the folder that it is installed in has a % in its path",
    "database or disk is full": "the disk of its database is full",
    "database is locked": "its database is locked",
    "unable to open database": "its database cannot be opened; see that its folder may be written to",
    "Connection refused": "connection refused",
    "Failed to resolve": "there is no such host",
    "timed out": "it took too long",
}


def mlflow_address(uri: str | None, storage: Path) -> str:
    """MLflow's address: that of a flag, else $MLFLOW_TRACKING_URI, else a database in the storage."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(storage / "mlflow.db")


def sqlite_address(path: Path) -> str:
    """The address of a database that is a file. SQLAlchemy decodes it; MLflow makes a folder of what it does not decode."""
    plain = str(path)
    return f"sqlite+pysqlite:///{quote(plain)}" if {"%", "?"} & set(plain) else f"sqlite:///{plain}"


def database_of(uri: str) -> Path | None:
    """The file that an address names; None where it is a server's, or no file."""
    try:
        name = make_url(uri).database if uri.startswith("sqlite") else None
    except ArgumentError:
        return None
    return None if name is None or name == ":memory:" or name.startswith("file:") else Path(name).absolute()


def open_client(uri: str) -> MlflowClient:
    """MLflow at an address. Where it is a file, one process at a time makes it, whole or not at all, or sees that its artifacts
    are those beside it."""
    database = database_of(uri)
    if database is None:
        return MlflowClient(uri)
    with locked(database.with_name(f".{database.name}.lock")):
        if database.exists() and database.stat().st_size:
            _take_artifacts_along(database)
        else:
            with atomic_path(database) as part:
                MlflowClient(sqlite_address(part))
    return MlflowClient(uri)


def _take_artifacts_along(database: Path) -> None:
    """Let a database that was moved, or is a copy, have its artifacts beside it, and leave those of the former place alone."""
    here = (database.parent / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        known = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        tails = [(place, f"/{ARTIFACTS}/{name}") for name, place in known]
        former = {place[: -len(tail)] + f"/{ARTIFACTS}" for place, tail in tails if place and place.endswith(tail)}
        for there in former - {here}:
            if not _same_folder(there, database.parent / ARTIFACTS):
                for table, column in PLACES.items():
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (here, len(there) + 1, len(there) + 1, f"{there}/"),
                    )


def _same_folder(uri: str, folder: Path) -> bool:
    there = Path(unquote(urlparse(uri).path))
    return there.exists() and folder.exists() and there.samefile(folder)


def experiment(client: MlflowClient, name: str) -> str:
    """Id of an experiment, which is made where there is none; another search may make it at the same moment.

    Raises UserError for one that was deleted: MLflow keeps its name.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        database = database_of(client.tracking_uri)
        place = None if database is None else f"{(database.parent / ARTIFACTS).as_uri()}/{name}"
        try:
            return str(client.create_experiment(name, place, KIND))
        except MlflowException as error:
            found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        uri = shlex.quote(without_password(client.tracking_uri))
        raise UserError(
            f"MLflow's experiment `{name}` is deleted; get it back with `MLFLOW_TRACKING_URI={uri} mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or give another --tracking-uri"
        )
    return str(found.experiment_id)


def why(error: Exception, address: str) -> str:
    """Why MLflow at an address did not do something, in a line without passwords."""
    text = str(error)
    return next((said for sign, said in SAID.items() if sign in text), without_passwords(first_line(error), address))


def quick_and_quiet() -> None:
    """Let no call of MLflow's client take long where its server is away, and none of it say more than we do."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # of errors, we say a line


class CandidatesRun:
    """Writes what a job tells to its run. A job that goes on does so in the run that it had.

    Counts are sums from the job's start, so an entry that could not be sent is made good by the next one.
    """

    def __init__(self, uri: str, warn: Callable[[str], None]) -> None:
        self.uri, self.warn = uri, warn
        self.client: MlflowClient | None = None
        self.run_id = self.experiment_id = ""
        self.next = 0.0
        self.round = 0  # the last one that is done
        self.warned = False

    def start(self, folder: Path, params: Mapping[str, Any]) -> None:
        """Find or make the run of a job that writes into `folder`."""
        quick_and_quiet()
        self._try(lambda: self._open(folder, params))

    def __call__(self, progress: Progress) -> None:
        """Log how far the job is, every few seconds and when a round is done; the step is the count of judged shards."""
        done = progress.done["judged"] == progress.shards and progress.round != self.round
        if self.run_id and (done or time.monotonic() >= self.next):
            self.next = time.monotonic() + EVERY
            step = (progress.round - 1) * progress.shards + progress.done["judged"]
            self._try(lambda: self._log(measured(progress), step))
        if done:
            self.round = progress.round

    def finish(self, status: str, rounds: list[dict[str, Any]], card: str) -> None:
        """Log the counts of each round (the step is its number) and the card, and end the run."""
        client, run = self.client, self.run_id
        if client is not None and run:
            self._try(lambda: self._rounds(rounds))
            if rounds:
                self._try(lambda: client.log_text(run, card, "README.md"))
            self._try(lambda: client.set_terminated(run, status))

    def _open(self, folder: Path, params: Mapping[str, Any]) -> None:
        self.client = open_client(self.uri)
        self.experiment_id = experiment(self.client, EXPERIMENT)
        job = hashlib.sha256(f"{address(folder)}\0{sorted(params.items())}".encode()).hexdigest()
        runs = self.client.search_runs([self.experiment_id], f"tags.job = '{job}'", max_results=1)
        if runs:
            self.run_id = runs[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        tags = {"job": job, "folder": address(folder)}
        run = self.client.create_run(self.experiment_id, run_name=folder.name, tags=tags)
        self.client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self.run_id = run.info.run_id

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        assert self.client is not None
        self.client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def _rounds(self, rounds: list[dict[str, Any]]) -> None:
        assert self.client is not None
        for entry in rounds:
            values = {f"round_rejected_{name}": rejected for name, rejected, _ in filter_rows(entry)}
            values |= {f"round_{key}": entry[key] for key in ("accepted", "negatives")}
            values["round_pairs"] = entry["pairs"]["made"]
            self._log(values, entry["round"])
        if rounds:
            tags = {"digest": rounds[-1]["digest"], "critic": rounds[-1]["critic"]["critic"]}
            tags |= {"critic_model": rounds[-1]["critic"]["model"], "stand_in": rounds[-1]["stand_in"]}
            for key, value in tags.items():
                self.client.set_tag(self.run_id, key, value)

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # of the database, of a store of artifacts: each has errors of its own
            self.next = time.monotonic() + REST
            if not self.warned:
                self.warn(
                    f"MLflow at {without_password(self.uri)} did not answer ({why(error, self.uri)}); the job goes on without"
                )
            self.warned = True


def measured(progress: Progress) -> dict[str, float]:
    """Counts so far by name, and rows a second of what was made by this process's workers."""
    seconds = max(progress.working, 1e-9)
    stages = ("contexts", "candidates", "pairs")
    reasons: Mapping[str, int] = progress.reasons.get("judged", {})
    return {
        **{stage: progress.rows[stage] for stage in stages},
        **{f"{stage}_per_second": progress.fresh[stage] / seconds for stage in stages},
        "accepted": reasons.get("accepted", 0),
        "quarantined": progress.errors.total(),
        **{f"rejected_{name}": count for name, count in reasons.items() if name != "accepted"},
    }
