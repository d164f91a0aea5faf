"""MLflow, written from one place: experiment = task, parent run = search, child run = trial, grandchild = replicate.

The ledger keeps which run belongs to which trial, so a resumed search goes on in the same runs. A tracking server that cannot be
reached never stops a search, nor holds it up: its entries wait (`delivery.py`), and what is still missing when the search is
started again is delivered from the ledger. Entries have the time of their event, and MLflow keeps one of several that are alike,
so whatever is sent twice is there once.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from gpt2core.errors import without_passwords
from searches.question import Plan
from searches.running.delivery import Delivery
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, Event, Ledger, State, Trial
from trainables.tracking import experiment, quick_and_quiet

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # what MLflow shows as the description of a run, as Markdown
TRAINING = "workflowType=machine_learning"  # the pages of training runs, not those of chat traces
CONTEXT = "mlflow.data.context"
DIGEST = 12  # characters of a digest that a person reads; MLflow takes no more than 36
ENDED = ("FINISHED", "FAILED", "KILLED")
GRACE, SHORT_GRACE = 20.0, 2.0  # seconds for what waits at the end of a search; and where it was interrupted


class Tracker:
    """Listens to a ledger and writes what it hears to MLflow."""

    def __init__(
        self, plan: Plan, ledger: Ledger, uri: str, artifacts: str | None, warn: Callable[[str], None]
    ) -> None:
        quick_and_quiet()
        self.plan, self.ledger, self.uri, self.artifacts, self.warn = plan, ledger, uri, artifacts, warn
        self.delivery = Delivery(uri, warn)
        self.experiment_id = self.name = ""

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow; to open it makes the database, where there is none."""
        return MlflowClient(self.uri)

    def start(self, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Find or make the experiment and the search's run, then deliver what MLflow lacks of an earlier start.

        Raises MlflowException: a wrong address is found at the start.
        """
        self.name = name
        self.experiment_id = experiment(self.client, self.plan.task, self.artifacts)
        state = self.ledger.state
        key = {"search_id": state.id or state.runs.get("", "")}
        note = f"**{_plain(self.plan.search.question)}** The answer comes at the end."
        tags = {**tags, **key, **self._source(), NOTE: note}
        run = self._run("", key, lambda: self.client.create_run(self.experiment_id, run_name=name, tags=tags))
        if run.info.status in ENDED:
            self.client.update_run(self.parent, status="RUNNING")
        if not run.data.params:
            self.client.log_batch(self.parent, params=[Param(k, str(v)) for k, v in params.items()])
        if state.data and "data_digest" not in run.data.params:
            self.delivery.put(partial(self._data, {"data": state.data, "floors": state.floors}, state))
        self._share_view()
        for trial in state.trials.values():
            self.delivery.put(partial(self._catch_up, trial))

    @property
    def parent(self) -> str:
        """Id of the search's run."""
        return self.ledger.state.runs[""]

    def __call__(self, event: Event, state: State) -> None:
        """Take an event of the ledger, to be delivered after whatever waits."""
        if event["event"] in ("proposed", "report", "ended", "stopped", "reopened", "data", "candidates"):
            self.delivery.put(partial(getattr(self, f"_{event['event']}"), event, state))

    def finish(self, summary: dict[str, Any], status: str) -> None:
        """Write the summary to the search's run and end it; say what could not be delivered."""
        self.delivery.put(partial(self._finish, summary, status))
        self._wait(GRACE if status == "FINISHED" else SHORT_GRACE)

    def attach(self, files: Mapping[str, str], summary: dict[str, Any], page: Path) -> None:
        """Put text files beside the summary, and say on the page of the search's run what came out and where the report is."""
        if not self.delivery.stopped:
            for name, text in files.items():
                self.delivery.put(partial(self.client.log_text, self.parent, text, name))
            self.delivery.put(partial(self._describe, summary, page))
            self._wait(GRACE)

    def _describe(self, summary: dict[str, Any], page: Path) -> None:
        report = f"#/experiments/{self.experiment_id}/runs/{self.parent}/artifacts/{page.name}?{TRAINING}"
        note = (
            f"[Report]({report}), also at `{page}`. [Trials, best first]({self._link().removeprefix('/')})\n\n"
            f"**{_plain(summary['question'])}** {_plain(summary['answer']['text'])}"
            + "".join(f"\n\n{_plain(line)}" for line in summary["answer"].get("evidence", []))
        )
        self.client.log_batch(self.parent, tags=[RunTag("report", str(page)), RunTag(NOTE, note)])

    def _wait(self, seconds: float) -> None:
        left = self.delivery.finish(seconds)
        if left:
            self.warn(
                f"MLflow at {without_passwords(self.uri)} did not take {left} entries within {seconds:g} s; the same command "
                "delivers them"
            )

    def _finish(self, summary: dict[str, Any], status: str) -> None:
        now, answer = int(time.time() * 1000), summary["answer"]
        best = {f"best_{key}": value for key, value in (summary["best"] or {"metrics": {}})["metrics"].items()}
        metrics = [Metric(key, value, now, 0) for key, value in (best | answer_numbers(answer)).items()]
        told = {"answer": answer["text"], "outcome": answer.get("outcome"), "winner": answer.get("winner")}
        tags = [RunTag(key, str(value)) for key, value in told.items() if value]
        self.client.log_batch(self.parent, metrics=metrics, tags=tags)
        self.client.log_dict(self.parent, summary, "summary.json")
        self.client.set_terminated(self.parent, status)

    def page(self) -> str:
        """Where the MLflow UI shows the search's trials, best first, with what was searched and the score."""
        if self.uri.startswith("http"):
            return without_passwords(self.uri).rstrip("/") + self._link()
        ours = self.uri == f"sqlite:///{Path.cwd() / 'runs' / 'mlflow.db'}"
        start = "make ui" if ours else f"mlflow ui --backend-store-uri {without_passwords(self.uri)}"
        return f"`{start}`, then http://127.0.0.1:5000{self._link()}"

    def _link(self) -> str:
        return f"/#/experiments/{self.experiment_id}/runs?{TRAINING}&viewStateShareKey={self.parent}"

    def _share_view(self) -> None:
        """Keep, as MLflow's own button for sharing a view does, what `link` shows; by itself it shows no score at all."""
        best = f"metrics.`best_{self.plan.objective}`"
        shown = [best, *(f"params.`{key}`" for key in self.plan.space), "tags.`status`", "tags.`origin`"]
        view = {
            "searchFilter": f"tags.`{PARENT}` = '{self.parent}'",
            "orderByKey": best,
            "orderByAsc": self.plan.direction == "min",
            "selectedColumns": shown,
        }
        self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{self.parent}", json.dumps(view))

    def _run(self, name: str, tags: Mapping[str, str], make: Callable[[], Run]) -> Run:
        """Return the run of a trial, or "" for the search: the one that was noted, else one of these tags, else a new one.

        A run may have been made and not noted, because a kill came in between or its answer was lost. One that was noted may
        be gone, because it was deleted or another address is given.
        """
        noted = self.ledger.state.runs.get(name)
        run = None if noted is None else self._get(noted)
        if run is None:
            query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
            found = self.client.search_runs([self.experiment_id], query, max_results=1) if all(tags.values()) else []
            run = found[0] if found else make()
            self.ledger.record({"event": "run", "trial": name, "run_id": run.info.run_id})
        return run

    def _get(self, run_id: str) -> Run | None:
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _run_of_trial(self, trial: Trial) -> Run:
        parent = self.ledger.state.runs[trial.of] if trial.of else self.parent
        key = {PARENT: parent, "trial": trial.name}
        tags = {**key, "origin": trial.origin, "search": self.name, "status": RUNNING, **self._source()}
        return self._run(
            trial.name, key, lambda: self.client.create_run(self.experiment_id, run_name=trial.name, tags=tags)
        )

    def _source(self) -> dict[str, str]:
        return {"mlflow.source.name": f"searches/{self.plan.search.name}.py", "mlflow.source.type": "LOCAL"}

    def _run_of(self, trial: Trial) -> str:
        """Id of the trial's run, which is made where there is none."""
        noted = self.ledger.state.runs.get(trial.name)
        return noted if noted is not None else str(self._run_of_trial(trial).info.run_id)

    def _catch_up(self, trial: Trial) -> None:
        """Deliver what MLflow lacks of a trial."""
        with self.ledger.lock:
            reports, status, reason = dict(trial.reports), trial.status, trial.reason
        run = self._run_of_trial(trial)
        if run.info.status in ENDED and status != RUNNING:
            return
        if not run.data.params:
            self._log_params(trial)
        if run.info.status in ENDED:
            self._reopened({"trial": trial.name}, self.ledger.state)
        there = {metric.step for metric in self.client.get_metric_history(run.info.run_id, self.plan.objective)}
        for epoch in sorted(reports.keys() - there):
            self._report(reports[epoch], self.ledger.state)
        if status != RUNNING:
            self._ended({"trial": trial.name, "status": status, "reason": reason}, self.ledger.state)

    def _proposed(self, event: Event, state: State) -> None:
        self._log_params(state.trials[event["trial"]["name"]])

    def _log_params(self, trial: Trial) -> None:
        self._log_data(self._run_of(trial))
        params = [Param(key, str(value)) for key, value in trial.run.items()]
        self.client.log_batch(self._run_of(trial), params=params)

    def _log_data(self, run_id: str) -> None:
        """Name the data among the datasets of a run, by which MLflow's table can be filtered."""
        data = self.ledger.state.data
        if data:
            source = json.dumps({"uri": data["data"]})
            dataset = Dataset(self.plan.task, data["digest"][:DIGEST], source_type="local", source=source)
            self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag(CONTEXT, "training")])])

    def _report(self, event: Event, state: State) -> None:
        trial = state.trials[event["trial"]]
        metrics = [Metric(key, value, _milliseconds(event), event["epoch"]) for key, value in event["metrics"].items()]
        tags = [RunTag(f"data_{key}", str(value)) for key, value in event.get("data", {}).items()]
        self.client.log_batch(self._run_of(trial), metrics=metrics, tags=tags)

    def _ended(self, event: Event, state: State) -> None:
        trial = state.trials[event["trial"]]
        run = self._run_of(trial)
        counted = "" if trial.stopped_at is None else str(trial.stopped_at)  # epochs behind it do not count
        tags = [RunTag("status", event["status"]), RunTag("reason", event.get("reason") or "")]
        tags.append(RunTag("stopped_at", counted))
        objective = self.plan.objective
        best = trial.best(objective, self.plan.direction)
        if best:
            # MLflow sorts by the last value of a metric; what a trial is worth is its best epoch's.
            last = trial.reports[max(trial.reports)]
            when = max(_milliseconds(event), _milliseconds(last))
            value = Metric(f"best_{objective}", best["metrics"][objective], when, last["epoch"])
            self.client.log_batch(run, metrics=[value], tags=[RunTag("best_epoch", str(best["epoch"]))])
            self.client.log_text(run, samples_text(best["samples"]), "samples.md")
            for name, rows in best.get("tables", {}).items():
                self.client.log_dict(run, {"rows are gold, columns predicted": rows}, f"{name}.json")
        self.client.log_batch(run, tags=[tag for tag in tags if tag.value])
        self.client.set_terminated(run, "FINISHED" if event["status"] in (COMPLETED, STOPPED) else "FAILED")

    def _stopped(self, event: Event, state: State) -> None:
        """A trial that had ended and counts up to an earlier epoch now."""
        trial = state.trials[event["trial"]]
        if trial.status != RUNNING:
            self._ended({**event, "status": trial.status}, state)

    def _reopened(self, event: Event, state: State) -> None:
        run = self._run_of(state.trials[event["trial"]])
        self.client.update_run(run, status="RUNNING")
        self.client.set_tag(run, "reason", "")

    def _data(self, event: Event, state: State) -> None:
        self._log_data(self.parent)
        self.client.log_batch(self.parent, params=[Param(f"data_{k}", v) for k, v in event["data"].items()])
        self.client.log_text(self.parent, json.dumps(event["floors"], indent=2), "floors.json")

    def _candidates(self, event: Event, state: State) -> None:
        self.client.log_dict(self.parent, event["made"], f"{event['name']}.json")
        self.client.log_batch(self.parent, tags=[RunTag(f"{event['name']}_digest", event["made"]["digest"])])


def answer_numbers(answer: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an answer that a search's run is found by: what of them is known."""
    differences = [abs(pair["difference"]) for pair in answer.get("pairs", []) if pair["difference"] is not None]
    found = {
        "answer/p_value": answer.get("test", {}).get("p_value"),
        "answer/excluded": answer.get("excluded"),
        "answer/largest_difference": max(differences, default=None),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _milliseconds(event: Event) -> int:
    """When an event happened, which is the same however often it is sent."""
    return int(event.get("time", 0.0) * 1000)


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
