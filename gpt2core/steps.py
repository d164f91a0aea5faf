"""The steps that a run asks for, and whoever takes them: how `gpt2core.training` and `gpt2core.packing` talk to each other."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from gpt2core.training import Run


@dataclass(frozen=True)
class Step:
    """An optimizer step that a run waits for: its number from 0 on, the examples of its batch (B,), and how many tokens
    these have."""

    run: "Run"
    number: int
    batch: np.ndarray
    tokens: int

    def alone(self) -> "Done | Exception":
        """Take it; return what came of it, which may be an error."""
        started = time.perf_counter()
        try:
            loss = self.run.step(self.number, self.batch)
        except Exception as error:
            return error
        return Done(loss, time.perf_counter() - started)


class Done(NamedTuple):
    """A step that was taken: the sum of its losses in nats, and the seconds that it cost."""

    loss: float
    seconds: float


R = TypeVar("R")

#: What came of a step.
Answer = Done | Exception | None

#: Steps that are to be answered, and between them a report of each epoch.
Events = Generator[Step | R, Answer, None]


def answered(events: Events[R], answer: Answer) -> Step | R | None:
    """Tell a run what came of its step, None where it is at a report or begins; return what comes next, None at the end.

    A run raises the error that its step ended with, where it says no better.
    """
    try:
        return events.send(answer)
    except StopIteration:
        return None


def alone(events: Events[R]) -> Iterator[R]:
    """Take a run's steps one after the other; yield its reports."""
    event = answered(events, None)
    while event is not None:
        answer: Answer = None
        if isinstance(event, Step):
            answer = event.alone()
        else:
            yield event
        event = answered(events, answer)
