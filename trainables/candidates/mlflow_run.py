"""The MLflow run of a candidates job, in the experiment `candidates`. It never stops a job."""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from gpt2core.distill.card import filter_rows
from gpt2core.errors import without_password
from gpt2core.storage import address
from trainables.candidates.progress import Progress
from trainables.tracking import configure_mlflow, experiment, mlflow_reason, open_client

EXPERIMENT = "candidates"
EVERY, PAUSE = 5.0, 60.0  # seconds between two entries, and after an entry that failed


class CandidatesRun:
    """Logs a job to MLflow. A resumed job continues its run.

    Counts are totals since the job's start, so the next entry makes up for one that could not be sent.
    """

    client: MlflowClient

    def __init__(self, uri: str, warn: Callable[[str], None]) -> None:
        self.uri, self.warn = uri, warn
        self.run_id = ""  # until a run is open
        self.next = 0.0
        self.round = 0  # the last finished round
        self.warned = False

    def start(self, folder: Path, params: Mapping[str, Any]) -> None:
        """Open the run of a job that writes to `folder`, or create it."""
        configure_mlflow()
        self._try(lambda: self._open(folder, params))

    def __call__(self, progress: Progress) -> None:
        """Log the progress every few seconds and when a round is done; the step is the number of filtered shards."""
        done = progress.is_filtered and progress.round != self.round
        if self.run_id and (done or time.monotonic() >= self.next):
            self.next = time.monotonic() + EVERY
            step = (progress.round - 1) * progress.shards + progress.done["judged"]
            self._try(lambda: self._log(_metrics(progress), step))
        if done:
            self.round = progress.round

    def finish(self, status: str, rounds: list[dict[str, Any]], card: str) -> None:
        """Log the counts of each round (the step is its number) and the data card, and end the run."""
        if not self.run_id:
            return
        self._try(lambda: self._log_rounds(rounds))
        if rounds:
            self._try(lambda: self.client.log_text(self.run_id, card, "README.md"))
        self._try(lambda: self.client.set_terminated(self.run_id, status))

    def _open(self, folder: Path, params: Mapping[str, Any]) -> None:
        client = self.client = open_client(self.uri)
        experiment_id = experiment(client, EXPERIMENT)
        job = hashlib.sha256(f"{address(folder)}\0{sorted(params.items())}".encode()).hexdigest()
        runs = client.search_runs([experiment_id], f"tags.job = '{job}'", max_results=1)
        if runs:
            self.run_id = runs[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
            return
        tags = {"job": job, "folder": address(folder)}
        run = client.create_run(experiment_id, run_name=folder.name, tags=tags)
        client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self.run_id = run.info.run_id

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def _log_rounds(self, rounds: list[dict[str, Any]]) -> None:
        for entry in rounds:
            values = {f"round_rejected_{name}": rejected for name, rejected, _ in filter_rows(entry)}
            values |= {f"round_{key}": entry[key] for key in ("accepted", "negatives")}
            self._log(values | {"round_pairs": entry["pairs"]["made"]}, entry["round"])
        if rounds:
            last, critic = rounds[-1], rounds[-1]["critic"]
            tags = {"digest": last["digest"], "critic": critic["critic"], "critic_model": critic["model"]}
            for key, value in {**tags, "stand_in": last["stand_in"]}.items():
                self.client.set_tag(self.run_id, key, value)

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # databases and artifact stores each raise their own classes
            self.next = time.monotonic() + PAUSE
            if not self.warned:
                where, reason = without_password(self.uri), mlflow_reason(error, self.uri)
                self.warn(f"MLflow at {where} did not answer ({reason}); the job goes on without it")
            self.warned = True


def _metrics(progress: Progress) -> dict[str, float]:
    """Return the counts so far, and rows per second."""
    rates = progress.rates()
    reasons: Mapping[str, int] = progress.reasons.get("judged", {})
    return {
        **{stage: progress.rows[stage] for stage in rates},
        **{f"{stage}_per_second": rate for stage, rate in rates.items()},
        "accepted": reasons.get("accepted", 0),
        "quarantined": progress.errors.total(),
        **{f"rejected_{name}": count for name, count in reasons.items() if name != "accepted"},
    }
