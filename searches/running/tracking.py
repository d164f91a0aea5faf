"""MLflow, written from one place: experiment = task, parent run = search, child run = trial, grandchild = replicate.

The ledger keeps which run belongs to which trial, so a resumed search goes on in the same runs. A tracking server that cannot be
reached never stops a search, nor holds it up: its entries wait (`retry_queue.py`), and what is still missing when the search is
started again is delivered from the ledger. A run that something was refused of says so by its tag `lacks`. Entries have the time
of their event, and MLflow keeps one of several that are alike, so whatever is sent twice is there once.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from gpt2core.cli import command_text
from gpt2core.errors import UserError, without_password
from gpt2core.metrics.direction import Direction
from searches.formatting import count
from searches.options import Options
from searches.question import Plan
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, Event, Ledger, State, Trial
from searches.running.retry_queue import RetryQueue
from searches.showing.markdown import markdown_cell, markdown_code, markdown_fence
from searches.summary import Summary, Verdict
from trainables.tracking import database_of, experiment, open_client, quick_and_quiet, why

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # what MLflow shows as the description of a run, as Markdown
TRAINING = "workflowType=machine_learning"  # the pages of training runs, not those of chat traces
CONTEXT = "mlflow.data.context"
DIGEST = 12  # characters of a digest that a person reads; MLflow takes no more than 36
ENDED = ("FINISHED", "FAILED", "KILLED")
LACKS = "lacks"  # a tag: why a part of the run was not taken
REASONS = 3  # that are told at the end
LONGEST_PARAM, LONGEST_TAG = 6000, 5000  # characters that MLflow takes
PAUSES = (0.5, 2.0)  # seconds between tries to open MLflow
GRACE, SHORT_GRACE = 20.0, 2.0  # seconds for what waits at the end of a search; and where it was interrupted


class Tracker:
    """Listens to a ledger and writes what it hears to MLflow."""

    def __init__(self, plan: Plan, ledger: Ledger, uri: str, warn: Callable[[str], None]) -> None:
        quick_and_quiet()
        self.plan, self.ledger, self.uri, self.warn = plan, ledger, uri, warn
        self.queue = RetryQueue(uri, warn, lambda: self.client.get_experiment(self.experiment_id))
        self.experiment_id = self.name = ""
        self.told = 0  # refusals that a person knows of
        self.ready = False  # whether the search has a run

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow; to open it makes the database, where there is none."""
        return open_client(self.uri)

    def start(self, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Find or make the experiment and the search's run, then deliver what MLflow lacks of an earlier start.

        Raises UserError for a deleted experiment, and whatever MLflow raises: a wrong address is found at the start.
        """
        self.name = name
        self.experiment_id = experiment(self.client, self.plan.task)
        state = self.ledger.state
        known = {"search_id": state.id or state.runs.get("", "")}
        note = f"**{markdown_cell(self.plan.search.question)}** The answer comes at the end."
        tags = {key: _cut(value, LONGEST_TAG) for key, value in {**tags, **known, **self._source(), NOTE: note}.items()}
        run = self._run("", known, lambda: self.client.create_run(self.experiment_id, run_name=name, tags=tags))
        if run.info.status in ENDED:
            self.queue.put(partial(self.client.update_run, self.parent, status="RUNNING"))
        if not run.data.params:
            self.queue.put(partial(self.client.log_batch, self.parent, params=_params(params)))
        self.ready = True
        lacks = LACKS in run.data.tags
        if lacks:
            self.queue.put(partial(self.client.delete_tag, self.parent, LACKS))
        if state.data and (lacks or "data_digest" not in run.data.params):
            self._data({"data": state.data, "baselines": state.baselines})
        self.queue.put(self._share_view)
        for trial in state.trials.values():
            self.queue.put(partial(self._catch_up, trial), trial.name)

    @property
    def parent(self) -> str:
        """Id of the search's run."""
        return self.ledger.state.runs[""]

    def __call__(self, event: Event, state: State) -> None:
        """Take an event of the ledger, to be delivered after whatever waits."""
        match event["event"]:
            case "data":
                self._data(event)
            case "candidates":
                self._candidates(event)
            case "proposed":
                self._put_trial(self._proposed, event, state, event["trial"]["name"])
            case "report":
                self._put_trial(self._report, event, state, event["trial"])
            case "reopened":
                self._put_trial(self._reopened, event, state, event["trial"])
            case "ended" | "stopped":
                trial = state.trials[event["trial"]]
                if trial.status != RUNNING:  # else it is told when it has ended
                    self._end({**event, "status": trial.status}, state)

    def finish(self, summary: Summary, status: str) -> None:
        """Write the summary to the search's run and end it; say what could not be delivered."""
        self.queue.put(partial(self._results, summary))
        self._put_file("summary.json", summary.model_dump_json(indent=2))
        self.queue.put(partial(self._finish, status))
        self._wait(GRACE if status == "FINISHED" else SHORT_GRACE)

    def attach(self, files: Mapping[str, str], summary: Summary, page: Path) -> None:
        """Put text files beside the summary, and say on the page of the search's run what came out and where the report is."""
        if not self.queue.stopped:
            for name, text in files.items():
                self._put_file(name, text)
            self.queue.put(partial(self._describe, summary, page))
            self._wait(GRACE)

    def _put_trial(self, tell: Callable[[Event, State], None], event: Event, state: State, name: str) -> None:
        # What is lost with this machine is reported again, so only what outlives it is told.
        self.queue.put(partial(tell, event, state), name, may_go=partial(self.ledger.is_kept, self.ledger.size))

    def _put_file(self, name: str, text: str, trial: Trial | None = None) -> None:
        """Let a file be sent, to the run of a trial or of the search."""

        def send() -> None:
            self.client.log_text(self.parent if trial is None else self._run_of(trial), text, name)

        self.queue.put(send, trial.name if trial else "", is_file=True)

    def _describe(self, summary: Summary, page: Path) -> None:
        report = f"#/experiments/{self.experiment_id}/runs/{self.parent}/artifacts/{page.name}?{TRAINING}"
        note = (
            f"[Report]({report}), also at {markdown_code(page)}. [Trials, best first]({self._link().removeprefix('/')})\n\n"
            f"**{markdown_cell(summary.question)}** {markdown_cell(summary.answer.text)}"
            + "".join(f"\n\n{markdown_cell(line)}" for line in summary.answer.evidence)
        )
        self.client.log_batch(self.parent, tags=_tags({"report": str(page), NOTE: note}))

    def _wait(self, seconds: float) -> None:
        """Wait for what is not sent yet; say what of it, and of all before, MLflow has not."""
        left, refused = self.queue.finish(seconds), self.queue.refused
        where = f"MLflow at {without_password(self.uri)}"
        if left:
            self.warn(f"{where} did not take {left} entries within {seconds:g} s; the same command delivers them")
        if len(refused) > self.told:
            reasons = list(dict.fromkeys(reason for _, reason in refused))
            more = f"; and {len(reasons) - REASONS} more reasons" if len(reasons) > REASONS else ""
            self.warn(
                f"{where} refused {count(len(refused), 'part')} of what it was sent ({'; '.join(reasons[:REASONS])}{more}). The "
                "search's folder has all of it; when MLflow takes it, the same command delivers it"
            )
            self.told = len(refused)

    def _results(self, summary: Summary) -> None:
        now, answer = int(time.time() * 1000), summary.answer
        best = {f"best_{key}": value for key, value in (summary.best.metrics if summary.best else {}).items()}
        metrics = [Metric(key, value, now, 0) for key, value in (best | answer_numbers(answer)).items()]
        told = {"answer": answer.text, "outcome": answer.outcome, "winner": answer.winner}
        self.client.log_batch(self.parent, metrics=metrics, tags=_tags(told))

    def _finish(self, status: str) -> None:
        lack = self.queue.lacks("")
        if lack:
            self.client.log_batch(self.parent, tags=_tags({LACKS: lack}))
        self.client.set_terminated(self.parent, status)

    def page(self) -> str:
        """Where the MLflow UI shows the search's trials, best first, with what was searched and the score."""
        if self.uri.startswith("http"):
            return without_password(self.uri).rstrip("/") + self._link()
        ours = database_of(self.uri) == Path.cwd() / "runs" / "mlflow.db"
        address = shlex.quote(without_password(self.uri))
        start = "make ui" if ours else f"mlflow ui --backend-store-uri {address}"
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
            "orderByAsc": self.plan.direction is Direction.MIN,
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
            reports, status = dict(trial.reports), trial.status
        run = self._run_of_trial(trial)
        lacks = LACKS in run.data.tags
        if run.info.status in ENDED and status != RUNNING and not lacks:
            return
        if lacks:
            self.client.delete_tag(run.info.run_id, LACKS)
        if lacks or not run.data.params:
            self._log_params(trial)
        if run.info.status in ENDED:
            self._reopened({"trial": trial.name}, self.ledger.state)
        history = [] if lacks else self.client.get_metric_history(run.info.run_id, self.plan.objective)
        for epoch in sorted(reports.keys() - {metric.step for metric in history}):
            self._report(reports[epoch], self.ledger.state)
        with self.ledger.lock:  # it may have been reopened meanwhile, which is told after this
            if trial.status != RUNNING:
                self._end({"trial": trial.name, "status": trial.status, "reason": trial.reason}, self.ledger.state)

    def _proposed(self, event: Event, state: State) -> None:
        self._log_params(state.trials[event["trial"]["name"]])

    def _log_params(self, trial: Trial) -> None:
        self._log_data(self._run_of(trial))
        self.client.log_batch(self._run_of(trial), params=_params(trial.run))

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
        tags = {f"data_{key}": value for key, value in event.get("data", {}).items()}
        self.client.log_batch(self._run_of(trial), metrics=metrics, tags=_tags(tags))

    def _end(self, event: Event, state: State) -> None:
        """Let all be sent that is known of a trial when it has ended, its end last."""
        trial = state.trials[event["trial"]]
        best = trial.best(self.plan.objective, self.plan.direction)
        if best:
            self._put_file("samples.md", samples_text(best["samples"]), trial)
            for name, rows in best.get("tables", {}).items():
                self._put_file(f"{name}.json", json.dumps({"rows are gold, columns predicted": rows}, indent=2), trial)
        self.queue.put(partial(self._ended, event, state), trial.name)

    def _ended(self, event: Event, state: State) -> None:
        trial = state.trials[event["trial"]]
        run = self._run_of(trial)
        objective = self.plan.objective
        best = trial.best(objective, self.plan.direction)
        tags = {
            "status": event["status"],
            "reason": event.get("reason"),
            "stopped_at": trial.stopped_at,  # epochs behind it do not count
            "best_epoch": best["epoch"] if best else None,
            LACKS: self.queue.lacks(trial.name),
        }
        metrics = []
        if best:
            # MLflow sorts by the last value of a metric; what a trial is worth is its best epoch's.
            last = trial.reports[max(trial.reports)]
            when = max(_milliseconds(event), _milliseconds(last))
            metrics = [Metric(f"best_{objective}", best["metrics"][objective], when, last["epoch"])]
        self.client.log_batch(run, metrics=metrics, tags=_tags(tags))
        self.client.set_terminated(run, "FINISHED" if event["status"] in (COMPLETED, STOPPED) else "FAILED")

    def _reopened(self, event: Event, state: State) -> None:
        run = self._run_of(state.trials[event["trial"]])
        self.client.update_run(run, status="RUNNING")
        self.client.set_tag(run, "reason", "")

    def _data(self, event: Event) -> None:
        self.queue.put(partial(self._log_data, self.parent))
        params = _params({f"data_{key}": value for key, value in event["data"].items()})
        self._put_file("baselines.json", json.dumps(event["baselines"], indent=2))
        self.queue.put(partial(self.client.log_batch, self.parent, params=params))

    def _candidates(self, event: Event) -> None:
        self._put_file(f"{event['name']}.json", json.dumps(event["made"], indent=2))
        tags = _tags({f"{event['name']}_digest": event["made"]["digest"]})
        self.queue.put(partial(self.client.log_batch, self.parent, tags=tags))


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(key, _cut(str(value), LONGEST_PARAM)) for key, value in values.items()]


