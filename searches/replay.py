"""Replay recorded learning curves under any sampler and scheduler: `python -m searches.replay RECORD ...`.

A record is the learning curves of a search that stopped nothing: the folder of its results, or a file that --save made of it. A
configuration that is proposed and is not in the record is taken for the nearest one that is. Nothing is trained, so methods are
compared over many seeds in seconds: by the compute that each needs to find what random search finds with all of its own. That
is asked twice: for just the same score, and for one that the dev split cannot tell from it.
"""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress
from rich.table import Table
from scipy.stats import t as student

from gpt2core.checkpoints import STATE
from gpt2core.cli import Parser, at_least, run_or_explain
from gpt2core.component import lookup
from gpt2core.config import RunConfig
from gpt2core.console import console as console_of
from gpt2core.errors import ConfigError, DataError, UserError, first_line
from gpt2core.files import broken_rule, read_json, write_json
from gpt2core.metrics.comparison import runs_of
from gpt2core.metrics.counts import from_json
from gpt2core.metrics.metric import Metric
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import objective_of
from searches.deciding.comparing import Comparing
from searches.deciding.method import Method
from searches.deciding.replay_backend import Course, Curve, Curves, MemoryLedger, ReplayBackend
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.deciding.strategy import Strategy
from searches.question import Choice, LogUniform, Plan, Point, Space, make_plan, search_of
from searches.running.ledger import Trial

REPLAYED = ("asha", "none")  # not pbt: the trials of a population go on from each other's weights
MORE = 5  # times the trials of random search that a method may start, as long as its compute lasts


@dataclass(frozen=True, kw_only=True)
class Record:
    """Learning curves of a search: of which, on which task, for how many epochs, and what the model and the data were.

    Two good scores that are `margin` apart are just so far apart that a paired test on the dev split tells one from the other.
    """

    search: str
    task: str
    objective: str
    epochs: int
    model: str
    data: str
    margin: float
    points: Sequence[dict[str, Any]]
    curves: Sequence[Curve]

    def plan(self, method: Method, *, trials: int, seed: int, grace: int | None = None) -> Plan:
        """The plan of a search like it over its whole space, which confirms nothing and begins with the reference alone: known
        points are the same for each method, and say nothing of it."""
        search = search_of(self.search)
        settings_of = lookup(search.tasks, self.task, "task")
        search = replace(search, factor=(), tasks={self.task: replace(settings_of, study=())})
        settings = {"task": self.task, "epochs": self.epochs}
        return make_plan(
            search,
            "quick",
            settings=settings,
            seed=seed,
            method=method,
            comparing=Comparing(objective=self.objective),
            trials=trials,
            replicates=0,
            grace=grace,
        )

    def nearest(self, plan: Plan) -> Curves:
        """The curve of a trial: that of the recorded point that is nearest where each side of the space has length 1."""
        try:
            recorded = np.array([_placed(point, plan.space) for point in self.points])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"A point of the record is not of the space of {self.search} ({first_line(error)})"
            ) from None
        known: dict[str, Curve] = {}

        def of(trial: Trial) -> Curve:
            if trial.name not in known:
                distances = np.abs(recorded - _placed(trial.point, plan.space)).sum(axis=1)
                known[trial.name] = self.curves[int(distances.argmin())]
            return known[trial.name]

        return of


def _placed(point: Point, space: Space) -> list[float]:
    """Where a point is: numbers from 0 to 1; two points that differ in a choice are 1 apart."""
    place: list[float] = []
    for key, domain in space.items():
        if isinstance(domain, Choice):
            place += [0.5 * (point[key] == value) for value in domain.values]
        elif isinstance(domain, LogUniform):
            place.append(math.log(point[key] / domain.low) / math.log(domain.high / domain.low))
        else:
            place.append((point[key] - domain.low) / (domain.high - domain.low))
    return place


