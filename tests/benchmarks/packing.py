"""Compare LoRA trials in one forward pass with one after another and with processes: python -m tests.benchmarks.packing.

Weights and tokens are random, lengths are SST's; ranks and learning rates differ. The losses are compared before the timing.
"""

import argparse
import os
import re
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Self

import torch

from gpt2core.config import RunConfig
from gpt2core.machine import PROCESS, process_memory_gb
from gpt2core.packing import Packer
from gpt2core.run import Run
from gpt2core.steps import Step, StepResult
from tests.benchmarks.compare import TURNS, Comparison, differs, show
from tests.benchmarks.shapes import SHAPES, lengths_of, random_model, random_texts

STEPS = 4  # of a turn
EXAMPLES = 256
CPUS = os.cpu_count() or 1
SPAWN = get_context("spawn")  # a process begins with nothing of this one, as that of a trial does


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=TURNS, help=f"of each side (default: {TURNS})")
    options.add_argument("--dropout", type=float, default=0.1, help="what all trials train with (default: 0.1)")
    options.add_argument("--heavy", choices=SHAPES, default="small", help="model of the memory row (default: small)")
    chosen = options.parse_args()
    title = f"Packed LoRA trials, dropout {chosen.dropout:g}, float32, {torch.get_num_threads()} threads"
    with Processes(4, "17.5M", chosen.dropout) as processes:
        show(title, comparisons(processes, chosen.dropout, chosen.heavy), chosen.turns)


def comparisons(processes: "Processes", dropout: float, heavy: str) -> Iterator[Comparison]:
    packed, alone = (Trials(range(4), "17.5M", dropout) for _ in range(2))
    yield Comparison(
        what="17.5M: 4 trials packed, batches of 8 like SST",
        peer="one after another in one process",
        ours=packed.together,
        theirs=alone.one_by_one,
        reach=0.95,
        check=lambda: same(packed.together(), alone.one_by_one()),
    )
    again = Trials(range(4), "17.5M", dropout)
    yield Comparison(
        what="17.5M: 4 trials packed, batches of 8 like SST",
        peer=f"4 processes of {processes.threads} threads at once",
        ours=again.together,
        theirs=processes.steps,
        check=lambda: same(again.together(), processes.steps()),
    )
    yield Comparison(
        what=f"{heavy}: memory of 8 trials packed",
        peer="8 times a process of one",
        ours=lambda: held_gb(8, heavy, dropout),
        theirs=lambda: 8 * held_gb(1, heavy, dropout),
        reach=4,
        unit="GB",
        varies=False,
    )


class Trials:
    """Runs of one base that differ in rank and learning rate, and take the same batches."""

    def __init__(self, numbers: Iterable[int], name: str, dropout: float) -> None:
        base = random_model(name)
        data = random_texts(lengths_of("sst", EXAMPLES), base.config)
        shared = RunConfig(task="sst", adapter="lora", dropout=dropout, lora_dropout=dropout, precision="float32")
        configs = [shared.but(rank=4 * (1 + number % 4), lr=1e-4 * (1 + number)) for number in numbers]
        self.runs = [Run(config, base, data) for config in configs]
        self.batches = self.runs[0].batches(epoch=1)
        self.taken, self.packer = 0, Packer()
        for run in self.runs:
            run.model.train()

    def together(self) -> list[list[float]]:
        return [losses_of(self.packer.take(steps)) for steps in self._next()]

    def one_by_one(self) -> list[list[float]]:
        by_trial = [losses_of(step.take() for step in steps) for steps in zip(*self._next(), strict=True)]
        return [list(losses) for losses in zip(*by_trial, strict=True)]

    def _next(self) -> list[list[Step]]:
        self.taken += STEPS
        batches = [(n, self.batches[n % len(self.batches)]) for n in range(self.taken - STEPS, self.taken)]
        return [[Step(run, n, batch, run.token_count(batch)) for run in self.runs] for n, batch in batches]


def losses_of(answers: Iterable[StepResult | Exception]) -> list[float]:
    losses = []
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        losses.append(answer.loss)
    return losses


def same(ours: list[list[float]], theirs: list[list[float]]) -> None:
    """Raise SystemExit where the losses, (STEPS, trials), are not the same up to rounding."""
    if not torch.allclose(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=0):
        raise differs("packed trials")


class Processes:
    """One trial in each of several processes that share the cores; they live until the end of the context."""

    def __init__(self, count: int, name: str, dropout: float) -> None:
        self.threads = max(1, CPUS // count)
        pipes = [SPAWN.Pipe() for _ in range(count)]
        self.connections = [ours for ours, _ in pipes]
        self.processes = [
            SPAWN.Process(target=take_steps, args=(theirs, number, name, dropout, self.threads), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]

    def __enter__(self) -> Self:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *error: object) -> None:
        for connection, process in zip(self.connections, self.processes, strict=True):
            connection.send(False)
            process.join()

    def steps(self) -> list[list[float]]:
        for connection in self.connections:
            connection.send(True)
        by_trial = [connection.recv() for connection in self.connections]
        return [list(losses) for losses in zip(*by_trial, strict=True)]


def take_steps(connection: Connection, number: int, name: str, dropout: float, threads: int) -> None:
    """What a process does: STEPS steps of its trial whenever it is asked."""
    torch.set_num_threads(threads)
    trials = Trials([number], name, dropout)
    while connection.recv():
        connection.send([loss for (loss,) in trials.one_by_one()])


def held_gb(count: int, name: str, dropout: float) -> float:
    """The most memory that a process of its own holds while it takes steps of `count` packed trials."""
    with SPAWN.Pool(1) as pool:
        return pool.apply(most_held_gb, (count, name, dropout))


def most_held_gb(count: int, name: str, dropout: float) -> float:
    """The same of this process, without what it shares with others: the files of its libraries."""
    Trials(range(count), name, dropout).together()
    files = re.search(r"RssFile:\s*(\d+) kB", (PROCESS / "status").read_text())
    return process_memory_gb() - (int(files[1]) * 1024 / 1e9 if files else 0.0)


if __name__ == "__main__":
    main()
