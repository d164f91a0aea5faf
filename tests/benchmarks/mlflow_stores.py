"""Compare MLflow's stores for eight processes that log at once: python -m tests.benchmarks.mlflow_stores.

Each logs batches of 20 metrics to an SQLite file, to a server on such a file, or to a server on PostgreSQL, in turn; the first
turn does not count. The first and the last metric of each batch must be stored once.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from rich.table import Table

from tests.benchmarks.compare import CONSOLE, differs
from tests.server import Server
from tests.services import PostgreSQL, started
from trainables.tracking import configure_mlflow

METRICS = 20  # of a batch: about as many as an epoch of a trial has


def log(uri: str, experiment: str, seconds: float) -> tuple[str, int, float]:
    """Log batches for some seconds, when all processes are there; return the run, their count and the seconds they took."""
    configure_mlflow()
    client = MlflowClient(uri)
    run = client.create_run(experiment).info.run_id
    gate.wait()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        client.log_batch(run, metrics=[Metric(f"metric_{name}", float(count), count, count) for name in range(METRICS)])
        count += 1
    return run, count, time.perf_counter() - begin


def keep(barrier: Any) -> None:
    global gate
    gate = barrier


class Store:
    """A place for records, and how many batches a second it took in each turn."""

    def __init__(self, what: str, uri: str) -> None:
        self.what, self.client, self.rates = what, MlflowClient(uri), list[float]()
        self.turn = partial(log, uri, self.client.create_experiment("speed"))

    def measure(self, processes: ProcessPoolExecutor, count: int, seconds: float) -> None:
        """Let all processes log, and check that everything arrived."""
        logged = [future.result() for future in [processes.submit(self.turn, seconds) for _ in range(count)]]
        self.rates.append(sum(batches / took for _, batches, took in logged))
        for run, batches, _ in logged:
            for name in ("metric_0", f"metric_{METRICS - 1}"):
                history = self.client.get_metric_history(run, name)
                if sorted(entry.step for entry in history) != list(range(batches)):
                    raise differs(self.what)


def stores(folder: Path, stack: ExitStack) -> Sequence[Store]:
    """All stores, with the servers that they need; PostgreSQL first to be asked for, for it may not be installed."""
    database = stack.enter_context(started(PostgreSQL))
    servers = [Server(folder / "sqlite"), Server(folder / "postgresql", database=database.uri)]
    for server in servers:
        stack.callback(server.kill)
    for server in servers:
        server.wait()
    return (
        Store("SQLite, the file itself", f"sqlite:///{folder / 'direct.db'}"),
        Store("a server on SQLite", servers[0].uri),
        Store("a server on PostgreSQL", servers[1].uri),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3, help="of a turn")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    configure_mlflow()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow", "trainables.tracking"])  # what takes seconds to import is imported once
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        barrier = context.Barrier(chosen.processes, timeout=120)
        processes = stack.enter_context(ProcessPoolExecutor(chosen.processes, context, keep, (barrier,)))
        found = stores(folder, stack)
        for _ in range(1 + chosen.repeats):
            for store in found:
                store.measure(processes, chosen.processes, chosen.seconds)
    CONSOLE.print(table(found, f"{chosen.processes} processes, {METRICS} metrics a batch, {os.cpu_count()} cores"))


def table(found: Sequence[Store], title: str) -> Table:
    shown = Table("records in", title=title)
    for heading in (r"batches/s of all \[least, most]", "times the first", "arrived"):
        shown.add_column(heading, justify="right")
    first = statistics.median(found[0].rates[1:])
    for store in found:
        rates = sorted(store.rates[1:])
        middle = statistics.median(rates)
        rate = f"{middle:.1f} [{rates[0]:.1f}, {rates[-1]:.1f}]"
        shown.add_row(store.what, rate, f"{middle / first:.2f}", "all, once")
    return shown


if __name__ == "__main__":
    main()
