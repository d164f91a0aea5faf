"""MLflow for candidate generation: a run for each job in the experiment `candidates`. It never stops a job."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from gpt2core.distill.card import filter_rows
from gpt2core.errors import first_line, without_passwords
from gpt2core.storage import address
from trainables.pipeline import Progress

EXPERIMENT = "candidates"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the pages of training runs, not those of chat traces
EVERY, REST = 5.0, 60.0  # seconds between two entries, and after one that MLflow did not take


def default_address(storage: Path) -> tuple[str, str | None]:
    """MLflow's address where no flag gives one: $MLFLOW_TRACKING_URI, else a database and a folder in the storage."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"], None
    storage.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{storage / 'mlflow.db'}", (storage / "mlartifacts").as_uri()


def experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Id of an experiment, which is made where there is none; another search may make it at the same moment."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, f"{artifacts}/{name}" if artifacts else None, KIND))
        except MlflowException as error:
            found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
    return str(found.experiment_id)


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

    def __init__(self, uri: str, artifacts: str | None, warn: Callable[[str], None]) -> None:
        self.uri, self.artifacts, self.warn = uri, artifacts, warn
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
        if self.run_id:
            self._try(lambda: self._finish(status, rounds, card))

    def _open(self, folder: Path, params: Mapping[str, Any]) -> None:
        self.client = MlflowClient(self.uri)
        self.experiment_id = experiment(self.client, EXPERIMENT, self.artifacts)
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

    def _finish(self, status: str, rounds: list[dict[str, Any]], card: str) -> None:
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
            self.client.log_text(self.run_id, card, "README.md")
        self.client.set_terminated(self.run_id, status)

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except (MlflowException, OSError) as error:
            self.next = time.monotonic() + REST
            if not self.warned:
                told = f"MLflow at {self.uri} did not answer ({first_line(error)}); the job goes on without"
                self.warn(without_passwords(told))
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
