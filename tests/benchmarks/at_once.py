"""Measure a search with many trials at once, which train nothing: python -m tests.benchmarks.at_once.

- *simulated*: strategy, ledger on disk, screen and tracker, with workers in simulated time and an MLflow that only counts;
- *through Tune*: a process per trial, all at once, which reports and waits;
- *groups*: the process of each trial on a GPU, its group and Ray Train's processes around a worker that only waits, without GPUs;
- what a proposal takes with results in S3, at `--round-trip` milliseconds.

Milliseconds are CPU time unless stated otherwise. The figures of `cluster/SCALE.md` are those of
--workers 10 100 1000 --sampler tpe --processes 4 16 48 --groups 1 4 --round-trip 30.
"""

import argparse
import importlib
import io
import multiprocessing
import os
import random
import re
import resource
import socket
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray import tune
from rich.console import Console

import trainables.groups
from cluster.environment import settle
from gpt2core.storage import local
from gpt2core.testing.toys import lines
from searches.deciding.replay_backend import ReplayBackend
from searches.deciding.strategy import Strategy
from searches.driver.tune import run_trials
from searches.lora_rank import SEARCH
from searches.options import Options, parse
from searches.running.events import Event, Proposed, Report
from searches.running.failures import Faults
from searches.running.ledger import COMPLETED, Ledger, RawEvent, State, Trial
from searches.running.resources import trial_spec
from searches.running.tracking import Tracker
from searches.showing.screen import Screen
from tests.benchmarks.compare import differs, show_by_size
from tests.ledgers import EXAMPLES, curve
from tests.ledgers import options_of as simulated_options
from tests.server import free_port
from tests.services import BUCKET, Store
from trainables.executors import Executor, joined_trial
from trainables.groups import Group
from trainables.heartbeat import Heartbeat
from trainables.nodes import Machine

OBJECTIVE = "chrf_continuation"
RATE = 20  # reports a second of all trials together, through Tune
REPORTS = 8  # of each
PROPOSALS = 40  # that wait for the store
REQUEST = re.compile(rb"(?:PUT|GET|HEAD|DELETE|POST) /")
NODE = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")  # one of each for a machine, or processes that have nothing to do
Figures = list[tuple[str, str]]


# simulated


class Timed(Strategy):
    """Keeps the seconds that its calls take."""

    def __init__(self, *given: Any) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)
        super().__init__(*given)

    def _timed(self, name: str, do: Callable[[], Any]) -> Any:
        started = time.thread_time()
        answer = do()
        if name != "proposal" or isinstance(answer, Trial):
            self.took[name].append(time.thread_time() - started)
        return answer

    def next(self) -> Any:
        return self._timed("proposal", super().next)

    def report(self, *given: Any) -> Any:
        return self._timed("report", partial(super().report, *given))

    def end(self, *given: Any) -> None:
        self._timed("end", partial(super().end, *given))


class LargeReports(Ledger):
    """A ledger on the disk; makes of a simulated report one that is as large as those of the sonnets."""

    texts = tuple(lines(10, seed) for seed in range(EXAMPLES))

    def record(self, event: RawEvent) -> None:
        if event["event"] == "report":
            samples = [{"id": str(n), "given": t, "generated": t, "gold": t} for n, t in enumerate(self.texts)]
            seconds = {"data": 0.1, "train": 1.5, "evaluate": 0.5, "generate": 0.4, "checkpoint": 0.1}
            event = event | {"samples": samples, "data": {"digest": "d" * 64}, "seconds": seconds, "tables": {}}
        super().record(event)


class Taking:
    """An MLflow client that takes everything, and counts it."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.calls[name] += 1
            run = SimpleNamespace(
                info=SimpleNamespace(run_id=f"{sum(self.calls.values()):032x}", status="RUNNING", start_time=0),
                data=SimpleNamespace(params={}),
                experiment_id="1",
            )
            return [] if name == "search_runs" else run

        return call


def simulated(workers: int, sampler: str) -> Figures:
    """A search of three times as many trials as workers, by its strategy, ledger, screen and tracker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = simulated_options(3 * workers, folder, "--sampler", sampler, "--budget-hours", "1e6")
        with closing(LargeReports(folder / "ledger.jsonl")) as ledger:
            return list(_simulated(workers, options, ledger, folder))


