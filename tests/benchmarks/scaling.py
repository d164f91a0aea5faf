"""Show how costs grow with the work, as curves with fitted power laws: python -m tests.benchmarks.scaling.

An exponent, with a 95% interval, is 0 where a trial costs the same however many there are, -1 where twice the workers take half
the time. Curves: a trial beside its training, through Tune (`trials.py`), and its strategy alone; a candidate pair of a
distillation round by workers; a layer of attention at lengths where starting operations no longer counts; and, simulated with
recorded learning curves, a search on more workers than there are cores.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

from cluster.connect import connect
from gpt2core.attention import ATTENTION
from gpt2core.distill.config import GenerationConfig
from searches.deciding.method import Method
from searches.deciding.replay_backend import Course, MemoryLedger, ReplayBackend
from searches.deciding.strategy import Strategy
from searches.replay import Record, read
from tests.benchmarks import attention, candidates, trials
from tests.benchmarks.compare import CONSOLE
from tests.benchmarks.fit import power
from tests.benchmarks.replay import CURVES

CANDIDATES = 4  # of a context
WORKERS = (1, 2, 4, 8, 16, 32)  # simulated
SEARCH_TRIALS = 200  # on them


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Costs by size, some of each."""

    what: str
    size: str
    unit: str
    costs: Mapping[int, Sequence[float]]

    def row(self) -> list[str]:
        """What is shown: the median at each size, and the exponent of all."""
        points = [(size, cost) for size, costs in self.costs.items() for cost in costs]
        shown = "  ".join(f"{size:,}: {median(costs):.3g}" for size, costs in self.costs.items())
        return [self.what, self.size, self.unit, shown, str(power(*zip(*points, strict=True)))]


def repeated(cost: Callable[[int], float], sizes: Sequence[int], repeats: int) -> dict[int, list[float]]:
    """Costs of all sizes, which take turns."""
    rounds = [{size: cost(size) for size in sizes} for _ in range(repeats)]
    return {size: [found[size] for found in rounds] for size in sizes}


def through_tune(sizes: Sequence[int], repeats: int) -> Curve:
    costs = repeated(lambda size: trials.ours(size, "random"), sizes, repeats)
    return Curve(what="control plane, through Tune", size="trials", unit="ms a trial", costs=costs)


def recorded() -> Record:
    """The learning curves of ranks of LoRA."""
    return read(next(path for path in CURVES if path.name.startswith("lora_rank")))


def simulated(record: Record, count: int, workers: int) -> Course:
    """A search of recorded curves that takes its decisions as any other."""
    plan = record.plan(Method(sampler="random"), trials=count, seed=0)
    return ReplayBackend(record.nearest(plan), workers=workers).run(Strategy(plan, MemoryLedger()))


def strategy_alone(sizes: Sequence[int], repeats: int) -> Curve:
    record = recorded()

    def cost(size: int) -> float:
        started = time.perf_counter()
        simulated(record, size, 2)
        return 1e3 * (time.perf_counter() - started) / size

    costs = repeated(cost, sizes, repeats)
    return Curve(what="strategy alone, 9 epochs and rungs", size="trials", unit="ms a trial", costs=costs)


def simulated_workers() -> Curve:
    """The time of one search by workers, none of which is slowed down by another."""
    record = recorded()
    costs = {workers: [simulated(record, SEARCH_TRIALS, workers).seconds] for workers in WORKERS}
    return Curve(what=f"a search of {SEARCH_TRIALS} trials, simulated", size="workers", unit="s", costs=costs)


def round_rate(contexts: int, workers: int) -> float:
    """Candidates a second of a round, from when the first worker is ready."""
    with tempfile.TemporaryDirectory() as folder:
        generation = GenerationConfig(candidates=CANDIDATES)
        return candidates.pipeline_rates(candidates.job_of(Path(folder), "gpt2-nano", generation, contexts, workers))[0]


def rounds(sizes: Sequence[int], repeats: int) -> list[Curve]:
    """A candidate's cost by how many there are, and a round's time by workers."""
    costs = repeated(lambda size: 1e3 / round_rate(size, 2), sizes, repeats)
    largest = sizes[-1]
    by_workers = repeated(lambda workers: largest * CANDIDATES / round_rate(largest, workers), (1, 2), 2)
    title = f"a round of {largest} contexts"
    return [
        Curve(what="a distillation round, 2 workers", size="contexts", unit="ms a candidate", costs=costs),
        Curve(what=title, size="workers", unit="s", costs=by_workers),
    ]


def attentions(lengths: Sequence[int], repeats: int) -> list[Curve]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = {(name, n): attention.step(ATTENTION[name].attend, n) for n in lengths for name in attention.KERNELS}
    found = attention.alternate(steps, repeats)
    torch.set_num_threads(before)
    return [
        Curve(
            what=f"attention, {name}",
            size="tokens",
            unit="ms",
            costs={n: [1e3 * seconds for seconds in found[name, n]] for n in lengths},
        )
        for name in attention.KERNELS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 100, 200], help="through Tune")
    parser.add_argument("--strategy-trials", type=int, nargs="+", default=[100, 300, 1_000, 3_000])
    parser.add_argument("--contexts", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    connect()
    curves = [
        through_tune(chosen.trials, chosen.repeats),
        strategy_alone(chosen.strategy_trials, chosen.repeats),
        simulated_workers(),
        *rounds(chosen.contexts, chosen.repeats),
        *attentions([n for n in attention.LENGTHS if n >= attention.FITTED_FROM], chosen.repeats + 1),
    ]
    table = Table("what", "by", "in", title="how costs grow", show_lines=True)
    table.add_column("size: cost", max_width=62)
    table.add_column("exponent [95% interval]", justify="right")
    for curve in curves:
        table.add_row(*curve.row())
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
