"""Registers a promoted folder in MLflow: a logged model of its trial's run, and the champion version of a registered model."""

import logging
import os
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from gpt2core.errors import without_password
from gpt2core.model_folder import CARD
from searches.promoting.mlmodel import write_mlmodel
from searches.promoting.selection import Promotion
from trainables.tracking import database_of, mlflow_address, mlflow_reason, open_client

ALIAS = "champion"
#: Tags that identify a version.
SAME = ("search", "trial", "epoch", "format")


class NotRegisteredError(Exception):
    """MLflow refused the model; the message says why."""


def register(p: Promotion, folder: Path, name: str, uri: str | None) -> ModelVersion:
    """Register `folder` as a version of `name`, linked to its trial's run; update the version if it exists already.

    Raises NotRegisteredError.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # an error is reported in one line
    run = p.search.state.runs.get(p.trial.name)
    if run is None:
        raise NotRegisteredError(f"the search has noted no run of trial {p.trial.name} in MLflow")
    uri = mlflow_address(uri, p.search.storage)
    database = database_of(uri)
    if database is not None and not database.is_file():
        raise NotRegisteredError(f"there is no database {database}; see --tracking-uri")
    try:
        mlflow.set_tracking_uri(uri)  # where the registry looks for logged models
        open_client(uri)
        return _register(MlflowClient(uri, registry_uri=uri), p, folder, name, run)
    except Exception as error:  # from MLflow, its database or its artifact store
        reason = mlflow_reason(error, uri)
        raise NotRegisteredError(f"MLflow at {without_password(uri)} did not accept it ({reason})") from None


def _register(client: MlflowClient, p: Promotion, folder: Path, name: str, run: str) -> ModelVersion:
    tags, task = _tags(p), p.config.task
    try:
        client.create_registered_model(name, {"task": task}, f"Winners of searches for the task {task}.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = next((v for v in client.search_model_versions(f"name = '{name}'") if _same(v, run, tags)), None)
    if version is None:
        version = _new_version(client, p, folder, name, run, tags)
    else:  # the answer may have changed since
        client.log_model_artifact(version.source.removeprefix("models:/"), str(folder / CARD))
        client.update_model_version(name, version.version, _description(p))
        for key, value in tags.items():
            client.set_model_version_tag(name, version.version, key, value)
    client.set_registered_model_alias(name, ALIAS, version.version)
    return version


def _new_version(
    client: MlflowClient, p: Promotion, folder: Path, name: str, run: str, tags: dict[str, str]
) -> ModelVersion:
    """Upload the folder as a model of the run and make it a version; delete the model again if that fails."""
    experiment = client.get_run(run).info.experiment_id
    model = client.create_logged_model(experiment, f"trial-{p.trial.name}-{p.format}", run, tags).model_id
    try:
        client.log_model_artifacts(model, str(folder))
        with TemporaryDirectory() as part:
            write_mlmodel(Path(part), folder, p.config, p.format, run, model)
            client.log_model_artifacts(model, part)
        client.finalize_logged_model(model, "READY")
        source = f"models:/{model}"
        made = client.create_model_version(name, source, run, tags, description=_description(p), model_id=model)
        client.log_outputs(run, [LoggedModelOutput(model, p.epoch)])
    except Exception:
        client.delete_logged_model(model)
        raise
    return made


def _same(other: ModelVersion, run: str, tags: dict[str, str]) -> bool:
    return other.run_id == run and all(other.tags.get(key) == tags[key] for key in SAME)


def _tags(p: Promotion) -> dict[str, str]:
    objective = p.search.objective
    return {
        "search": p.search.name,
        "trial": p.trial.name,
        "epoch": str(p.epoch),
        "format": p.format,
        "data_digest": p.digest,
        "answer": p.search.answer_text,
        "outcome": p.search.answer.outcome if p.search.answer else "unknown",
        "chosen": p.chosen.why,
        "objective": objective,
        "score": f"{p.metrics[objective]:.4f}",
        "code_version": metadata.version("gpt2-search"),
    }


def _description(p: Promotion) -> str:
    return (
        f"Trial {p.trial.name} of `{p.search.name}`, epoch {p.epoch}. {p.chosen.why}. Answer: {p.search.answer_text}\n\n"
        "The model's README.md is its card and says how to load it."
    )
