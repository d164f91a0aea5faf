"""A `Backend` in virtual time: it runs a strategy on recorded learning curves in place of training."""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from searches.deciding.strategy import Strategy
from searches.running.events import event_of
from searches.running.ledger import COMPLETED, Ledger, RawEvent, State, Trial


class MemoryLedger(Ledger):
    """A ledger in memory, without a file."""

    def __init__(self) -> None:
        self.state, self.listeners = State(), []

    def record(self, raw: RawEvent) -> None:
        """Apply an event, then call the listeners."""
        event = event_of(raw)
        self.state.apply(event)
        for listener in self.listeners:
            listener(event, self.state)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The learning curve of one configuration: metrics after each epoch, and seconds of each epoch."""

    metrics: Sequence[dict[str, float]]
    seconds: Sequence[float]


#: A trial -> its curve.
Curves = Callable[[Trial], Curve]


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of a simulated search: after each epoch of any trial, the seconds of compute and the best score so far."""

    spent: np.ndarray
    best: np.ndarray
    seconds: float = 0.0  # wall clock since it started or resumed

    def needed(self, score: float, sign: int) -> float:
        """Return the compute until the best score reached `score`; infinity if it never did."""
        reached = np.flatnonzero(sign * self.best >= sign * score)
        return float(self.spent[reached[0]]) if len(reached) else math.inf


class ReplayBackend:
    """A `Backend` with a number of `workers`, whose epochs take the seconds of their curves. The ledger has the results."""

    def __init__(self, curves: Curves, *, workers: int, budget: float = math.inf) -> None:
        self.curves, self.workers, self.budget = curves, workers, budget
        self.now = self.spent = 0.0  # seconds of wall clock and of compute
        self.queue: list[tuple[float, int, Trial, int]] = []  # epochs by their end: time, serial number, trial, epoch
        self.numbers = itertools.count()
        self.course: list[tuple[float, float]] = []  # after each epoch: compute so far, the epoch's score

    def run(self, strategy: Strategy) -> Course:
        """Run or resume a search until it is done or has spent `budget` seconds of compute."""
        strategy.begin()
        self._fill(strategy)
        while self.queue and self.spent < self.budget:
            self._finish_epoch(strategy)
            self._fill(strategy)
        spent, scores = np.array(self.course).reshape(-1, 2).T
        sign = strategy.plan.direction.sign
        return Course(spent=spent, best=sign * np.fmax.accumulate(sign * scores), seconds=self.now)

    def _fill(self, strategy: Strategy) -> None:
        """Give each free worker a trial, as long as there are any."""
        while len(self.queue) < self.workers and isinstance(trial := strategy.next(), Trial):
            before = strategy.ledger.state.trials[trial.parent] if trial.parent else trial
            self._start(trial, 1 + max({**before.counted, **trial.reports}, default=0))

    def _start(self, trial: Trial, epoch: int) -> None:
        seconds = self.curves(trial).seconds[epoch - 1]
        heapq.heappush(self.queue, (self.now + seconds, next(self.numbers), trial, epoch))

    def _finish_epoch(self, strategy: Strategy) -> None:
        """Report the epoch that ends next, start its trial's next one, and end the trials to stop."""
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
