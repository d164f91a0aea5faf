"""MLflow's registry: a promoted folder is a model of its trial's run, a version of a registered model, and its champion."""

import logging
import os
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from gpt2core.errors import without_password
from searches.promoting.selection import Promotion
from trainables.tracking import database_of, mlflow_address, mlflow_reason, open_client

ALIAS = "champion"
#: Tags that two versions of one model cannot have in common.
SAME = ("search", "trial", "epoch", "format")


class NotRegisteredError(Exception):
    """MLflow did not take the model; the message says why."""


def address(uri: str | None, storage: Path) -> str:
    """MLflow's address; raise NotRegisteredError where it is a database that is not there."""
    found = mlflow_address(uri, storage)
    database = database_of(found)
    if database is not None and not database.is_file():
        raise NotRegisteredError(f"there is no database {database}; see --tracking-uri")
    return found


def register(p: Promotion, folder: Path, name: str, uri: str | None) -> ModelVersion:
    """Register `folder` as a version of `name` linked to its trial's run; the one that is there already where there is one.

    Raises NotRegisteredError.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # of errors, we say a line
    run = p.found.state.runs.get(p.trial.name)
    if run is None:
        raise NotRegisteredError(f"the search has noted no run of trial {p.trial.name} in MLflow")
    uri = address(uri, p.found.storage)
    try:
        mlflow.set_tracking_uri(uri)  # the registry looks a logged model up there
        open_client(uri)
        return _register(MlflowClient(uri, registry_uri=uri), p, folder, name, run)
    except Exception as error:  # of MLflow, of its database, of a store of files
        raise NotRegisteredError(
            f"MLflow at {without_password(uri)} did not take it ({mlflow_reason(error, uri)})"
        ) from None


def _register(client: MlflowClient, p: Promotion, folder: Path, name: str, run: str) -> ModelVersion:
    tags = _tags(p)
    _make(client, name, p)
    found = next((v for v in client.search_model_versions(f"name = '{name}'") if _same(v, run, tags)), None)
    if found is None:
        found = _new_version(client, p, folder, name, run, tags)
    else:  # the answer may have changed since
        client.log_model_artifact(found.source.removeprefix("models:/"), str(folder / "README.md"))
        client.update_model_version(name, found.version, _description(p))
        for key, value in tags.items():
            client.set_model_version_tag(name, found.version, key, value)
    client.set_registered_model_alias(name, ALIAS, found.version)
    return found


def _new_version(
    client: MlflowClient, p: Promotion, folder: Path, name: str, run: str, tags: dict[str, str]
) -> ModelVersion:
    """Upload the folder as a model of the run and make it a version; where that fails, the model is taken back."""
    experiment = client.get_run(run).info.experiment_id
    model = client.create_logged_model(experiment, f"trial-{p.trial.name}-{p.format}", run, tags).model_id
    try:
        client.log_model_artifacts(model, str(folder))
        client.finalize_logged_model(model, "READY")
        source = f"models:/{model}"
        made = client.create_model_version(name, source, run, tags, description=_description(p), model_id=model)
        client.log_outputs(run, [LoggedModelOutput(model, p.epoch)])
    except Exception:
        client.delete_logged_model(model)
        raise
    return made


def _make(client: MlflowClient, name: str, p: Promotion) -> None:
    """Make the registered model unless it is there."""
    try:
        client.create_registered_model(
            name, {"task": p.config.task}, f"Winners of searches for the task {p.config.task}."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _same(other: ModelVersion, run: str, tags: dict[str, str]) -> bool:
    return other.run_id == run and all(other.tags.get(key) == tags[key] for key in SAME)


def _tags(p: Promotion) -> dict[str, str]:
    objective = p.found.objective
    return {
        "search": p.found.name,
        "trial": p.trial.name,
        "epoch": str(p.epoch),
        "format": p.format,
        "data_digest": p.digest,
        "answer": p.found.answer_text,
        "outcome": p.found.answer.outcome if p.found.answer else "unknown",
        "chosen": p.chosen.why,
        "objective": objective,
        "score": f"{p.metrics[objective]:.4f}",
        "code_version": version("gpt2-search"),
    }


def _description(p: Promotion) -> str:
    return (
        f"Trial {p.trial.name} of `{p.found.name}`, epoch {p.epoch}. {p.chosen.why}. Answer: {p.found.answer_text}\n\n"
        "The model's README.md is its card, and says how to load it."
    )
