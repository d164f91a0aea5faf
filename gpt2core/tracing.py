"""Profile the first steps of a run, as a trace for https://ui.perfetto.dev or chrome://tracing."""

from pathlib import Path
from typing import TypeVar

from torch.profiler import profile, schedule

from gpt2core.files import atomic_path
from gpt2core.steps import Events, Step, advance

BEFORE, STEPS = 2, 3  # skipped steps, since the first ones are slower, and traced steps

R = TypeVar("R")


def traced(events: Events[R], path: Path) -> Events[R]:
    """Yield the events of a run, and write a trace of some steps to `path`. A process can trace only one run at a time."""

    def write(profiler: profile) -> None:
        with atomic_path(path) as part:
            compressed = part.with_name(f"{part.name}.gz")  # the profiler compresses files with this suffix
            profiler.export_chrome_trace(str(compressed))
            compressed.replace(part)

    order = schedule(wait=BEFORE - 1, warmup=1, active=STEPS, repeat=1)
    with profile(schedule=order, on_trace_ready=write, record_shapes=True) as tracer:
        event, remaining = advance(events, None), BEFORE + STEPS
        while event is not None and remaining:
            outcome = yield event
            if isinstance(event, Step):
                tracer.step()
                remaining -= 1
            event = advance(events, outcome)
    while event is not None:
        event = advance(events, (yield event))
