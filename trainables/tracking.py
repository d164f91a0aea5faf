"""MLflow: its URI, its database file, and its experiments."""

import logging
import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from gpt2core.errors import UserError, first_line, without_password, without_passwords
from gpt2core.files import atomic_path, locked

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the pages of training runs, not those of chat traces
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
    """MLflow's URI: that of the flag, else $MLFLOW_TRACKING_URI, else a database file in the storage."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(storage / "mlflow.db")


def sqlite_address(path: Path) -> str:
    """The URI of a database file. SQLAlchemy decodes it; MLflow makes a folder of what it does not decode."""
    plain = str(path)
    return f"sqlite+pysqlite:///{quote(plain)}" if {"%", "?"} & set(plain) else f"sqlite:///{plain}"


def database_of(uri: str) -> Path | None:
    """The file that a URI names; None if it is a server's."""
    try:
        name = make_url(uri).database if uri.startswith("sqlite") else None
    except ArgumentError:
        return None
    return None if name is None or name == ":memory:" or name.startswith("file:") else Path(name).absolute()


def open_client(uri: str) -> MlflowClient:
    """Return a client for an MLflow URI.

    One process at a time creates a database file, completely or not at all, or checks that its artifacts are beside it.
    """
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
    """Point a database that was moved or copied to the artifacts beside it."""
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
    """Return the id of an experiment, created if it is missing; another search may create it at the same moment.

    Raises UserError for a deleted one, whose name MLflow keeps.
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


def mlflow_reason(error: Exception, address: str) -> str:
    """Why an MLflow call failed, in one line without passwords."""
    text = str(error)
    return next((said for sign, said in SAID.items() if sign in text), without_passwords(first_line(error), address))


def configure_mlflow() -> None:
    """Give MLflow's client short timeouts, and silence its own messages."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # of errors, we say a line
