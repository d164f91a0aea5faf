"""Optimizer steps as requests: a run yields a `Step`, and whoever drives it sends back the outcome.

So `gpt2core.training` need not know whether a step is taken alone or, by `gpt2core.packing`, together with those of other runs.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from gpt2core.run import Run

R = TypeVar("R")


class StepResult(NamedTuple):
    """The sum of the losses of a step's batch in nats, and the seconds that the step took."""

    loss: float
    seconds: float


#: A result, or the error that a step ended with; None at a report, or where a run starts.
Outcome = StepResult | Exception | None


@dataclass(frozen=True)
class Step:
    """An optimizer step that a run waits for: its number from 0, its batch (B,) and the number of tokens in it."""

    run: Run
    number: int
    batch: np.ndarray
    tokens: int

    def take(self) -> StepResult | Exception:
        """Take the step on its own; return its result, or the error that it raised."""
        started = time.perf_counter()
        try:
            loss = self.run.step(self.number, self.batch)
        except Exception as error:
            return error
        return StepResult(loss, time.perf_counter() - started)


#: A run: it yields the steps that it waits for, and in between a report of each epoch.
Events = Generator[Step | R, Outcome, None]


def advance(events: Events[R], outcome: Outcome) -> Step | R | None:
    """Send a run the outcome of its last event; return its next event, None at the end.

    A run raises the error that its step ended with, unless it has a better one.
    """
    try:
        return events.send(outcome)
    except StopIteration:
        return None


def take_steps(events: Events[R]) -> Iterator[R]:
    """Take a run's steps one after another; yield its reports."""
    event = advance(events, None)
    while event is not None:
        outcome: Outcome = None
        if isinstance(event, Step):
            outcome = event.take()
        else:
            yield event
        event = advance(events, outcome)