def _tags(values: Mapping[str, Any]) -> list[RunTag]:
    """The tags that have a value."""
    return [RunTag(key, _cut(str(value), LONGEST_TAG)) for key, value in values.items() if value not in (None, "")]


def _cut(text: str, most: int) -> str:
    """A text that MLflow takes, and that says how much of it is left out."""
    if len(text) <= most:
        return text
    end = f" ... ({len(text)} characters)"
    return text[: most - len(end)] + end


def answer_numbers(answer: Verdict) -> dict[str, float]:
    """The numbers of an answer that a search's run is found by: what of them is known."""
    differences = [abs(pair.difference) for pair in answer.pairs if pair.difference is not None]
    found = {
        "answer/p_value": answer.test.p_value,
        "answer/excluded": answer.excluded,
        "answer/largest_difference": max(differences, default=None),
    }
    return {name: value for name, value in found.items() if value is not None}


def _milliseconds(event: Event) -> int:
    """When an event happened, which is the same however often it is sent."""
    return int(event.get("time", 0.0) * 1000)


def samples_text(samples: list[dict[str, str]]) -> str:
    """Samples as Markdown, a section for each and in it one for each of its keys."""
    parts = []
    for sample in samples:
        texts = [(key, text) for key, text in sample.items() if key != "id"]
        parts.append(
            f"## {markdown_cell(sample['id'])}\n\n"
            + "".join(f"### {markdown_cell(key)}\n\n{markdown_fence(str(text))}\n\n" for key, text in texts)
        )
    return "".join(parts) or "This task writes no samples.\n"


def start_tracking(tracker: Tracker, options: Options) -> None:
    """Open MLflow; raise UserError where its address does not answer at the start."""
    plan = options.plan
    params = {
        **{f"profile_{k}": v for k, v in vars(plan.profile).items()},
        "seed": plan.seed,
        "space_digest": plan.digest,
    }
    params |= {f"space_{key}": domain for key, domain in plan.space.items()} | {"command": command_text(options.argv)}
    tags = {"search": options.name, "question": plan.search.question, "code_version": version("gpt2-search")}
    for pause in (*PAUSES, None):
        try:
            tracker.start(options.name, params, tags)
            return
        except UserError:
            raise
        except Exception as error:  # of MLflow, of its database, of the network: it may only just have been started
            if pause is None:
                where = without_password(tracker.uri)
                raise UserError(
                    f"MLflow at {where} did not answer: {why(error, tracker.uri)}; see --tracking-uri"
                ) from None
            time.sleep(pause)