def read(path: Path) -> Record:
    """Read a record: the folder of a search, or a file of `save`. Raises DataError."""
    try:
        if path.is_dir():
            return _of_search(path)
        return _checked(read_json(path))
    except (OSError, UserError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = broken_rule(error) if isinstance(error, ValidationError) else first_line(error)
        raise DataError(
            f"{path}: is no record of learning curves ({why}); give the folder of a search, runs/searches/NAME, "
            "or a file that --save made"
        ) from None


def _checked(values: dict[str, Any]) -> Record:
    """The record of these values; raise an error of any kind where they are none that a search could have made."""
    record = TypeAdapter(Record).validate_python(values)
    whole = all(len(curve.metrics) == len(curve.seconds) == record.epochs for curve in record.curves)
    if not whole or not record.curves or len(record.points) != len(record.curves):
        raise ValueError(f"there must be as many points as curves, each of {record.epochs} epochs")
    if not all(record.objective in metrics for curve in record.curves for metrics in curve.metrics):
        raise ValueError(f"an epoch has no {record.objective}")
    if not all(0 < seconds < math.inf for curve in record.curves for seconds in curve.seconds):
        raise ValueError("an epoch took no time that there can be")
    return record


def _of_search(folder: Path) -> Record:
    summary = read_json(folder / "summary.json")
    rows = [row for row in summary["trials"] if row["of"] is None and row["parent"] is None]
    epochs = max(len(row["curve"]) for row in rows)
    whole = [row for row in rows if len(row["curve"]) == epochs]
    if len(whole) < len(rows) / 2:
        raise ValueError(f"only {len(whole)} of {len(rows)} trials ran to epoch {epochs}: record with --scheduler none")
    curves = []
    for row in whole:
        seconds = [epoch.get("train_seconds", 0.0) + epoch.get("eval_seconds", 0.0) for epoch in row["curve"]]
        curves.append(
            Curve(metrics=[{summary["objective"]: e[summary["objective"]]} for e in row["curve"]], seconds=seconds)
        )
    config = whole[0]["config"]
    found = {
        "search": summary["script"],
        "task": config["task"],
        "objective": summary["objective"],
        "epochs": epochs,
        "model": config["model"],
        "data": str(summary["data"].get("data", "")),
        "margin": _margin(folder, whole, RunConfig.of(config)),
        "points": [row["point"] for row in whole],
        "curves": [vars(curve) for curve in curves],
    }
    return _checked(found)


def _margin(folder: Path, rows: Sequence[dict[str, Any]], run: RunConfig) -> float:
    """Half the width of the 95% interval, over texts, of a difference between the best trial and another of the best quarter: the
    median."""
    metric = objective_of(TASKS[run.task], run)
    scored = [row for row in rows if row["score"] is not None]
    ranked = metric.direction.ranked(scored, key=lambda row: float(row["score"]))
    best, *others = (_influence(folder / "trials" / row["id"], metric) for row in ranked[: 2 + len(ranked) // 4])
    reach = [student.ppf(0.975, len(best) - 1) * (best - other).std(ddof=1) / math.sqrt(len(best)) for other in others]
    if not reach:
        raise ValueError("only one trial has a score")
    return float(np.median(reach))


def _influence(trial: Path, metric: Metric) -> np.ndarray:
    """What each dev example (N,) adds to the score of a trial's best epoch."""
    state = read_json(trial / "best" / STATE)
    statistics = from_json(state["history"][-1]["statistics"])
    found = None
    if metric.counts is not None and metric.score is not None:
        counts = statistics[metric.counts].astype(np.float64).sum(axis=0)
        found = runs_of(counts[None], metric.score).influence
    if found is None:
        raise ValueError(f"{metric.name} is no sum over examples")
    return found


def save(record: Record, path: Path) -> None:
    """Write a record to a file that `read` takes."""
    write_json(path, {**vars(record), "curves": [vars(curve) for curve in record.curves]})


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a method needed, over seeds, in units of all of random search's compute: median, and 95% of the seeds."""

    median: float
    low: float
    high: float
    reached: int  # seeds on which it came there
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a method needed on a record: for what random search finds, and for what cannot be told from it."""

    record: str
    method: str
    same: Share
    alike: Share


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A sampler, a scheduler, and the first epoch at which it may stop a trial (None: as the search has it)."""

    method: Method
    grace: int | None = None

    def __str__(self) -> str:
        grace = "" if self.grace is None or self.method.scheduler == "none" else f" from epoch {self.grace}"
        return f"{self.method.sampler}, {self.method.scheduler}{grace}"


RANDOM = Contender(method=Method(sampler="random", scheduler="none"))


def compare(
    record: Record,
    contenders: Sequence[Contender],
    *,
    seeds: int,
    workers: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """How much of random search's compute each contender needs to find what random search finds (the median of its seeds)."""
    trials = len(record.points)

    def course(contender: Contender, seed: int, trials: int, budget: float = math.inf) -> Course:
        plan = record.plan(contender.method, trials=trials, seed=seed, grace=contender.grace)
        strategy = Strategy(plan, MemoryLedger())
        progress()
        return ReplayBackend(record.nearest(plan), workers=workers, budget=budget).run(strategy)

    baseline = [course(RANDOM, seed, trials) for seed in range(seeds)]
    sign = record.plan(RANDOM.method, trials=trials, seed=0).direction.sign
    target = float(np.median([found.best[-1] for found in baseline]))
    whole = float(np.median([found.spent[-1] for found in baseline]))
    rows = []
    for contender in contenders:
        courses = [course(contender, seed, MORE * trials, whole) for seed in range(seeds)]
        same, alike = (
            _share([found.needed(score, sign) / whole for found in courses])
            for score in (target, target - sign * record.margin)
        )
        rows.append(Row(record=f"{record.search}, {record.task}", method=str(contender), same=same, alike=alike))
    return rows


def _share(needed: Sequence[float]) -> Share:
    low, median, high = np.quantile(np.minimum(needed, 1.0), [0.025, 0.5, 0.975], method="closest_observation")
    reached = int(np.isfinite(needed).sum())
    return Share(median=float(median), low=float(low), high=float(high), reached=reached, seeds=len(needed))


def table(rows: Sequence[Row]) -> Table:
    """Shares, for the screen."""
    title = "Share of random search's compute to find what it finds with all of it: median [95% of seeds], seeds that found it"
    shown = Table(title=title, title_justify="left", header_style="bold")
    shown.add_column("record")
    shown.add_column("method")
    shown.add_column("the same score", justify="right")
    shown.add_column("one that dev cannot tell from it", justify="right")
    for row in rows:
        shown.add_row(row.record, row.method, *map(_share_text, (row.same, row.alike)))
    return shown


def _share_text(share: Share) -> str:
    median, low, high = (f"{value:.3f}" if value < 1 else ">1" for value in (share.median, share.low, share.high))
    return f"{median} [{low}, {high}], {share.reached} of {share.seeds}"


def parser() -> Parser:
    """Return the parser."""
    p = Parser(prog="python -m searches.replay", description=(__doc__ or "").split("\n")[0])
    p.add_argument(
        "records", nargs="+", metavar="RECORD", help="folder of a search (runs/searches/NAME), or a saved file"
    )
    p.add_argument("--samplers", default="random,tpe", help=f"with commas between: {', '.join(SAMPLERS)}")
    p.add_argument("--schedulers", default="none,asha", help=f"with commas between: {', '.join(REPLAYED)}")
    p.add_argument("--graces", default="", help="with commas between: first epochs at which asha may stop a trial")
    p.add_argument("--seeds", type=int, default=20, help="searches of each method (default: 20)")
    p.add_argument("--workers", type=int, default=4, help="trials at once (default: 4)")
    p.add_argument("--save", metavar="FILE", help="write the record to a file, and replay nothing")
    return p


def contenders(samplers: Sequence[str], schedulers: Sequence[str], graces: Sequence[str]) -> list[Contender]:
    """All combinations. Raises UnknownNameError, ConfigError."""
    for name in samplers:
        lookup(SAMPLERS, name, "sampler")
    for name in schedulers:
        lookup({key: SCHEDULERS[key] for key in REPLAYED}, name, "scheduler that can be replayed")
    if not all(grace.isdecimal() and int(grace) for grace in graces):
        raise ConfigError(
            f"The value of `--graces` is {','.join(graces)!r}, but must be epochs with commas between, each >= 1"
        )
    pairs = [Method(sampler=sampler, scheduler=name) for sampler, name in itertools.product(samplers, schedulers)]
    from_epochs: list[int | None] = [int(grace) for grace in graces] or [None]
    return [
        Contender(method=method, grace=grace)
        for method in pairs
        for grace in (from_epochs if method.scheduler == "asha" else [None])
    ]


def run(argv: Sequence[str] | None = None) -> int:
    """Save a record, or replay and print the table."""
    o = parser().parse(argv)
    at_least(o, 1, "seeds", "workers")
    records = [read(Path(name)) for name in o.records]
    if o.save:
        save(records[0], Path(o.save))
        print(f"{len(records[0].points)} learning curves are in {o.save}")
        return 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = contenders(o.samplers.split(","), o.schedulers.split(","), o.graces.split(",") if o.graces else [])
    console = console_of(160)
    rows = []
    with Progress(console=console, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("searches", total=len(records) * o.seeds * (1 + len(asked)))
        for record in records:
            rows += compare(record, asked, seeds=o.seeds, workers=o.workers, progress=lambda: bar.advance(task))
    console.print(table(rows))
    return 0


if __name__ == "__main__":
    run_or_explain(run, "")