def _simulated(workers: int, options: Options, ledger: Ledger, folder: Path) -> Iterator[tuple[str, str]]:
    plan = options.plan
    ledger.record({"event": "search", "digest": plan.digest, "name": plan.search.name, "seed": plan.seed, "id": "0"})
    ledger.record({"event": "started", "argv": []})
    ledger.record({"event": "data", "data": {"data": "toy data", "digest": "d" * 64}, "baselines": {}})
    ledger.record({"event": "share", "gpus": 1.0, "cpus": 1.0, "concurrent": workers})
    console = Console(file=io.StringIO(), width=160)
    screen = Screen(plan, console, options.budget, ledger.state)
    tracker = Tracker(plan, ledger, "nowhere", print)
    client = tracker.client = Taking()
    tracker.start("at once", {}, {})
    refreshes: list[float] = []
    known: dict[str, Any] = {}
    strategy = Timed(plan, ledger)
    ledger.listeners += [screen, tracker]
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def of(trial: Trial) -> Any:
        if trial.name not in known:
            known[trial.name] = curve(trial)
            if len(known) == 2 * workers:
                started = time.thread_time()
                console.print(screen.view())
                refreshes.append(time.thread_time() - started)
        return known[trial.name]

    course = ReplayBackend(of, workers=workers).run(strategy)
    left = len(tracker.queue.waiting)
    yield "trials", f"{len(ledger.state.trials)}"
    events = sum(map(len, strategy.took.values()))
    for kind, all_took in strategy.took.items():
        took = all_took[1:] if kind == "proposal" else all_took  # the first imports
        yield f"a {kind}, ms: mean, longest", f"{1e3 * mean(took):.1f}, {1e3 * max(took):.0f}"
    yield "proposals, reports and ends a second", f"{events / sum(map(sum, strategy.took.values())):.0f}"
    yield "a refresh of the live table, ms", f"{1e3 * refreshes[0]:.0f}"
    yield "MLflow: entries that wait at the end", f"{left}"
    tracker.queue.finish(60)
    yield "MLflow: requests a trial of 3 epochs", f"{sum(client.calls.values()) / len(ledger.state.trials):.1f}"
    yield "proposed before any result counts", f"{ledger.state.lag}"
    yield "ledger, MB", f"{(folder / 'ledger.jsonl').stat().st_size / 1e6:.1f}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began
    yield "memory that it takes, MB", f"{grown / 1e3:.0f}"
    assert course.seconds > 0


# through Tune


def pss(process: str | int) -> float:
    """Megabytes of a process; what it shares with others counts in parts."""
    found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1e3 if found else 0.0


def reporting(config: dict[str, Any]) -> None:
    """A trial without training: it waits until all are there, then reports now and then, and how long its last report took."""
    spec = config["spec"]
    wait_for_all(spec)
    pause = spec["concurrent"] / RATE
    time.sleep(random.uniform(0, pause))
    waited = 0.0
    for epoch in range(1, REPORTS + 1):
        metrics = {OBJECTIVE: 30 + spec["run"]["lr"], "waited": waited, "megabytes": pss("self")}
        started = time.perf_counter()
        tune.report({"epoch": epoch, "objective": metrics[OBJECTIVE], "metrics": metrics})
        waited = time.perf_counter() - started
        time.sleep(max(0.0, pause - waited))


def wait_for_all(spec: Mapping[str, Any]) -> None:
    """Return when there are as many trials as there are to be at once."""
    ready = Path(spec["folder"]).parents[1] / "ready"
    (ready / spec["name"]).touch()
    while len(list(ready.iterdir())) < spec["concurrent"]:
        time.sleep(0.2)


def searched(
    count: int, flags: Sequence[str], executor: Executor, folder: Path, listen: Callable[[Event, State], None]
) -> Ledger:
    method = ["--sampler", "random", "--scheduler", "none", "--replicates", "0", "--storage", str(folder)]
    options = parse(SEARCH, ["--trials", str(count), "--max-concurrent", str(count), *flags, *method])
    (folder / "ready").mkdir()
    spec = trial_spec(options, folder, [Machine(1, 1.0 if "--gpus-per-worker" in flags else 0.0)] * count)
    ray.cloudpickle.register_pickle_by_value(
        importlib.import_module("tests.benchmarks.at_once")
    )  # imports little there
    with closing(Ledger(folder / "ledger.jsonl")) as ledger:
        ledger.listeners.append(listen)
        run_trials(options, ledger, spec, executor, print, Faults(Heartbeat(), print))
    if sum(trial.status == COMPLETED for trial in ledger.state.trials.values()) != count:
        raise differs(f"{count} trials at once")
    return ledger


