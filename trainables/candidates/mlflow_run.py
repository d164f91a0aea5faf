"""The run of a candidates job in MLflow, in the experiment `candidates`. It never stops a job."""

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
EVERY, REST = 5.0, 60.0  # seconds between two entries, and after one that MLflow did not take


class CandidatesRun:
    """Logs a job to its run in MLflow. A job that goes on does so in the run that it had.

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
        configure_mlflow()
        self._try(lambda: self._open(folder, params))

    def __call__(self, progress: Progress) -> None:
        """Log the progress, every few seconds and when a round is done; the step is the count of filtered shards."""
        done = progress.is_filtered and progress.round != self.round
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
                reason = mlflow_reason(error, self.uri)
                self.warn(
                    f"MLflow at {without_password(self.uri)} did not answer ({reason}); the job goes on without it"
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
