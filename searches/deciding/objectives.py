"""Objectives, costs and limits of a trial, and the ranking of trials by them."""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from searches.running.events import Ended, Event, Reopened, Report, Stopped
from searches.running.ledger import COMPLETED, OUT_OF_MEMORY, STOPPED, State, Trial

if TYPE_CHECKING:
    from searches.plan import Plan

MEMORY = ("gpu_memory_gb", "predicted_gpu_memory_gb")  # in order of preference


def cost(trial: Trial, name: str, until: float = math.inf) -> float | None:
    """Return a cost of COSTS, or the latest value of a metric, by the end of epoch `until`; None if it was not reported."""
    reports = [report.metrics for epoch, report in trial.counted.items() if epoch <= until]
    match name:
        case "seconds":
            parts = [metrics.get(part, 0.0) for metrics in reports for part in ("train_seconds", "eval_seconds")]
            return sum(parts) or None
        case "memory_gb":
            sizes = [next((metrics[key] for key in MEMORY if key in metrics), None) for metrics in reports]
            return max((size for size in sizes if size is not None), default=None)
        case "parameters":
            name = "trainable_parameters"
    return next((float(metrics[name]) for metrics in reversed(reports) if name in metrics), None)


def values(trial: Trial, plan: "Plan", until: float = math.inf) -> tuple[float, ...] | None:
    """Return the objectives by the end of epoch `until`, the task's first, signed so that smaller is better.

    None if one of them is missing.
    """
    score = trial.score(plan.objective, plan.direction, until)
    costs = [cost(trial, name, until) for name in plan.method.minimize]
    if score is None or any(value is None for value in costs):
        return None
    return (-plan.direction.sign * score, *(float(value) for value in costs if value is not None))


def excesses(trial: Trial, plan: "Plan") -> dict[str, float]:
    """Return how far a trial exceeds each limit (<= 0 is within it). The first limit is the machine's memory."""
    excess = {"out_of_memory": 1.0 if trial.status == OUT_OF_MEMORY else 0.0}
    for limit in plan.method.limits:
        value = _metric(trial, limit.metric, plan)
        excess[str(limit)] = 1e9 if value is None else limit.excess(value)
    return excess


def _metric(trial: Trial, name: str, plan: "Plan") -> float | None:
    best = trial.best(plan.objective, plan.direction)
    if best is not None and name in best.metrics:
        return float(best.metrics[name])
    return cost(trial, name)


def feasible(trial: Trial, plan: "Plan") -> bool:
    """Return whether a trial is within all limits."""
    return all(excess <= 0 for excess in excesses(trial, plan).values())


def ranked(trials: Sequence[Trial], plan: "Plan") -> list[Trial]:
    """Return the trials that ended well, have a score and are within all limits, best task objective first."""
    entries = [(entry, trial) for trial in trials if (entry := _entry(trial, plan)) is not None]
    return [trial for _, trial in sorted(entries, key=itemgetter(0))]


def _entry(trial: Trial, plan: "Plan") -> tuple[float, str] | None:
    """Return a trial's sort key, or None if it is not ranked."""
    if trial.status not in (COMPLETED, STOPPED):
        return None
    score = trial.score(plan.objective, plan.direction)
    if score is None or not feasible(trial, plan):
        return None
    return (-plan.direction.sign * score, trial.name)


class Ranking:
    """The result of `ranked` for the trials of a state that `among` accepts, updated by each event of the ledger."""

    def __init__(self, plan: "Plan", state: State, among: Callable[[Trial], bool] = lambda trial: True) -> None:
        self.plan, self.state, self.among = plan, state, among
        self.entries: list[tuple[float, str]] = []  # sorted
        self.by_trial: dict[str, tuple[float, str]] = {}
        for trial in state.trials.values():
            self._place(trial)

    def __call__(self, event: Event, state: State) -> None:
        """Take in an event of the ledger."""
        if isinstance(event, Report | Stopped | Ended | Reopened):
            self._place(state.trials[event.trial])

    def __iter__(self) -> Iterator[Trial]:
        """Return the trials, best first."""
        return (self.state.trials[name] for _, name in self.entries)

    def _place(self, trial: Trial) -> None:
        before = self.by_trial.pop(trial.name, None)
        if before is not None:
            del self.entries[bisect_left(self.entries, before)]
        entry = _entry(trial, self.plan)
        if entry is not None and self.among(trial):
            self.by_trial[trial.name] = entry
            insort(self.entries, entry)
