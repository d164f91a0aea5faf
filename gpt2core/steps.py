"""Optimizer steps as requests: a run yields a `Step`, and its driver sends back the outcome.

`take_steps` drives one run. `gpt2core.packing` takes the steps of several runs together.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from torch.profiler import profile, schedule

from gpt2core.files import atomic_path
from gpt2core.run import Run

SKIPPED, TRACED = 2, 3  # steps of a trace; the first ones are slower

R = TypeVar("R")


class StepResult(NamedTuple):
    """The sum of the losses of a step's batch, in nats, and the duration of the step."""

    loss: float
    seconds: float


#: The result of a step, or the error that it raised; None after a report, and at the start of a run.
Outcome = StepResult | Exception | None


@dataclass(frozen=True)
class Step:
    """A requested optimizer step: its number from 0, its batch (B,) and the number of tokens in the batch."""

    run: Run
    number: int
    batch: np.ndarray
    tokens: int

    def take(self) -> StepResult | Exception:
        """Take the step; return its result, or the error that it raised."""
        started = time.perf_counter()
        try:
            loss = self.run.step(self.number, self.batch)
        except Exception as error:
            return error
        return StepResult(loss, time.perf_counter() - started)


#: A run: it yields the steps that it requests, and a report after each epoch.
Events = Generator[Step | R, Outcome, None]


def advance(events: Events[R], outcome: Outcome) -> Step | R | None:
    """Send a run the outcome of its last event; return its next event, or None at the end. Raises a failed step's error."""
    try:
        return events.send(outcome)
    except StopIteration:
        return None


def take_steps(events: Events[R], stopped: Callable[[], bool] = lambda: False) -> Iterator[R]:
    """Take the steps of a run one by one; yield its reports. End before a step if the run is `stopped`."""
    event = advance(events, None)
    while event is not None:
        outcome: Outcome = None
        if isinstance(event, Step):
            if stopped():
                return
            outcome = event.take()
        else:
            yield event
        event = advance(events, outcome)


def traced(events: Events[R], path: Path) -> Events[R]:
    """Yield the events of a run, and trace some steps for https://ui.perfetto.dev; one run at a time per process."""

    def write(profiler: profile) -> None:
        with atomic_path(path) as part:
            compressed = part.with_name(f"{part.name}.gz")  # the profiler compresses files with this suffix
            profiler.export_chrome_trace(str(compressed))
            compressed.replace(part)

    order = schedule(wait=SKIPPED - 1, warmup=1, active=TRACED, repeat=1)
    with profile(schedule=order, on_trace_ready=write, record_shapes=True) as tracer:
        event, remaining = advance(events, None), SKIPPED + TRACED
        while event is not None and remaining:
            outcome = yield event
            if isinstance(event, Step):
                tracer.step()
                remaining -= 1
            event = advance(events, outcome)
    while event is not None:
        event = advance(events, (yield event))
