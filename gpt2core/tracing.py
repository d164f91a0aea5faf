"""A profile of a run's first steps, as a trace for https://ui.perfetto.dev or chrome://tracing."""

from pathlib import Path
from typing import TypeVar

from torch.profiler import profile, schedule

from gpt2core.files import atomic_path
from gpt2core.steps import Events, Step, advance

BEFORE, STEPS = 2, 3  # steps that are skipped, since the first ones are slower, and steps that are traced

R = TypeVar("R")


def traced(events: Events[R], path: Path) -> Events[R]:
    """Return the same run, which writes a trace of some of its steps to `path`. A process can trace one run at a time."""

    def write(profiler: profile) -> None:
        with atomic_path(path) as part:
            packed = part.with_name(f"{part.name}.gz")  # by whose suffix the profiler knows that it is compressed
            profiler.export_chrome_trace(str(packed))
            packed.replace(part)

    order = schedule(wait=BEFORE - 1, warmup=1, active=STEPS, repeat=1)
    with profile(schedule=order, on_trace_ready=write, record_shapes=True) as tracer:
        event, left = advance(events, None), BEFORE + STEPS
        while event is not None and left:
            answer = yield event
            if isinstance(event, Step):
                tracer.step()
                left -= 1
            event = advance(events, answer)
    while event is not None:
        event = advance(events, (yield event))
