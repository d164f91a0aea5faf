"""A search in a time of its own: its strategy, with curves in place of training."""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from searches.deciding.strategy import Strategy
from searches.running.ledger import COMPLETED, RUNNING, Event, Ledger, State, Trial


class MemoryLedger(Ledger):
    """A ledger that nobody needs behind the end of the process."""

    def __init__(self) -> None:
        self.state, self.listeners = State(), []

    def record(self, event: Event) -> None:
        """Take an event in, then tell the listeners."""
        self.state.apply(event)
        for listener in self.listeners:
            listener(event, self.state)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one configuration gives: the metrics after each epoch, and the seconds that each takes."""

    metrics: Sequence[dict[str, float]]
    seconds: Sequence[float]


#: A trial -> its curve.
Curves = Callable[[Trial], Curve]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a replayed search went: after each epoch of any trial, the seconds of compute so far and the best score so far; and
    how long it took."""

    spent: np.ndarray
    best: np.ndarray
    seconds: float = 0.0  # from its start, or from where it went on

    def needed(self, score: float, sign: int) -> float:
        """The compute until the best score was as good as `score`; infinite where it never was."""
        there = np.flatnonzero(sign * self.best >= sign * score)
        return float(self.spent[there[0]]) if len(there) else math.inf


def simulate(strategy: Strategy, curves: Curves, *, workers: int, budget: float = math.inf) -> Course:
    """Run or go on with a search on `workers` until it is done, or has spent `budget` seconds of compute.

    Time is that of the curves; what the search did is in its ledger.
    """
    state, plan = strategy.ledger.state, strategy.plan
    if not state.lag:
        strategy.ledger.record({"event": "lag", "trials": strategy.plan.profile.ahead})
    sign = 1 if plan.direction == "max" else -1
    now, spent, best, course = 0.0, 0.0, -math.inf, []
    unfinished = [trial for trial in state.trials.values() if trial.status == RUNNING]
    queue: list[tuple[float, int, Trial, int]] = []  # when an epoch is done, its number among all, trial, epoch
    numbers = itertools.count()

    def start(trial: Trial, epoch: int) -> None:
        heapq.heappush(queue, (now + curves(trial).seconds[epoch - 1], next(numbers), trial, epoch))

    while True:
        while len(queue) < workers:
            trial = unfinished.pop(0) if unfinished else strategy.next()
            if not isinstance(trial, Trial):
                break
            before = state.trials[trial.parent] if trial.parent else trial
            start(trial, 1 + max({**before.counted, **trial.reports}, default=0))
        if not queue or spent >= budget:
            break
        now, _, trial, epoch = heapq.heappop(queue)
        metrics = curves(trial).metrics[epoch - 1]
        spent, best = spent + curves(trial).seconds[epoch - 1], max(best, sign * metrics[plan.objective])
        course.append((spent, sign * best))
        event = {"event": "report", "trial": trial.name, "epoch": epoch, "metrics": metrics, "statistics": None}
        stopped = strategy.report(trial, event)
        if epoch < trial.epochs and trial not in stopped:
            start(trial, epoch + 1)
        for other in stopped if epoch < trial.epochs else [trial, *(one for one in stopped if one is not trial)]:
            queue = [entry for entry in queue if entry[2] is not other]
            strategy.end(other, COMPLETED, None)
        heapq.heapify(queue)
    columns = np.array(course).reshape(-1, 2)
    return Course(spent=columns[:, 0], best=columns[:, 1], seconds=now)
