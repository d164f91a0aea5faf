"""What a trial is worth: its objective, what it costs, and whether it keeps the limits."""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from searches.running.ledger import COMPLETED, OUT_OF_MEMORY, STOPPED, Event, State, Trial

if TYPE_CHECKING:
    from searches.question import Plan

MEMORY = ("gpu_memory_gb", "predicted_gpu_memory_gb")  # the first that a trial reports


def cost(trial: Trial, name: str, until: float = math.inf) -> float | None:
    """A cost of COSTS by the end of epoch `until`, or a metric at the best epoch so far; None where it was not reported."""
    reports = [report["metrics"] for epoch, report in trial.counted.items() if epoch <= until]
    match name:
        case "seconds":
            parts = [metrics.get(part, 0.0) for metrics in reports for part in ("train_seconds", "eval_seconds")]
            return sum(parts) or None
        case "memory_gb":
            found = [next((m[key] for key in MEMORY if key in m), None) for m in reports]
            return max((value for value in found if value is not None), default=None)
        case "parameters":
            name = "trainable_parameters"
    return next((float(metrics[name]) for metrics in reversed(reports) if name in metrics), None)


def values(trial: Trial, plan: "Plan", until: float = math.inf) -> tuple[float, ...] | None:
    """The objectives by the end of epoch `until`, the task's first, each so that small is good; None where one is missing."""
    score = trial.score(plan.objective, plan.direction, until)
    costs = [cost(trial, name, until) for name in plan.method.minimize]
    if score is None or any(value is None for value in costs):
        return None
    return (-plan.direction.sign * score, *(float(value) for value in costs if value is not None))


def excesses(trial: Trial, plan: "Plan") -> dict[str, float]:
    """How far a trial is beyond each limit; 0 or less is allowed. The first limit is the memory of the machine."""
    found = {"out_of_memory": 1.0 if trial.status == OUT_OF_MEMORY else 0.0}
    for limit in plan.method.limits:
        value = _metric(trial, limit.metric, plan)
        found[str(limit)] = 1e9 if value is None else limit.excess(value)
    return found


def _metric(trial: Trial, name: str, plan: "Plan") -> float | None:
    best = trial.best(plan.objective, plan.direction)
    if best is not None and name in best["metrics"]:
        return float(best["metrics"][name])
    return cost(trial, name)


def feasible(trial: Trial, plan: "Plan") -> bool:
    """Whether a trial keeps all limits."""
    return all(excess <= 0 for excess in excesses(trial, plan).values())


def ranked(trials: Sequence[Trial], plan: "Plan") -> list[Trial]:
    """The trials that ended well, have a score and keep the limits, the best by the task's objective first."""
    entries = [(entry, trial) for trial in trials if (entry := _entry(trial, plan)) is not None]
    return [trial for _, trial in sorted(entries, key=itemgetter(0))]


def _entry(trial: Trial, plan: "Plan") -> tuple[float, str] | None:
    """What a trial is ranked by; None where it is not."""
    if trial.status not in (COMPLETED, STOPPED):
        return None
    score = trial.score(plan.objective, plan.direction)
    if score is None or not feasible(trial, plan):
        return None
    return (-plan.direction.sign * score, trial.name)


class Ranking:
    """What `ranked` says of some trials of a state, kept up to date event by event: it listens to a ledger."""

    def __init__(self, plan: "Plan", state: State, among: Callable[[Trial], bool] = lambda trial: True) -> None:
        self.plan, self.state, self.among = plan, state, among
        self.entries: list[tuple[float, str]] = []  # sorted
        self.of: dict[str, tuple[float, str]] = {}  # the same by trial
        for trial in state.trials.values():
            self._place(trial)

    def __call__(self, event: Event, state: State) -> None:
        """Take an event of the ledger in."""
        if event["event"] in ("report", "stopped", "ended", "reopened"):
            self._place(state.trials[event["trial"]])

    def __iter__(self) -> Iterator[Trial]:
        """The trials, the best first."""
        return (self.state.trials[name] for _, name in self.entries)

    def _place(self, trial: Trial) -> None:
        before = self.of.pop(trial.name, None)
        if before is not None:
            del self.entries[bisect_left(self.entries, before)]
        entry = _entry(trial, self.plan)
        if entry is not None and self.among(trial):
            self.of[trial.name] = entry
            insort(self.entries, entry)