def start_ray(processors: int, gpus: int = 0) -> None:
    """A Ray of this process's own, which believes in so many processors."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": gpus > 0}
    ray.init(address="local", num_cpus=processors, num_gpus=gpus, object_store_memory=2**27, **quiet)


def through_tune(count: int) -> Figures:
    heard: list[tuple[type[Event], float, float]] = []

    def listen(event: Event, state: State) -> None:
        heard.append((type(event), time.time(), time.process_time()))

    with tempfile.TemporaryDirectory() as name:
        start_ray(count)
        folder = Path(name)
        ledger = searched(count, ["--set", f"epochs={REPORTS}"], (reporting, {"memory": 1}), folder, listen)
        there = max(path.stat().st_mtime for path in (folder / "ready").iterdir())
        below = psutil.Process().children(recursive=True)
        control = {p.name(): pss(p.pid) for p in below if p.name() in ("gcs_server", "raylet")}
    proposed = [clock for kind, clock, _ in heard if kind is Proposed]
    reports = [(clock, cpu) for kind, clock, cpu in heard if kind is Report]
    metrics = [report.metrics for trial in ledger.state.trials.values() for report in trial.reports.values()]
    spent, length = reports[-1][1] - reports[0][1], reports[-1][0] - reports[0][0]
    waits = [m["waited"] for m in metrics if m["waited"]]
    return [
        ("to propose all, s", f"{proposed[-1] - proposed[0]:.2f}"),
        ("until all run, s", f"{there - proposed[0]:.0f}"),
        ("reports a second", f"{len(reports) / length:.0f}"),
        ("a report, ms of the driver's CPU", f"{1e3 * spent / len(reports):.1f}"),
        ("a report, ms that its trial waits: median", f"{1e3 * median(waits):.0f}"),
        ("a trial's process, MB", f"{median(m['megabytes'] for m in metrics):.0f}"),
        ("the driver, MB", f"{pss('self'):.0f}"),
        *((f"{name}, MB", f"{size:.0f}") for name, size in control.items()),
    ]


# groups


class Holding(Group):
    """A worker group whose worker trains nothing."""

    def _fit(self) -> None:
        Group._fit.__globals__["_worker"] = holding  # Ray copies the classes of actors, so their module is another
        super()._fit()


def holding(config: dict[str, Any]) -> None:
    """A worker that waits until all are there and have been measured."""
    group, name = config["group"], "holding"
    ray.get(group.begin.remote(name, ray.util.get_current_placement_group()))
    while (spec := ray.get(group.take.remote(name))) is not None:
        wait_for_all(spec)
        while not (Path(spec["folder"]).parents[1] / "measured").exists():
            time.sleep(0.2)
        score = 30 + spec["run"]["lr"]
        ray.get(group.put.remote(name, {"epoch": 1, "objective": score, "metrics": {OBJECTIVE: score}}))


def groups(count: int) -> Figures:
    """Trials on GPUs, all at once: their processes beside the worker."""
    settle()
    found: list[tuple[float, Counter[str], Counter[str], int]] = []
    proposed: list[float] = []

    def listen(event: Event, state: State) -> None:
        if isinstance(event, Proposed):
            proposed.append(time.time())

    def measure(folder: Path) -> None:
        while len(list(folder.glob("ready/*"))) < count:
            time.sleep(0.2)
        there = time.time()
        time.sleep(2)
        memory, number = Counter[str](), Counter[str]()
        for process in psutil.Process().children(recursive=True):
            role = re.match(r"ray::(\w+)", " ".join(process.cmdline()))
            if role and role[1] not in NODE:
                memory[role[1]] += pss(process.pid)
                number[role[1]] += 1
        found.append((there, memory, number, len(ray.util.placement_group_table())))
        (folder / "measured").touch()

    with tempfile.TemporaryDirectory() as name:
        start_ray(count, count)
        folder = Path(name)
        threading.Thread(target=measure, args=[folder], daemon=True).start()
        flags = ["--set", "epochs=1", "--gpus-per-worker", "1", "--pack", "off"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainables.groups, "Group", Holding)
            searched(count, flags, (joined_trial, {"memory": 1}), folder, listen)
    there, memory, number, placements = found[0]
    worker = "RayTrainWorker"
    beside = sum(memory.values()) - memory[worker]
    return [
        ("until all run, s", f"{there - proposed[0]:.0f}"),
        ("processes of a trial beside its worker", f"{(sum(number.values()) - number[worker]) / count:.1f}"),
        ("their memory, MB a trial", f"{beside / count:.0f}"),
        ("placement groups of a trial", f"{placements / count:.1f}"),
        *((f"{role}, MB a trial", f"{size / count:.0f}") for role, size in memory.most_common()),
    ]


# a ledger in a store that is far away


class Far:
    """Passes on what is said to a port of this machine, each answer later by a round trip; counts the requests."""

    def __init__(self, port: int, round_trip: float) -> None:
        self.there, self.round_trip, self.requests = port, round_trip, 0
        self.listening = socket.create_server(("127.0.0.1", free_port()))
        self.port = int(self.listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            here, _ = self.listening.accept()
            there = socket.create_connection(("127.0.0.1", self.there))
            for one in (here, there):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = threading.Event()
            threading.Thread(target=self._pass, args=[here, there, asked, True], daemon=True).start()
            threading.Thread(target=self._pass, args=[there, here, asked, False], daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asked: threading.Event, asks: bool) -> None:
        """Pass on one way; what comes first after a question waits for the round trip."""
        try:
            while piece := source.recv(2**16):
                if asks:
                    self.requests += len(REQUEST.findall(piece[:8]))
                    asked.set()
                elif asked.is_set():
                    asked.clear()
                    time.sleep(self.round_trip)
                target.sendall(piece)
        except OSError:
            pass
        source.close(), target.close()


@contextmanager
def store(round_trip: float) -> Iterator[Far]:
    with tempfile.TemporaryDirectory() as folder:
        near = Store(Path(folder))
        far = Far(near.port, round_trip)
        cache = {"GPT2_SEARCH_CACHE": f"{folder}/cache", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{far.port}"}
        os.environ |= near.environment | cache
        try:
            yield far
        finally:
            near.stop()


def far_ledger(round_trip: float) -> Figures:
    """Proposals whose ledger is in a store; alone, and each with a report that is on its way."""
    with store(round_trip / 1e3) as far:
        folder = local(f"s3://{BUCKET}/at-once")
        with closing(LargeReports(folder / "ledger.jsonl")) as ledger:
            plan = simulated_options(1000, folder, "--sampler", "random").plan
            ledger.record({"event": "lag", "trials": 1000})
            strategy = Strategy(plan, ledger)
            strategy.next()
            marks = [(time.perf_counter(), far.requests)]
            proposed = [strategy.next() for _ in range(PROPOSALS)]
            marks.append((time.perf_counter(), far.requests))
            for trial in proposed:
                assert isinstance(trial, Trial)
                metrics = curve(trial).metrics[0]
                strategy.report(trial, {"event": "report", "trial": trial.name, "epoch": 1, "metrics": metrics})
                strategy.next()
            marks.append((time.perf_counter(), far.requests))
    (alone, requests), (among, more) = ((b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks))
    return [
        ("a proposal, ms", f"{1e3 * alone / PROPOSALS:.0f}"),
        ("a report and a proposal, ms", f"{1e3 * among / PROPOSALS:.0f}"),
        ("requests a second, at most", f"{requests / alone:.0f}"),
        ("requests for a report and a proposal", f"{more / PROPOSALS:.1f}"),
    ]


# all of them


def _called(name: str, given: Sequence[Any]) -> Figures:
    return getattr(importlib.import_module("tests.benchmarks.at_once"), name)(*given)


def apart(function: Callable[..., Figures], *given: Any) -> dict[str, str]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(_called, (function.__name__, given)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 300], help="simulated: 1000 take three minutes")
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="through Tune: 0.12 GB each; 8 take 40 s")
    parser.add_argument("--groups", type=int, nargs="*", default=[1], help="1 GB each; 1 takes a minute")
    parser.add_argument("--sampler", default="random", help="of the simulated searches")
    parser.add_argument("--round-trip", type=float, default=0, help="milliseconds to the store, which takes 40 s")
    chosen = parser.parse_args()
    ways: list[tuple[str, Sequence[int], Callable[[int], dict[str, str]]]] = [
        ("simulated workers", chosen.workers, lambda size: apart(simulated, size, chosen.sampler)),
        ("through Tune, a process for each trial", chosen.processes, partial(apart, through_tune)),
        ("trials on GPUs, without the worker's training", chosen.groups, partial(apart, groups)),
    ]
    for title, sizes, way in ways:
        if sizes:
            show_by_size(title, {f"{size:,} at once": way(size) for size in sizes})
    if chosen.round_trip:
        show_by_size("a ledger in a store", {f"{chosen.round_trip:g} ms away": apart(far_ledger, chosen.round_trip)})


if __name__ == "__main__":
    main()
