"""Log a search to MLflow: experiment = task, parent run = search, child run = trial, grandchild run = replicate.

The ledger records the run of each trial, so a resumed search continues the same runs. An unavailable tracking server never
stops or delays a search: failed requests are queued and sent again (`retry_queue.py`), and the next start of the search sends
from the ledger what is still missing. If the server refuses something for good, the run gets the tag `lacks` with the reason.
Entries carry the time of their event and MLflow drops exact duplicates, so sending twice does no harm.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from gpt2core.cli import command_text
from gpt2core.data.origin import DataOrigin
from gpt2core.errors import UserError, without_password
from searches.formatting import brief_keys, count, trial_title
from searches.options import Options
from searches.plan import Plan
from searches.result_files import SUMMARY
from searches.running.events import Candidates, Data, Ended, Event, Proposed, Reopened, Report, Stopped
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, Ledger, State, Trial
from searches.running.mlflow_view import shared_view
from searches.running.retry_queue import RetryQueue
from searches.running.system_metrics import Sample, SystemMetrics
from searches.showing.markdown import markdown_cell, markdown_code, markdown_fence
from searches.summary import Summary, Verdict
from trainables.runs import parameters
from trainables.tracking import configure_mlflow, database_of, experiment, mlflow_reason, open_client

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # Markdown that MLflow shows as the description of a run
TRAINING = "workflowType=machine_learning"  # the UI's pages for training runs, not for chat traces
CONTEXT = "mlflow.data.context"
DIGEST = 12  # characters of a digest that are shown; MLflow accepts 36 at most
ENDED = ("FINISHED", "FAILED", "KILLED")
RUN_STATUS = {COMPLETED: "FINISHED", STOPPED: "KILLED"}  # of a trial; others are FAILED
BEST = "best/"  # group of the metrics of the best epoch
#: Metric of an epoch's cost -> its group in MLflow.
GROUPS = {
    **dict.fromkeys(("seconds", "train_seconds", "eval_seconds", "tokens_per_second"), "time/"),
    **dict.fromkeys(("memory_gb", "process_memory_gb", "gpu_memory_gb", "predicted_gpu_memory_gb"), "system/"),
}
ENDS = ("_low", "_high")  # of the names of an interval's ends
DIGITS = 3  # decimals of the interval of a metric that no task declares
LACKS = "lacks"  # tag: why the server refused a part of the run
REASONS = 3  # reasons for refusals that the last warning names
LONGEST_PARAM, LONGEST_TAG = 6000, 5000  # characters that MLflow accepts
PAUSES = (0.5, 2.0)  # seconds between attempts to open MLflow
CHECKOUT = Path(__file__).parents[2]  # the folder of the Makefile
GRACE, SHORT_GRACE = 20.0, 2.0  # seconds that the end of a search waits for the queue; the second if it was interrupted


class Tracker:
    """Ledger listener that logs events to MLflow."""

    def __init__(self, plan: Plan, ledger: Ledger, uri: str, warn: Callable[[str], None]) -> None:
        configure_mlflow()
        self.plan, self.ledger, self.uri, self.warn = plan, ledger, uri, warn
        self.queue = RetryQueue(uri, warn, lambda: self.client.get_experiment(self.experiment_id))
        self.experiment_id = self.name = ""
        self.reported_refusals = 0
        self.ready = False  # whether the search has a run
        self.began = 0.0  # start of this run, in seconds since the epoch
        self.system: SystemMetrics | None = None

    @cached_property
    def client(self) -> MlflowClient:
        """The client; the first access creates a missing database."""
        return open_client(self.uri)

    def open(self, options: Options) -> None:
        """Call `start`, again if MLflow does not answer at first; raise UserError if it never does."""
        plan = options.plan
        params = {f"profile_{key}": value for key, value in vars(plan.profile).items()}
        params |= {"seed": plan.seed, "space_digest": plan.digest}
        params |= {f"space_{key}": plan.domain_text(key) for key in plan.space}
        params["command"] = command_text(options.argv)
        tags = {"search": options.name, "question": plan.search.question, "code_version": version("gpt2-search")}
        for pause in (*PAUSES, None):
            try:
                self.start(options.name, params, tags)
                self.system = SystemMetrics(self._log_system)
                return
            except UserError:
                raise
            except Exception as error:  # of MLflow, its database or the network; a new server may need seconds to start
                if pause is None:
                    where = without_password(self.uri)
                    raise UserError(
                        f"MLflow at {where} did not answer: {mlflow_reason(error, self.uri)}; see --tracking-uri"
                    ) from None
                time.sleep(pause)

    def start(self, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Find or create the experiment and the search's run, then send what an earlier start left out.

        Raises UserError if the experiment is deleted, and any error of MLflow, so that a wrong URI is noticed at the start.
        """
        self.name = name
        self.experiment_id = experiment(self.client, self.plan.task)
        state = self.ledger.state
        search_id = {"search_id": state.id or state.runs.get("", "")}
        note = f"**{markdown_cell(self.plan.search.question)}** The answer appears here when the search ends."
        tags = {**tags, **search_id, **self._source(), NOTE: note}
        tags = {key: _cut(value, LONGEST_TAG) for key, value in tags.items()}
        run = self._run("", search_id, lambda: self.client.create_run(self.experiment_id, run_name=name, tags=tags))
        if run.info.status in ENDED:
            self.queue.put(partial(self.client.update_run, self.parent, status="RUNNING"))
        if not run.data.params:
            self.queue.put(partial(self.client.log_batch, self.parent, params=_params(params)))
        self.ready, self.began = True, run.info.start_time / 1000
        lacks = LACKS in run.data.tags
        if lacks:
            self.queue.put(partial(self.client.delete_tag, self.parent, LACKS))
        if state.data and (lacks or "data_digest" not in run.data.params):
            self._send_data(state.data, state.baselines)
        self.queue.put(self._share_view)
        for trial in state.trials.values():
            self.queue.put(partial(self._catch_up, trial), trial.name)

    @property
    def parent(self) -> str:
        """Id of the search's run."""
        return self.ledger.state.runs[""]

    def __call__(self, event: Event, state: State) -> None:
        """Queue what MLflow gets of an event."""
        match event:
            case Data():
                self._send_data(event.data, event.baselines)
            case Candidates():
                self._put_json(event.name, event.made)
                tags = _tags({f"{event.name}_digest": event.made["digest"]})
                self.queue.put(partial(self.client.log_batch, self.parent, tags=tags))
            case Proposed():
                trial = state.trials[event.trial.name]
                self._put_config(trial)
                self._put_if_durable(self._log_params, trial)
            case Report():
                self._put_if_durable(self._log_report, state.trials[event.trial], event)
            case Reopened():
                self._put_if_durable(self._reopen, state.trials[event.trial])
            case Ended() | Stopped():
                trial = state.trials[event.trial]
                if trial.status != RUNNING:  # a running trial is logged when it ends
                    self._end(trial, event.reason, event.time)

    def finish(self, summary: Summary, status: str) -> None:
        """Log the summary to the search's run and end the run; warn about what could not be sent."""
        if self.system is not None:
            self.system.stop()
        self.queue.put(partial(self._log_answer, summary))
        self._put_file(SUMMARY, summary.model_dump_json(indent=2))
        self.queue.put(partial(self._end_search, status))
        self._wait(GRACE if status == "FINISHED" else SHORT_GRACE)

    def attach(self, files: Mapping[str, str], summary: Summary, page: Path) -> None:
        """Add text files to the search's run, and set its description to the answer with a link to the report."""
        if not self.queue.stopped:
            for name, text in files.items():
                self._put_file(name, text)
            self.queue.put(partial(self._describe, summary, page))
            self._wait(GRACE)

    def page(self) -> list[str]:
        """Return as lines where the MLflow UI shows the search's trials, best first, and what starts a local UI."""
        start = self._starts_ui()
        return [f"MLflow: {self._server()}{self._link()}", *([f"Its server is started by: {start}"] if start else [])]

    def while_running(self) -> str:
        """Return in a line where the MLflow UI shows the experiment of the search."""
        start = self._starts_ui()
        note = f" (its server is started by: {start})" if start else ""
        return f"MLflow: {self._server()}/#/experiments/{self.experiment_id}/runs?{TRAINING}{note}"

    def _starts_ui(self) -> str:
        """Return the command that starts a UI of this store; empty for a server."""
        if self.uri.startswith("http"):
            return ""
        ours = Path.cwd() == CHECKOUT and database_of(self.uri) == CHECKOUT / "runs" / "mlflow.db"
        return "make ui" if ours else f"mlflow ui --backend-store-uri {shlex.quote(without_password(self.uri))}"

    def _server(self) -> str:
        return without_password(self.uri).rstrip("/") if self.uri.startswith("http") else "http://127.0.0.1:5000"

    def _put_if_durable(self, send: Callable[..., None], trial: Trial, *arguments: Any) -> None:
        # If this machine is lost, a trial reports again what was only here, and MLflow would have it twice.
        may_go = partial(self.ledger.is_durable, self.ledger.size)
        self.queue.put(partial(send, trial, *arguments), trial.name, may_go=may_go)

    def _put_file(self, name: str, text: str, trial: Trial | None = None) -> None:
        """Queue a text file for the run of a trial, or of the search."""

        def send() -> None:
            self.client.log_text(self.parent if trial is None else self._run_id(trial), text, name)

        self.queue.put(send, trial.name if trial else "", is_file=True)

    def _put_config(self, trial: Trial) -> None:
        self._put_file("config.yaml", yaml.safe_dump(trial.run, sort_keys=False, allow_unicode=True), trial)

    def _put_json(self, name: str, values: Any, trial: Trial | None = None) -> None:
        self._put_file(f"{name}.json", json.dumps(values, indent=2), trial)

    def _send_data(self, data: Mapping[str, str], baselines: Mapping[str, Any]) -> None:
        self.queue.put(partial(self._log_data, self.parent))
        self._put_json("baselines", baselines)
        params = _params({f"data_{key}": value for key, value in data.items()})
        self.queue.put(partial(self.client.log_batch, self.parent, params=params))

    def _describe(self, summary: Summary, page: Path) -> None:
        report = f"#/experiments/{self.experiment_id}/runs/{self.parent}/artifacts/{page.name}?{TRAINING}"
        note = (
            f"[Report]({report}), also at {markdown_code(page)}. [Trials, best first]({self._link().removeprefix('/')})\n\n"
            f"**{markdown_cell(summary.question)}** {markdown_cell(summary.answer.text)}"
            + "".join(f"\n\n{markdown_cell(line)}" for line in summary.answer.evidence)
        )
        self.client.log_batch(self.parent, tags=_tags({"report": str(page), NOTE: note}))

    def _wait(self, seconds: float) -> None:
        """Wait for the queue; warn about unsent requests and new refusals."""
        unsent, refused = self.queue.finish(seconds), self.queue.refused
        where = f"MLflow at {without_password(self.uri)}"
        if unsent:
            self.warn(f"{where} did not store {unsent} entries within {seconds:g} s; the same command delivers them")
        if len(refused) > self.reported_refusals:
            reasons = list(dict.fromkeys(reason for _, reason in refused))
            more = f"; and {len(reasons) - REASONS} more reasons" if len(reasons) > REASONS else ""
            entries = count(len(refused), "request")
            self.warn(
                f"{where} refused {entries} ({'; '.join(reasons[:REASONS])}{more}). The search's folder holds all results; "
                "once MLflow accepts them, the same command delivers them"
            )
            self.reported_refusals = len(refused)

    def _log_system(self, values: Sample) -> None:
        """Queue a sample of the machine; its step is in seconds, so a resumed search continues the curves."""
        now = time.time()
        metrics = [Metric(name, value, _ms(now), int(now - self.began)) for name, value in values.items()]
        self.queue.put(partial(self.client.log_batch, self.parent, metrics=metrics))

    def _log_answer(self, summary: Summary) -> None:
        now, answer = int(time.time() * 1000), summary.answer
        best = summary.best.metrics if summary.best else {}
        numbers = best_metrics(best, self.plan.objective) | answer_numbers(answer)
        metrics = [Metric(key, value, now, 0) for key, value in numbers.items()]
        tags = _tags(
            {"answer": answer.text, "outcome": answer.outcome, "winner": answer.winner} | self._intervals(best)
        )
        self.client.log_batch(self.parent, metrics=metrics, tags=tags)

    def _end_search(self, status: str) -> None:
        lack = self.queue.lacks("")
        if lack:
            self.client.log_batch(self.parent, tags=_tags({LACKS: lack}))
        self.client.set_terminated(self.parent, status)

    def _link(self) -> str:
        return (
            f"/#/experiments/{self.experiment_id}/runs?{TRAINING}&viewStateShareKey={self.parent}&compareRunsMode=CHART"
        )

    def _share_view(self) -> None:
        """Store the view that `_link` opens, as MLflow's share button does; its default view shows no scores."""
        runs = f"tags.`{PARENT}` = '{self.parent}'"
        view = shared_view(self.plan, runs, f"{BEST}{self.plan.objective}")
        self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{self.parent}", json.dumps(view))

    def _run(self, name: str, tags: Mapping[str, str], create: Callable[[], Run]) -> Run:
        """Return the run of a trial (of the search for ""): the recorded run, else a run with these tags, else a new run.

        A run may exist without being recorded, because the process was killed or the server's answer was lost. A recorded run
        may be missing, because it was deleted or the URI has changed.
        """
        run_id = self.ledger.state.runs.get(name)
        run = None if run_id is None else self._get(run_id)
        if run is None:
            query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
            same = self.client.search_runs([self.experiment_id], query, max_results=1) if all(tags.values()) else []
            run = same[0] if same else create()
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
        title = trial_title(trial.name, trial.point, brief_keys(self.plan.space, self.plan.search.scientific))
        return self._run(trial.name, key, lambda: self.client.create_run(self.experiment_id, run_name=title, tags=tags))

    def _source(self) -> dict[str, str]:
        return {"mlflow.source.name": self.plan.search.source, "mlflow.source.type": "LOCAL"}

    def _run_id(self, trial: Trial) -> str:
        """Return the id of the trial's run, which is created if missing."""
        run_id = self.ledger.state.runs.get(trial.name)
        return run_id if run_id is not None else str(self._run_of_trial(trial).info.run_id)

    def _catch_up(self, trial: Trial) -> None:
        """Send what MLflow lacks of a trial."""
        with self.ledger.lock:
            reports, status = dict(trial.reports), trial.status
        run = self._run_of_trial(trial)
        lacks = LACKS in run.data.tags
        if run.info.status in ENDED and status != RUNNING and not lacks:
            return
        if lacks:
            self.client.delete_tag(run.info.run_id, LACKS)
        if lacks or not run.data.params:
            self._put_config(trial)
            self.queue.put(partial(self._log_params, trial), trial.name)
        if run.info.status in ENDED:
            self._reopen(trial)
        history = [] if lacks else self.client.get_metric_history(run.info.run_id, self.plan.objective)
        for epoch in sorted(reports.keys() - {metric.step for metric in history}):
            self._log_report(trial, reports[epoch])
        with self.ledger.lock:  # if the trial was reopened meanwhile, that event is queued behind this
            if trial.status != RUNNING:
                self._end(trial, trial.reason)

    def _log_params(self, trial: Trial) -> None:
        """Log the searched keys of a trial, then the fixed ones and its seed; `config.yaml` has all others."""
        self._log_data(self._run_id(trial))
        values = {"task": self.plan.task, **parameters(trial.run)}
        shown = [*(key for key in self.plan.space if key in trial.point), *self.plan.fixed_read, "seed"]
        params = _params({key: values[key] for key in shown if key in values})
        self.client.log_batch(self._run_id(trial), params=params)

    def _log_data(self, run_id: str) -> None:
        """Add the data to the datasets of a run, by which MLflow's table can be filtered."""
        state = self.ledger.state
        if "digest" in state.data:
            kind, source = dataset_source(state.origin or DataOrigin(source=state.data["data"]))
            digest = state.data["digest"][:DIGEST]
            dataset = Dataset(self.plan.task, digest, source_type=kind, source=json.dumps(source))
            self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag(CONTEXT, "training")])])

    def _log_report(self, trial: Trial, report: Report) -> None:
        metrics = [
            Metric(key, value, _ms(report.time), epoch)
            for epoch, scores in by_step(report).items()
            for key, value in in_groups(scores, self.plan.objective).items()
        ]
        tags = _tags({f"data_{key}": value for key, value in report.data.items()})
        self.client.log_batch(self._run_id(trial), metrics=metrics, tags=tags)

    def _end(self, trial: Trial, reason: str | None, ended: float | None = None) -> None:
        """Queue the files of an ended trial, then its end."""
        best = trial.best(self.plan.objective, self.plan.direction)
        if best:
            self._put_file("samples.md", samples_text(best.samples), trial)
            for name, rows in best.tables.items():
                self._put_json(name, {"rows are gold, columns predicted": rows}, trial)
        self.queue.put(partial(self._log_end, trial, trial.status, reason, ended), trial.name)

    def _log_end(self, trial: Trial, status: str, reason: str | None, ended: float | None) -> None:
        run, objective = self._run_id(trial), self.plan.objective
        best = trial.best(objective, self.plan.direction)
        tags = {
            "status": status,
            "reason": reason,
            "stopped_at": trial.stopped_at,  # later epochs do not count
            "best_epoch": best.epoch if best else None,
            LACKS: self.queue.lacks(trial.name),
        }
        metrics = []
        if best:
            # MLflow sorts by the last value of a metric, but a trial is ranked by its best epoch.
            last = trial.reports[max(trial.reports)]
            when = max(_ms(ended), _ms(last.time))
            metrics = [
                Metric(key, value, when, last.epoch) for key, value in best_metrics(best.metrics, objective).items()
            ]
            tags |= self._intervals(best.metrics)
        self.client.log_batch(run, metrics=metrics, tags=_tags(tags))
        self.client.set_terminated(run, RUN_STATUS.get(status, "FAILED"))

    def _intervals(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return the intervals of the best epoch's metrics as tags."""
        known = self.plan.metrics
        return {
            f"{BEST}{name} interval": f"{low:.{digits}f} to {high:.{digits}f}"
            for name, (low, high) in intervals(metrics).items()
            for digits in [known[name].digits if name in known else DIGITS]
        }

    def _reopen(self, trial: Trial) -> None:
        run = self._run_id(trial)
        self.client.update_run(run, status="RUNNING")
        self.client.set_tag(run, "reason", "")


def by_step(report: Report) -> dict[int, dict[str, float]]:
    """Return the metrics that a report adds to a run, by epoch: for an earlier best one, those that its own report lacked."""
    best = report.best
    if best is None:
        return {report.epoch: report.metrics}
    if best.epoch == report.epoch:
        return {report.epoch: report.metrics | best.metrics}
    return {
        report.epoch: report.metrics,
        best.epoch: {name: value for name, value in best.metrics.items() if name not in report.metrics},
    }


def dataset_source(origin: DataOrigin) -> tuple[str, dict[str, Any]]:
    """Return the type of MLflow's source of a data set, and its values."""
    if origin.hub:
        unknown = dict.fromkeys(("config_name", "data_dir", "data_files", "split", "revision"))
        return "hugging_face", {"path": origin.hub, **unknown}
    if origin.page:
        return "http", {"url": origin.page}
    return "local", {"uri": origin.place or origin.source}


def in_groups(metrics: Mapping[str, float], objective: str) -> dict[str, float]:
    """Return metrics by their names in MLflow, which groups times and memory; without the ends of intervals."""
    ends = {f"{name}{end}" for name in intervals(metrics) for end in ENDS}
    groups = {**GROUPS, objective: ""}
    return {f"{groups.get(name, '')}{name}": value for name, value in metrics.items() if name not in ends}


def best_metrics(metrics: Mapping[str, float], objective: str) -> dict[str, float]:
    """Return the metrics of the best epoch by their names in MLflow; without intervals, times and memory."""
    return {f"{BEST}{name}": value for name, value in in_groups(metrics, objective).items() if name in metrics}


def intervals(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the ends of the interval of each metric that has one."""
    low, high = ENDS
    return {
        name: (metrics[f"{name}{low}"], metrics[f"{name}{high}"])
        for name in metrics
        if f"{name}{low}" in metrics and f"{name}{high}" in metrics
    }


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(key, _cut(str(value), LONGEST_PARAM)) for key, value in values.items()]


def _tags(values: Mapping[str, Any]) -> list[RunTag]:
    """Return tags for the values that are not empty."""
    return [RunTag(key, _cut(str(value), LONGEST_TAG)) for key, value in values.items() if value not in (None, "")]


def _cut(text: str, limit: int) -> str:
    """Shorten a text to MLflow's limit; its end says how long it was."""
    if len(text) <= limit:
        return text
    end = f" ... ({len(text)} characters)"
    return text[: limit - len(end)] + end


def answer_numbers(answer: Verdict) -> dict[str, float]:
    """Return the known numbers of an answer as metrics, so that searches can be filtered by them."""
    differences = [abs(pair.difference) for pair in answer.pairs if pair.difference is not None]
    metrics = {
        "answer/p_value": answer.test.p_value,
        "answer/excluded": answer.excluded,
        "answer/largest_difference": max(differences, default=None),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _ms(seconds: float | None) -> int:
    """Return the time of an event in milliseconds: the same each time that it is sent."""
    return int((seconds or 0.0) * 1000)


def samples_text(samples: list[dict[str, Any]]) -> str:
    """Return samples as Markdown, with a section for each sample and a subsection for each of its texts."""
    parts = []
    for sample in samples:
        texts = [(key, text) for key, text in sample.items() if key != "id"]
        parts.append(
            f"## {markdown_cell(sample['id'])}\n\n"
            + "".join(f"### {markdown_cell(key)}\n\n{markdown_fence(str(text))}\n\n" for key, text in texts)
        )
    return "".join(parts) or "This task writes no samples.\n"
