"""Compare a whole search with transformers' own: python -m tests.benchmarks.search.

The search: 16 short LoRA trials of gpt2-nano on the narrative poems, two at once, one CPU each, a grid of rank and learning rate,
evaluation and checkpoint after each epoch; `poems.py` beside `Trainer.hyperparameter_search` with peft (`trainer_search.py`).
Each search is a process, timed from start to end. peft adapts c_attn as one matrix, so its rank is 1.5 times as large for as many
parameters at the same alpha. Initial values and the order of batches differ too, so dev losses are compared: within 1e-6 before
training, and within 2% after it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from gpt2core.config import RunConfig
from gpt2core.metrics.losses import mean_loss
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import loss_statistics
from tests.benchmarks.compare import CONSOLE, Comparison, differs, show
from tests.benchmarks.poems import BATCH, RANKS, RATES, SEARCH
from trainables.worker_cache import inputs

ROOT = Path(__file__).parents[2]
AT_ONCE = 2
EXAMPLES, EPOCHS = 16, 2
CLOSE_BEFORE, CLOSE_AFTER = 1e-6, 0.02  # relative differences of dev losses


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a trial: its point, number of optimizer steps, trained parameters and final dev loss."""

    rank: int
    lr: float
    steps: int
    trainable: int
    loss: float


def ours(folder: Path, examples: int, epochs: int) -> list[Outcome]:
    flags = ["--storage", str(folder), "--max-concurrent", str(AT_ONCE), "--sampler", "grid", "--scheduler", "none"]
    flags += ["--set", f"epochs={epochs}", "--set", f"train_examples={examples}"]
    in_a_process("poems", flags)
    summary = json.loads((folder / "searches" / "poems-quick" / "summary.json").read_text(encoding="utf-8"))
    found = []
    for row in summary["trials"]:
        last = row["curve"][-1]
        steps = sum(math.ceil(epoch["train_examples"] / BATCH) for epoch in row["curve"])
        found.append(
            Outcome(**row["point"], steps=steps, trainable=last["trainable_parameters"], loss=last["dev_loss"])
        )
    return found


def theirs(folder: Path, examples: int, epochs: int) -> list[Outcome]:
    in_a_process("trainer_search", [str(folder), *map(str, (examples, epochs, AT_ONCE))])
    return [Outcome(**row) for row in json.loads((folder / "outcomes.json").read_text(encoding="utf-8"))]


def in_a_process(module: str, flags: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}", *flags], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{module} has failed:\n{done.stderr.decode()}")


def search(way: Callable[..., list[Outcome]], size: tuple[int, int], found: list[list[Outcome]]) -> None:
    """Run one side's search. `found` collects both sides' outcomes, which must agree."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = way(Path(folder), *size)
    found.append(sorted(outcomes, key=lambda outcome: (outcome.rank, outcome.lr)))
    if len(found) == 2:
        same(*found)
        found.clear()


def same(here: Sequence[Outcome], beside: Sequence[Outcome]) -> None:
    """Print how much the dev losses differ; end the benchmark if the work was not the same."""
    if [replace(one, loss=0) for one in here] != [replace(two, loss=0) for two in beside]:
        raise differs("search")
    apart = max(abs(one.loss / two.loss - 1) for one, two in zip(here, beside, strict=True))
    CONSOLE.print(f"{len(here)} trials of {here[0].steps} steps; dev losses at the end differ by at most {apart:.2%}")
    if apart > CLOSE_AFTER:
        raise differs("search")


def config_of(lr: float) -> RunConfig:
    fixed = {**SEARCH.fixed, "task": "poems", "model": "gpt2-nano"}
    return RunConfig.of({**fixed, "rank": 8, "lr": lr, "epochs": EPOCHS, "train_examples": EXAMPLES})


def same_start() -> None:
    """Compare the dev losses before training; end the benchmark if they differ."""
    from tests.benchmarks.trainer_search import model_of, rows

    config = config_of(1e-3)
    base, data = inputs(config)
    here = float(mean_loss(loss_statistics(TASKS["poems"], base, data, config, "dev").sum(axis=0)))
    model, held_out = model_of(None).train(False), rows(data.splits["dev"])
    with torch.inference_mode():
        losses = [model(row["input_ids"][None], labels=row["labels"][None]).loss for row in held_out]
    beside = float(np.mean(losses))
    if abs(here / beside - 1) > CLOSE_BEFORE:
        raise differs("a model before training")


def comparisons(sizes: Sequence[tuple[int, int]]) -> Iterator[Comparison]:
    for examples, epochs in sizes:
        outcomes: list[list[Outcome]] = []
        yield Comparison(
            what=f"a search of {len(RANKS) * len(RATES)} trials, each {epochs} x {examples} of 256 tokens",
            peer='Trainer.hyperparameter_search(backend="ray")',
            ours=partial(search, ours, (examples, epochs), outcomes),
            theirs=partial(search, theirs, (examples, epochs), outcomes),
            check=same_start,
            reach=6,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, nargs=2, action="append", metavar=("EXAMPLES", "EPOCHS"), help="of each trial of a search"
    )
    sizes = parser.parse_args().size or [(8, 1)]
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune then prints no more than the table does
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    show("searches from start to end", comparisons(sizes))


if __name__ == "__main__":
    main()
