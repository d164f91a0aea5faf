"""MLflow: its URI, its database file, its experiments, and its errors in plain words."""

import logging
import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlparse

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from gpt2core.errors import UserError, first_line, without_password, without_passwords
from gpt2core.files import atomic_path, locked

if TYPE_CHECKING:  # it takes a second to import
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}  # with pages for training runs, not for chat traces
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # a database file, and the folder of artifacts next to it
#: Next to the searches in a storage: name -> content.
FILES = {
    DATABASE: "MLflow's database, unless a server is used",
    f".{DATABASE}.lock": "held while the database is created",
    f"{ARTIFACTS}/": "MLflow's files",
}
#: The columns of a database that hold paths of artifacts: table -> column.
PATH_COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
#: Part of an error of SQLite or of the network -> our message.
MESSAGES = {
    "readonly database": "its database is read-only",
    "invalid interpolation syntax": "it cannot create a database if its installation path contains a %",
    "database or disk is full": "the disk of its database is full",
    "database is locked": "its database is locked",
    "unable to open database": "its database cannot be opened; make its folder writable",
    "Connection refused": "connection refused",
    "Failed to resolve": "there is no such host",
    "timed out": "it took too long",
}


def mlflow_address(uri: str | None, storage: Path) -> str:
    """Return MLflow's URI: `uri`, else $MLFLOW_TRACKING_URI, else that of a database file in the storage."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(storage / DATABASE)


def sqlite_address(path: Path) -> str:
    """Return the URI of a database file. It is percent-encoded only if needed, because MLflow does not decode it."""
    plain = str(path)
    return f"sqlite+pysqlite:///{quote(plain)}" if {"%", "?"} & set(plain) else f"sqlite:///{plain}"


def database_of(uri: str) -> Path | None:
    """Return the database file that a URI names, or None for a server."""
    try:
        name = make_url(uri).database if uri.startswith("sqlite") else None
    except ArgumentError:
        return None
    return None if name is None or name == ":memory:" or name.startswith("file:") else Path(name).absolute()


def open_client(uri: str) -> "MlflowClient":
    """Return a client for an MLflow URI.

    A lock lets one process at a time create a database file, atomically, or update its artifact paths after it was moved.
    """
    from mlflow import MlflowClient

    database = database_of(uri)
    if database is None:
        return MlflowClient(uri)
    with locked(database.with_name(f".{database.name}.lock")):
        if database.exists() and database.stat().st_size:
            _update_artifact_paths(database)
        else:
            with atomic_path(database) as part:
                MlflowClient(sqlite_address(part))
    return MlflowClient(uri)


def _update_artifact_paths(database: Path) -> None:
    """Point a database that was moved or copied to the artifacts next to it."""
    folder = database.parent / ARTIFACTS
    new = folder.as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        experiments = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        tails = [(uri, f"/{ARTIFACTS}/{name}") for name, uri in experiments]
        former = {uri[: -len(tail)] + f"/{ARTIFACTS}" for uri, tail in tails if uri and uri.endswith(tail)}
        for old in former - {new}:
            path = Path(unquote(urlparse(old).path))
            if not (path.exists() and folder.exists() and path.samefile(folder)):
                for table, column in PATH_COLUMNS.items():
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def experiment(client: "MlflowClient", name: str) -> str:
    """Return the id of an experiment, created if it is missing; another search may create it at the same moment.

    Raises UserError for a deleted experiment, whose name MLflow keeps.
    """
    from mlflow.exceptions import MlflowException

    entry = client.get_experiment_by_name(name)
    if entry is None:
        database = database_of(client.tracking_uri)
        artifacts = None if database is None else f"{(database.parent / ARTIFACTS).as_uri()}/{name}"
        try:
            return str(client.create_experiment(name, artifacts, KIND))
        except MlflowException as error:
            entry = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if entry is None:
                raise
    if entry.lifecycle_stage != "active":
        uri = shlex.quote(without_password(client.tracking_uri))
        raise UserError(
            f"MLflow's experiment `{name}` is deleted; restore it with `MLFLOW_TRACKING_URI={uri} mlflow experiments restore "
            f"--experiment-id {entry.experiment_id}`, or give another --tracking-uri"
        )
    return str(entry.experiment_id)


def mlflow_reason(error: Exception, address: str) -> str:
    """Say why an MLflow call failed, in one line without passwords."""
    known = (message for part, message in MESSAGES.items() if part in str(error))
    return next(known, without_passwords(first_line(error), address))


def configure_mlflow() -> None:
    """Give MLflow's client short timeouts, and silence its log: we print each error in one line."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
