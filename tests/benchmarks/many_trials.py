"""Measure what a search of many trials costs beside them: python -m tests.benchmarks.many_trials.

The ledgers are of simulated searches (`tests/ledgers.py`), with reports as large as those of the sonnets; each is read by a new
process, as a resumed search does. There is no peer: what counts is the growth with the number of trials.
"""

import argparse
import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from searches.deciding.strategy import Strategy
from searches.options import Options
from searches.running.budget_stop import BudgetStopper
from searches.running.ledger import Ledger, Trial
from searches.showing.report import write
from searches.showing.screen import Screen
from searches.showing.summary import summarise
from tests.benchmarks.compare import show_by_size
from tests.ledgers import options_of, write_ledger

AT_ONCE = 4  # proposals that need none of the others to have ended; the first does not count
REFRESHES = 20
T = TypeVar("T")


def timed(do: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    found = do()
    return time.perf_counter() - started, found


def further(trials: int, folder: Path, sampler: str) -> Options:
    """The flags by which such a search goes on."""
    return options_of(trials + 100, folder, "--sampler", sampler, "--budget-hours", "1e6")


def figures(trials: int, folder: Path) -> list[tuple[str, str]]:
    return list(_figures(trials, folder))


def _figures(trials: int, folder: Path) -> Iterator[tuple[str, str]]:
    options = further(trials, folder, "random")
    seconds, ledger = timed(lambda: Ledger(folder / "ledger.jsonl"))
    with closing(ledger):
        yield "the ledger, MB", f"{(folder / 'ledger.jsonl').stat().st_size / 1e6:.1f}"
        yield "to open the ledger, s", f"{seconds:.2f}"
        seconds, strategy = timed(lambda: _strategy(options, ledger))
        yield "then to open the strategy, s", f"{seconds:.2f}"
        yield "a proposal, random, ms", f"{1e3 * _proposal(strategy):.1f}"
        strategy = _strategy(further(trials, folder, "tpe"), ledger)
        yield "a proposal, TPE, ms", f"{1e3 * _proposal(strategy):.1f}"
        yield "a refresh of the live table, ms", f"{1e3 * _refresh(options, ledger):.2f}"
        seconds, summary = timed(lambda: summarise(options, ledger.state, folder))
        yield "the summary, s", f"{seconds:.2f}"
        seconds, (page, *_) = timed(lambda: write(folder, summary))
        yield "the report, s", f"{seconds:.2f}"
        yield "its page, MB", f"{page.stat().st_size / 1e6:.2f}"
        yield "most memory, MB", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f}"


def _strategy(options: Options, ledger: Ledger) -> Strategy:
    return Strategy(options.plan, ledger, BudgetStopper(options.budget, options.plan, ledger).searching)


def _proposal(strategy: Strategy) -> float:
    strategy.unfinished.clear()  # proposals of the measurement before
    strategy.next()
    seconds, proposed = timed(lambda: [strategy.next() for _ in range(AT_ONCE - 1)])
    if not all(isinstance(one, Trial) for one in proposed):
        raise SystemExit("a proposal waits for other trials: this does not measure it")
    return seconds / len(proposed)


def _refresh(options: Options, ledger: Ledger) -> float:
    console = Console(file=io.StringIO(), width=160)
    screen = Screen(options.plan, console, options.budget, ledger.state)
    seconds, _ = timed(lambda: [console.print(screen.view()) for _ in range(REFRESHES)])
    return seconds / REFRESHES


def measured(trials: int) -> list[tuple[str, str]]:
    """The figures of one size, from a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder, options = Path(name), options_of(trials, Path(name))
        folder.mkdir(exist_ok=True)
        write_ledger(options, folder)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(figures, (trials, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    sizes = parser.parse_args().trials
    columns = {f"{trials:,} trials": dict(measured(trials)) for trials in sizes}
    show_by_size("what a search of many trials costs beside them", columns)


if __name__ == "__main__":
    main()
