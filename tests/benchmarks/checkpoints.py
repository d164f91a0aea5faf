"""What the checkpoint of an epoch writes, and how long training waits for it: python -m tests.benchmarks.checkpoints.

All parameters train. The former way writes after the evaluation and copies the best weights; each epoch is the best here, which
is the worst case of both. The wait is what the epoch's report says of it, and the whole is the time of the epoch.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.table import Table

from gpt2core import training
from gpt2core.checkpoints import saving
from gpt2core.checkpoints.layout import BEST, WEIGHTS
from gpt2core.checkpoints.saving import Pace
from gpt2core.config import RunConfig
from gpt2core.model import GPT2
from gpt2core.steps import take_steps
from gpt2core.tasks import TaskData
from gpt2core.training import loop
from tests.benchmarks.compare import CONSOLE, differs
from tests.benchmarks.shapes import SHAPES, lengths_of, random_model, random_texts

EPOCHS = 3  # of a turn; the first one does not count, since it allocates


class InTurn:
    """An executor that does its work only when its result is asked for."""

    def __init__(self, workers: int) -> None:
        pass

    def submit(self, work: Callable[[], None]) -> "InTurn":
        self.result = work
        return self

    def shutdown(self) -> None:
        pass


def refused(*_: Any) -> None:
    raise OSError


@contextmanager
def formerly() -> Iterator[None]:
    with patch.object(saving, "ThreadPoolExecutor", InTurn), patch.object(os, "link", refused):
        yield


@dataclass
class Figures:
    """Figures of each epoch, and the best weights."""

    written: list[float]
    waits: list[float]
    wholes: list[float]
    cpu: list[float]
    losses: list[float]
    best: bytes


def trained(config: RunConfig, base: GPT2, data: TaskData, pace: Pace) -> Figures:
    """Train a run and return its figures."""
    written = [0.0]

    def counted(write: Callable[..., Any], place: int) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            result = write(*args, **kwargs)
            written[-1] += Path(args[place]).stat().st_size / 1e6
            return result

        return counting

    figures = Figures([], [], [], [], [], b"")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        patches.enter_context(patch.object(saving, "save_file", counted(saving.save_file, 1)))
        patches.enter_context(patch.object(shutil, "copyfile", counted(shutil.copyfile, 1)))
        patches.enter_context(patch.object(training, "is_best", lambda *_: True))
        started, cpu = time.perf_counter(), time.process_time()
        for report in take_steps(loop(config, base, data, folder=Path(folder), pace=pace)):
            figures.written.append(written[-1])
            figures.waits.append(report.seconds["checkpoint"])
            figures.wholes.append(time.perf_counter() - started)
            figures.cpu.append(time.process_time() - cpu)
            figures.losses.append(report.metrics["dev_loss"])
            started, cpu = time.perf_counter(), time.process_time()
            written.append(0.0)
        figures.best = (Path(folder) / BEST / WEIGHTS).read_bytes()
    return figures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="17.5M", choices=SHAPES)
    options.add_argument("--turns", type=int, default=3)
    chosen = options.parse_args()
    base = random_model(chosen.model)
    texts = random_texts(lengths_of("sst", 120), base.config)
    config = RunConfig(task="sst", epochs=EPOCHS, batch_size=8, train_examples=8)
    table = Table(title=f"Checkpoint of an epoch, {chosen.model}, all parameters; medians")
    for heading in ("evaluation", "written", "MB", "wait, s", "epoch, s", "CPU, s"):
        table.add_column(heading, justify="left" if heading in ("evaluation", "written") else "right")
    ways = {
        "after the evaluation, best copied": (formerly, 0.0),
        "during the evaluation, best linked": (ExitStack, 0.0),
        "and without optimizer state": (ExitStack, 1e9),
    }
    for what, count in {"2 texts": 2, "120 texts": 120}.items():
        data = replace(texts, splits={"train": texts.splits["train"], "dev": texts.splits["train"].sample(count)})
        figures: dict[str, list[Figures]] = {way: [] for way in ways}
        for _ in range(chosen.turns):
            for way, (context, minutes) in ways.items():
                with context():
                    figures[way].append(trained(config, base, data, Pace(minutes)))
        if len({(*turn.losses, turn.best) for turns in figures.values() for turn in turns}) > 1:
            raise differs("checkpoints")
        for way, turns in figures.items():
            columns = (
                statistics.median(value for turn in turns for value in getattr(turn, column)[1:])
                for column in ("written", "waits", "wholes", "cpu")
            )
            table.add_row(what, way, *(f"{value:.3g}" for value in columns))
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
