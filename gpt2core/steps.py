"""Optimizer steps as requests: a run yields a `Step`, and its driver sends back the outcome.

`take_steps` drives one run. `gpt2core.packing` takes the steps of several runs together.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import profile, schedule

from gpt2core.files import atomic_path
from gpt2core.run import Run

SKIPPED, TRACED = 2, 3  # steps of a trace; the first ones are slower

R = TypeVar("R")


class Clock:
    """Times the work that a device is given until `stop`, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.events: Sequence[torch.cuda.Event] = ()
        if device.type == "cuda":
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()
        self.started = self.stopped = time.perf_counter()

    def stop(self) -> None:
        """End the work that is timed."""
        self.stopped = time.perf_counter()
        if self.events:
            self.events[1].record()

    def seconds(self) -> float:
        """Wait until the work is done; return how long it took."""
        if not self.events:
            return self.stopped - self.started
        begin, end = self.events
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000


@dataclass(frozen=True)
class StepResult:
    """The result of a step, which a GPU may still be computing: reading it waits. It is a `share` of the work that was timed."""

    total: Tensor  # on the host, once the clock's work is done
    clock: Clock
    share: float = 1.0

    @property
    def loss(self) -> float:
        """The sum of the losses of the step's batch, in nats."""
        self.clock.seconds()
        return float(self.total)

    @property
    def seconds(self) -> float:
        """The duration of the step."""
        return self.share * self.clock.seconds()


def on_host(total: Tensor) -> Tensor:
    """Return a copy of a loss on the host, which a GPU fills once it has computed the loss."""
    return total.to("cpu", non_blocking=total.device.type == "cuda")


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
        clock = Clock(self.run.device)
        try:
            total = on_host(self.run.step(self.number, self.batch))
        except Exception as error:
            return error
        clock.stop()
        return StepResult(total, clock)


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
