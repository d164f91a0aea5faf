"""Ray Tune as the backend of a search: it runs the trials that the strategy proposes, and ends those that it stops.

Ray's own OptunaSearch reports the last value instead of the best, takes stopped trials for complete ones and proposes duplicates
(ray#35319), and a restored Tuner forgets the rungs of its scheduler (ray#30838). Searcher and scheduler here only pass on.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from gpt2core.metrics.metric import OWN_SETTING
from gpt2core.storage import address, is_address
from searches.deciding.strategy import WAIT, Strategy
from searches.options import Options
from searches.result_files import TRIALS, TUNE
from searches.running import failures
from searches.running.budget import BUDGET
from searches.running.budget_stop import BudgetStopper
from searches.running.failures import NotesFailures, translate_errors
from searches.running.gpu_sharing import GpuSharing
from searches.running.ledger import COMPLETED, FAILED, OUT_OF_MEMORY, RUNNING, LedgerError, RawEvent, Trial
from trainables.executors import Executor, function_trial
from trainables.failures import NO_ROOM
from trainables.groups import Groups
from trainables.nodes import can_grow
from trainables.packs import Packs
from trainables.programs.runner import Runner
from trainables.runs import run_of
from trainables.trial import RESTARTS, TrialSpec


@dataclass(frozen=True)
class RayTune:
    """A `Backend` that runs trials as Tune trials of `executor`.

    Tune owns the loop: it asks a searcher for trials and gives reports to a scheduler. Both ask the strategy.
    """

    options: Options
    spec: TrialSpec
    executor: Executor
    budget: BudgetStopper
    callbacks: Callable[["StrategyScheduler"], list[tune.Callback]]

    def run(self, strategy: Strategy) -> None:
        """Run trials until the strategy is done or the budget is spent. Raises UserError, KeyboardInterrupt."""
        spec, ledger = self.spec, strategy.ledger
        folder = ledger.path.parent
        shutil.rmtree(folder / TUNE, ignore_errors=True)
        actors = _actors(spec, self.options.name)
        sharing = GpuSharing(spec, ledger) if spec.grouped and 0 < spec.gpus_per_worker < 1 else None
        searcher = StrategySearcher(strategy, spec, address(folder / TRIALS), self.budget, actors, sharing)
        try:
            with translate_errors(ledger):
                self._tuner(searcher, address(folder)).fit()
        finally:
            if actors is not None:
                actors.close()

    def _tuner(self, searcher: "StrategySearcher", storage: str) -> tune.Tuner:
        for name in ("ray.tune.execution.experiment_state", "ray.tune.tune"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # about a snapshot that we never read
        function, resources = self.executor
        scheduler = StrategyScheduler(searcher)
        return tune.Tuner(
            tune.with_resources(function, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=self._concurrent(searcher.strategy.ledger.state.lag),
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=TUNE,
                storage_path=storage,
                verbose=0,
                stop=self.budget,
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=self.callbacks(scheduler),
            ),
        )

    def _concurrent(self, lag: int) -> int:
        """Return how many trials Tune may hold: on an autoscaling cluster as many as may be proposed, so that machines come."""
        # A group waits for its resources inside a running trial, so those of actors are limited to what fits.
        unlimited = can_grow() and not self.options.max_concurrent and self.executor[0] is function_trial
        return lag if unlimited else self.spec.concurrent


def _actors(spec: TrialSpec, name: str) -> Packs | Groups | None:
    """Return the actors that train the trials, if their own processes do not."""
    if spec.grouped:
        return Groups(name)
    if spec.is_program:
        return Packs(spec, name, Runner)
    return Packs(spec, name) if spec.pack > 1 else None


def _trial_name(trial: Any) -> str:
    return str(trial.config["spec"]["name"])


class StrategySearcher(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Gives Tune the trials of a strategy."""

    def __init__(
        self,
        strategy: Strategy,
        spec: TrialSpec,
        trials_folder: str,
        budget: BudgetStopper,
        actors: Packs | Groups | None = None,
        sharing: GpuSharing | None = None,
    ) -> None:
        super().__init__(metric="objective", mode=strategy.plan.direction.value)
        self.actors, self.sharing = actors, sharing
        self.strategy, self.spec, self.trials_folder, self.budget = strategy, spec, trials_folder, budget
        self.trials = strategy.ledger.state.trials
        self.names: dict[str, str] = {}  # Tune's trial id -> name of the trial
        self.paused = False
        self.before_suggestion: Callable[[], None] = lambda: None  # all that Tune calls while no trial runs
        self.deaths: Counter[str] = Counter()

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial, None to wait, or FINISHED."""
        self.before_suggestion()
        if self.budget.stop_all():
            return Searcher.FINISHED
        if self.paused or (self.sharing is not None and not self.sharing.has_room()):
            return None
        trial = self.strategy.next()
        if not isinstance(trial, Trial):
            return None if trial == WAIT else Searcher.FINISHED
        self.names[trial_id] = trial.name
        spec = replace(
            self.spec,
            name=trial.name,
            run=run_of(trial.run),
            folder=f"{self.trials_folder}/{trial.name}",
            parent=f"{self.trials_folder}/{trial.parent}" if trial.parent else None,
            until=trial.until,
        )
        if self.sharing is not None:
            spec = self.sharing.place(spec)
        if self.actors is not None:
            spec = self.actors.place(spec)
        return {"spec": spec.to_dict(), "replicate": trial.of is not None}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler gets the report first."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended, or hand it out again later."""
        trial = self.trials[self.names.pop(trial_id)]
        if self.actors is not None:
            self.actors.leave(trial.name)
        kind = failures.outcome(trial_id)[0] if error else (result or {}).get("failure/kind")
        wants_more = self.sharing is not None and self.sharing.leave(trial.name, ran_out=kind == OUT_OF_MEMORY)
        if trial.status != RUNNING or self.strategy.ledger.failure is not None:
            return
        is_cut_short = trial.stopped_at is None and max(trial.reports, default=0) < trial.epochs
        paused = self.paused and is_cut_short and kind is None and trial_id not in self.budget.stopped
        if paused or wants_more or (error and failures.may_restart(trial_id) and self._restart(trial)):
            self.strategy.unfinished.append(trial)
            return
        if kind == NO_ROOM and not is_address(self.trials_folder):  # the trial continues when there is room
            self.strategy.ledger.fail(result["failure/reason"] if result else "")
            return
        with suppress(LedgerError):  # the budget's stopper then ends all trials; Tune would retry this one
            if result and "epoch" in result and not error and kind is None:
                self.strategy.report(trial, report_event(trial, result))
            status, reason = failures.outcome(trial_id) if error else outcome(trial, result)
            self.strategy.end(trial, status, BUDGET if trial_id in self.budget.stopped else reason)

    def _restart(self, trial: Trial) -> bool:
        """Count a death of the trial's process; return whether the trial may be handed out again."""
        self.deaths[trial.name] += 1
        return self.deaths[trial.name] <= RESTARTS

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger holds the state."""


class StrategyScheduler(NotesFailures, FIFOScheduler):  # type: ignore[misc]
    """Gives reports to the strategy and ends the trials that it stops."""

    def __init__(self, searcher: StrategySearcher) -> None:
        super().__init__()
        self.searcher = searcher
        self.controller: Any = None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Keep the controller, which can end trials."""
        self.controller = tune_controller

    def end(self, names: Collection[str]) -> None:
        """End running trials at once if actors run them; others end at their next report.

        Tune never looks into its own queue of such requests (`request_stop_trial`).
        """
        if not names or self.controller is None or self.searcher.actors is None:
            return
        for trial in list(self.controller.get_live_trials()):
            if self.searcher.names.get(trial.trial_id) in names:
                self.controller.stop_trial(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the report of an epoch, which may stop this trial and others that waited for it."""
        reporter = self.searcher.trials[self.searcher.names[trial.trial_id]]
        if "failure/kind" in result:
            return str(TrialScheduler.CONTINUE)
        if self.searcher.sharing is not None:
            self.searcher.sharing.check_memory(reporter.name, result.get("metrics/gpu_memory_gb", 0.0))
        try:
            stopped = {trial.name for trial in self.searcher.strategy.report(reporter, report_event(reporter, result))}
        except LedgerError:
            return str(TrialScheduler.STOP)
        self.end(stopped - {reporter.name})
        ends = self.searcher.paused or reporter.stopped_at is not None
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)


def outcome(trial: Trial, result: dict[str, Any] | None) -> tuple[str, str | None]:
    """Return status and reason of a trial from its last report."""
    if result and "failure/kind" in result:
        kind = result["failure/kind"]
        return FAILED if kind == NO_ROOM else kind, result["failure/reason"]
    return (COMPLETED, None) if trial.reports or trial.stopped_at is not None else failures.UNKNOWN


def report_event(trial: Trial, result: dict[str, Any]) -> RawEvent:
    """Return the ledger's event for a result of Tune."""

    def part(name: str) -> dict[str, Any]:
        """Return a nested mapping, which Tune has flattened."""
        return {key.removeprefix(f"{name}/"): value for key, value in result.items() if key.startswith(f"{name}/")}

    best = json.loads(result.get("best") or "null")
    return {
        "event": "report",
        "trial": trial.name,
        **_scores(trial, {**result, "metrics": part("metrics"), "tables": part("tables")}),
        **({"best": _scores(trial, best)} if best is not None else {}),
        "data": part("data"),
        "seconds": part("seconds"),
        "began": result.get("began"),
    }


def _of_two_decodings(statistics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the counts that score texts both at the best decoding setting and at the run's own; None if there are none."""
    own = [name for name in statistics if name.endswith(OWN_SETTING)]
    return {key: statistics[key] for name in own for key in (name.removesuffix(OWN_SETTING), name)} or None


def _scores(trial: Trial, scored: Mapping[str, Any]) -> RawEvent:
    """Return the scores of an epoch for the ledger."""
    statistics = json.loads(scored.get("statistics") or "null")
    if trial.of is None:  # only replicates are compared; counts of all trials would swell the ledger
        statistics = _of_two_decodings(statistics or {})
    judged = json.loads(scored.get("judged") or "null")
    if judged is not None:  # the comparison is on held-out texts
        statistics = judged["statistics"]
    return {
        "epoch": scored["epoch"],
        "metrics": scored["metrics"],
        "statistics": statistics,
        **({"judged": judged["metrics"]} if judged is not None else {}),
        "samples": scored.get("samples", []),
        "tables": scored["tables"],
    }
