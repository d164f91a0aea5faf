"""MLflow, written from one place: experiment = task, parent run = search, child run = trial, grandchild = replicate.

The ledger keeps which run belongs to which trial, so a resumed search goes on in the same runs. A tracking server that
cannot be reached never stops a search: its entries wait and are sent with the next one.
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from searches.ledger import COMPLETED, RUNNING, STOPPED, Event, Ledger, State, Trial
from searches.question import Plan
from trainables.tracking import KIND

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # what MLflow shows as the description of a run, as Markdown
TRAINING = "workflowType=machine_learning"  # the pages of training runs, not those of chat traces


class Tracker:
    """Listens to a ledger and writes what it hears to MLflow."""

    def __init__(
        self, plan: Plan, ledger: Ledger, uri: str, artifacts: str | None, warn: Callable[[str], None]
    ) -> None:
        self.plan, self.ledger, self.uri, self.artifacts, self.warn = plan, ledger, uri, artifacts, warn
        self.client = MlflowClient(uri)
        self.pending: deque[tuple[Event, State]] = deque()
        self.silent = False
        self.experiment_id = self.name = ""

    def start(self, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Find or make the experiment and the search's run. Raises MlflowException: a wrong address is found at the start."""
        self.name = name
        experiment = self.client.get_experiment_by_name(self.plan.task)
        if experiment is None:
            location = f"{self.artifacts}/{self.plan.task}" if self.artifacts else None
            self.experiment_id = self.client.create_experiment(self.plan.task, location, KIND)
        else:
            self.experiment_id = experiment.experiment_id
        if "" not in self.ledger.state.runs:
            run = self.client.create_run(self.experiment_id, run_name=name, tags=tags | self._source())
            self.ledger.record({"event": "run", "trial": "", "run_id": run.info.run_id})
            self.client.log_batch(self.parent, params=[Param(k, str(v)) for k, v in params.items()])
        else:
            self.client.update_run(self.parent, status="RUNNING")
        self._share_view()

    @property
    def parent(self) -> str:
        """Id of the search's run."""
        return self.ledger.state.runs[""]

    def __call__(self, event: Event, state: State) -> None:
        """Take an event of the ledger; deliver it and whatever waits."""
        if event["event"] in ("proposed", "report", "ended", "reopened", "data", "candidates"):
            self.pending.append((event, state))
            self.flush()

    def flush(self) -> None:
        """Send what waits, oldest first; stop at the first failure and say so once."""
        while self.pending:
            event, state = self.pending[0]
            try:
                getattr(self, f"_{event['event']}")(event, state)
            except (MlflowException, OSError) as error:
                if not self.silent:
                    self.warn(f"MLflow at {self.uri} did not answer ({str(error).splitlines()[0]}); its entries wait")
                self.silent = True
                return
            self.silent = False
            self.pending.popleft()

    def finish(self, summary: dict[str, Any], status: str) -> None:
        """Write the summary to the search's run and end it."""
        self.flush()
        try:
            best = summary["best"]
            if best:
                metrics = [Metric(f"best_{k}", v, int(time.time() * 1000), 0) for k, v in best["metrics"].items()]
                self.client.log_batch(self.parent, metrics=metrics)
            self.client.log_dict(self.parent, summary, "summary.json")
            self.client.set_tag(self.parent, "verdict", summary["verdict"]["text"])
            self.client.set_terminated(self.parent, status)
        except (MlflowException, OSError) as error:
            self.warn(f"MLflow at {self.uri} did not take the summary ({str(error).splitlines()[0]})")

    def attach(self, files: Mapping[str, str]) -> None:
        """Put text files beside the summary."""
        try:
            for name, text in files.items():
                self.client.log_text(self.parent, text, name)
        except (MlflowException, OSError) as error:
            self.warn(f"MLflow at {self.uri} did not take report and plots ({str(error).splitlines()[0]})")

    def describe(self, summary: dict[str, Any], page: Path) -> None:
        """Say on the page of the search's run what came out and where the report is."""
        report = f"#/experiments/{self.experiment_id}/runs/{self.parent}/artifacts/{page.name}?{TRAINING}"
        note = (
            f"[Report]({report}), also at `{page}`. [Trials, best first]({self.link().removeprefix('/')})\n\n"
            f"**{_plain(summary['question'])}** Verdict: {_plain(summary['verdict']['text'])}"
        )
        try:
            self.client.log_batch(self.parent, tags=[RunTag("report", str(page)), RunTag(NOTE, note)])
        except (MlflowException, OSError) as error:
            self.warn(f"MLflow at {self.uri} did not take the report ({str(error).splitlines()[0]})")

    def link(self) -> str:
        """Path in the MLflow UI that shows the search's trials, best first, with what was searched and the score."""
        return f"/#/experiments/{self.experiment_id}/runs?{TRAINING}&viewStateShareKey={self.parent}"

    def _share_view(self) -> None:
        """Keep, as MLflow's own button for sharing a view does, what `link` shows; by itself it shows no score at all."""
        best = f"metrics.`best_{self.plan.objective}`"
        view = {
            "searchFilter": f"tags.`{PARENT}` = '{self.parent}'",
            "orderByKey": best,
            "orderByAsc": self.plan.direction == "min",
            "selectedColumns": [
                best,
                *(f"params.`{key}`" for key in self.plan.space),
                "tags.`status`",
                "tags.`origin`",
            ],
        }
        self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{self.parent}", json.dumps(view))

    def _run_of(self, trial: Trial) -> str:
        """Return the trial's run; make it where there is none. A run whose making was not noted is found by its tag."""
        runs = self.ledger.state.runs
        if trial.name not in runs:
            parent = runs[trial.of] if trial.of else self.parent
            found = self.client.search_runs(
                [self.experiment_id], f"tags.trial = '{trial.name}' and tags.`{PARENT}` = '{parent}'", max_results=1
            )
            if found:
                run = found[0]
            else:
                tags = {"trial": trial.name, "origin": trial.origin, "search": self.name, "status": RUNNING}
                tags |= {PARENT: parent, **self._source()}
                run = self.client.create_run(self.experiment_id, run_name=trial.name, tags=tags)
            self.ledger.record({"event": "run", "trial": trial.name, "run_id": run.info.run_id})
        return runs[trial.name]

    def _source(self) -> dict[str, str]:
        return {"mlflow.source.name": f"searches/{self.plan.search.name}.py", "mlflow.source.type": "LOCAL"}

    def _proposed(self, event: Event, state: State) -> None:
        trial = state.trials[event["trial"]["name"]]
        params = [Param(key, str(value)) for key, value in trial.run.items()]
        self.client.log_batch(self._run_of(trial), params=params)

    def _report(self, event: Event, state: State) -> None:
        trial = state.trials[event["trial"]]
        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, event["epoch"]) for key, value in event["metrics"].items()]
        tags = [RunTag(f"data_{key}", str(value)) for key, value in event.get("data", {}).items()]
        self.client.log_batch(self._run_of(trial), metrics=metrics, tags=tags)

    def _ended(self, event: Event, state: State) -> None:
        trial = state.trials[event["trial"]]
        run = self._run_of(trial)
        tags = [RunTag("status", event["status"]), RunTag("reason", event.get("reason") or "")]
        objective = self.plan.objective
        best = trial.best(objective, self.plan.direction)
        if best:
            # MLflow sorts by the last value of a metric; what a trial is worth is its best epoch's.
            value = Metric(f"best_{objective}", best["metrics"][objective], int(time.time() * 1000), best["epoch"])
            self.client.log_batch(run, metrics=[value], tags=[RunTag("best_epoch", str(best["epoch"]))])
            self.client.log_text(run, samples_text(best["samples"]), "samples.md")
            for name, rows in best.get("tables", {}).items():
                self.client.log_dict(run, {"rows are gold, columns predicted": rows}, f"{name}.json")
        self.client.log_batch(run, tags=[tag for tag in tags if tag.value])
        self.client.set_terminated(run, "FINISHED" if event["status"] in (COMPLETED, STOPPED) else "FAILED")

    def _reopened(self, event: Event, state: State) -> None:
        run = self._run_of(state.trials[event["trial"]])
        self.client.update_run(run, status="RUNNING")
        self.client.delete_tag(run, "reason")

    def _data(self, event: Event, state: State) -> None:
        self.client.log_batch(self.parent, params=[Param(f"data_{k}", v) for k, v in event["data"].items()])
        self.client.log_text(self.parent, json.dumps(event["floors"], indent=2), "floors.json")

    def _candidates(self, event: Event, state: State) -> None:
        self.client.log_dict(self.parent, event["made"], f"{event['name']}.json")
        self.client.log_batch(self.parent, tags=[RunTag(f"{event['name']}_digest", event["made"]["digest"])])


def samples_text(samples: list[dict[str, str]]) -> str:
    """Samples as Markdown, a section for each and in it one for each of its keys."""
    parts = []
    for sample in samples:
        values = {key: value.replace("\n", "  \n") for key, value in sample.items() if key != "id"}
        parts.append(f"## {sample['id']}\n\n" + "".join(f"### {key}\n\n{value}\n\n" for key, value in values.items()))
    return "".join(parts) or "This task writes no samples.\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"[\\`*_\[\]<>]", lambda found: f"\\{found[0]}", text)
