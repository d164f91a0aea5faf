"""A trace of some steps, which changes nothing of the run."""

import gzip
import json
from pathlib import Path

from gpt2core.steps import TRACED, take_steps, traced
from gpt2core.testing import toys
from gpt2core.training import loop


def test_a_trace_holds_some_steps_and_the_run_is_as_without(tmp_path: Path) -> None:
    path = tmp_path / "trial" / "trace.json.gz"
    plain = list(take_steps(loop(toys.RUN, toys.model(), toys.data(), folder=None)))
    watched = list(take_steps(traced(loop(toys.RUN, toys.model(), toys.data(), folder=None), path)))
    assert [r.metrics["train_loss"] for r in watched] == [r.metrics["train_loss"] for r in plain]
    assert len(plain) == toys.RUN.epochs
    with gzip.open(path) as file:
        names = [event["name"] for event in json.load(file)["traceEvents"] if "name" in event]
    assert sum(name.startswith("ProfilerStep#") for name in names) == TRACED
    assert any("addmm" in name for name in names), "operations are named"
    assert list(path.parent.iterdir()) == [path]


def test_a_run_of_few_steps_ends_as_ever(tmp_path: Path) -> None:
    run = loop(toys.RUN.but(epochs=1, batch_size=64), toys.model(), toys.data(), folder=None)
    assert len(list(take_steps(traced(run, tmp_path / "trace.json.gz")))) == 1
