"""A search in a time of its own: its strategy, with learning curves in place of training."""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from searches.deciding.strategy import Strategy
from searches.running.ledger import COMPLETED, Event, Ledger, State, Trial


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
    """How a simulated search went: after each epoch of any trial, the seconds of compute so far and the best score so far; and
    how long it took."""

    spent: np.ndarray
    best: np.ndarray
    seconds: float = 0.0  # from its start, or from where it went on

    def needed(self, score: float, sign: int) -> float:
        """The compute until the best score was as good as `score`; infinite where it never was."""
        there = np.flatnonzero(sign * self.best >= sign * score)
        return float(self.spent[there[0]]) if len(there) else math.inf


class ReplayBackend:
    """A `Backend` of `workers` whose epochs take the time of their curves. What the search did is in its ledger."""

    def __init__(self, curves: Curves, *, workers: int, budget: float = math.inf) -> None:
        self.curves, self.workers, self.budget = curves, workers, budget
        self.now = self.spent = 0.0  # seconds since the start, and of compute
        # When an epoch is done, its number among all, trial, epoch.
        self.queue: list[tuple[float, int, Trial, int]] = []
        self.numbers = itertools.count()
        self.course: list[tuple[float, float]] = []  # after each epoch: the compute, and its score

    def run(self, strategy: Strategy) -> Course:
        """Run or go on with a search until it is done, or has spent `budget` seconds of compute."""
        strategy.begin()
        self._fill(strategy)
        while self.queue and self.spent < self.budget:
            self._finish_epoch(strategy)
            self._fill(strategy)
        spent, scores = np.array(self.course).reshape(-1, 2).T
        sign = strategy.plan.direction.sign
        best = sign * np.fmax.accumulate(sign * scores)
        return Course(spent=spent, best=best, seconds=self.now)

    def _fill(self, strategy: Strategy) -> None:
        """Give each free worker a trial, as far as there are any."""
        while len(self.queue) < self.workers and isinstance(trial := strategy.next(), Trial):
            before = strategy.ledger.state.trials[trial.parent] if trial.parent else trial
            self._start(trial, 1 + max({**before.counted, **trial.reports}, default=0))

    def _start(self, trial: Trial, epoch: int) -> None:
        seconds = self.curves(trial).seconds[epoch - 1]
        heapq.heappush(self.queue, (self.now + seconds, next(self.numbers), trial, epoch))

    def _finish_epoch(self, strategy: Strategy) -> None:
        """Report the epoch that is done first; start the next one of its trial, and end what is to stop."""
        self.now, _, trial, epoch = heapq.heappop(self.queue)
        metrics = self.curves(trial).metrics[epoch - 1]
        self.spent += self.curves(trial).seconds[epoch - 1]
        self.course.append((self.spent, metrics[strategy.plan.objective]))
        event = {"event": "report", "trial": trial.name, "epoch": epoch, "metrics": metrics, "statistics": None}
        ended = strategy.report(trial, event)
        if epoch >= trial.epochs:
            ended = [trial, *(other for other in ended if other is not trial)]
        elif trial not in ended:
            self._start(trial, epoch + 1)
        for other in ended:
            self.queue = [entry for entry in self.queue if entry[2] is not other]
            strategy.end(other, COMPLETED, None)
        heapq.heapify(self.queue)
