"""Replay recorded learning curves under any sampler and scheduler: `gpt2-search replay RECORD ...`.

A record holds the learning curves of a search without early stopping: its results folder, or a file written by --save. A proposed
configuration gets the curve of the nearest recorded one. Nothing is trained, so comparing methods over many seeds takes seconds:
by the compute that each needs to reach the final score of random search, or a score that the dev split cannot tell from it.
"""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import optuna
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress
from scipy.stats import t as student

from gpt2core.checkpoints.layout import BEST, STATE
from gpt2core.cli import Parser, at_least, run_or_explain
from gpt2core.component import lookup
from gpt2core.config import OWN_TASKS, RunConfig
from gpt2core.console import console as console_of
from gpt2core.errors import ConfigError, DataError, UserError, first_line
from gpt2core.files import broken_rule, read_json, write_json
from gpt2core.metrics.metric import Metric
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import objective_of
from searches.deciding.comparing import Comparing
from searches.deciding.confirmation import runs_of_metric
from searches.deciding.method import Method
from searches.deciding.replay_backend import Course, Curve, Curves, MemoryLedger, ReplayBackend
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.deciding.strategy import Strategy
from searches.domains import Choice, Space
from searches.plan import Plan, make_plan
from searches.question import Point, Search, on_own_data, search_of
from searches.result_files import LEDGER, SUMMARY, TRIALS
from searches.running.events import Scores
from searches.running.ledger import Trial, read_state
from searches.search_file import stated_by
from searches.showing.tables import Column, Table, print_table
from searches.summary import Summary, TrialRow

REPLAYED = ("asha", "none")  # not pbt, whose trials continue from each other's weights
MORE = 5  # a method may start MORE times as many trials as random search, within the same compute


@dataclass(frozen=True, kw_only=True)
class Record:
    """The learning curves of a search.

    `margin` is the smallest difference between two good scores that a paired test on the dev split detects.
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
    definition: dict[str, Any] = field(
        default_factory=dict
    )  # of the search, as in a TOML file; without it, `search` is a script

    @cached_property
    def stated(self) -> Search:
        """The search, about the user's own data if it was. Raises UserError."""
        search = stated_by(self.definition, self.search) if self.definition else search_of(self.search)
        return on_own_data(search, self.task, self.data) if self.task in OWN_TASKS else search

    def plan(self, method: Method, *, trials: int, seed: int, grace: int | None = None) -> Plan:
        """Return the plan of a search over the whole space, without replicates or known points, which would hide the method."""
        search = self.stated
        case = lookup(search.tasks, self.task, "task")
        return make_plan(
            replace(search, factor=(), tasks={self.task: case.but(study=())}),
            next(iter(search.profiles)),
            settings={"task": self.task, "epochs": self.epochs},
            seed=seed,
            method=method,
            comparing=Comparing(objective=self.objective),
            trials=trials,
            replicates=0,
            grace=grace,
        )

    def nearest(self, plan: Plan) -> Curves:
        """Return a function from a trial to the curve of the nearest recorded point, by L1 distance in the unit cube."""
        try:
            recorded = np.array([_unit_cube(point, plan.space) for point in self.points])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise DataError(f"A recorded point is outside the space of {self.search} ({first_line(error)})") from None
        known: dict[str, Curve] = {}

        def curve_of(trial: Trial) -> Curve:
            if trial.name not in known:
                distances = np.abs(recorded - _unit_cube(trial.point, plan.space)).sum(axis=1)
                known[trial.name] = self.curves[int(distances.argmin())]
            return known[trial.name]

        return curve_of


def _unit_cube(point: Point, space: Space) -> list[float]:
    """Return a point as numbers from 0 to 1; points that differ in a choice are 1 apart."""
    coordinates: list[float] = []
    for key, domain in space.items():
        if isinstance(domain, Choice):
            coordinates += [0.5 * (key in point and point[key] == value) for value in domain.values]
        elif key not in point:  # its run does not read it
            coordinates.append(0.5)
        else:
            coordinates.append(domain.share(point[key]))
    return coordinates


def read(path: Path) -> Record:
    """Read a record from the results folder of a search, or from a file of `save`. Raises DataError."""
    try:
        record = _of_search(path) if path.is_dir() else TypeAdapter(Record).validate_python(read_json(path))
        _check(record)
    except (OSError, UserError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = broken_rule(error) if isinstance(error, ValidationError) else first_line(error)
        if isinstance(error, FileNotFoundError):
            reason = "there is no such file or folder"
        raise DataError(
            f"{path}: is no record of learning curves ({reason}); give the folder of a search, runs/searches/NAME, "
            "or a file that --save made"
        ) from None
    return record


def _check(record: Record) -> None:
    """Raise ValueError if no search could have recorded this."""
    complete = all(len(curve.metrics) == len(curve.seconds) == record.epochs for curve in record.curves)
    if not complete or not record.curves or len(record.points) != len(record.curves):
        raise ValueError(f"there must be as many points as curves, each of {record.epochs} epochs")
    if not all(record.objective in metrics for curve in record.curves for metrics in curve.metrics):
        raise ValueError(f"an epoch has no {record.objective}")
    if not all(0 < seconds < math.inf for curve in record.curves for seconds in curve.seconds):
        raise ValueError("the seconds of an epoch are not positive and finite")


def _of_search(folder: Path) -> Record:
    summary = Summary.model_validate(read_json(folder / SUMMARY))
    trials = [row for row in summary.searched if row.parent is None]
    epochs = max(len(row.curve) for row in trials)
    complete = [row for row in trials if len(row.curve) == epochs]
    if len(complete) < len(trials) / 2:
        raise ValueError(
            f"only {len(complete)} of {len(trials)} trials ran to epoch {epochs}: record with --scheduler none"
        )
    if "command" in complete[0].config:
        raise ValueError("its trials ran a program, which tells no scores of single texts to compare methods by")
    config = RunConfig.of(complete[0].config)
    ledger = folder / LEDGER
    return Record(
        search=summary.script,
        task=config.task,
        objective=summary.objective,
        epochs=epochs,
        model=config.model,
        data=summary.data.get("data", ""),
        margin=_margin(folder, complete, objective_of(TASKS[config.task], config)),
        points=[row.point for row in complete],
        curves=[
            Curve(
                metrics=[{summary.objective: float(epoch[summary.objective])} for epoch in row.curve],
                seconds=[float(epoch.get("train_seconds", 0) + epoch.get("eval_seconds", 0)) for epoch in row.curve],
            )
            for row in complete
        ],
        definition=read_state(ledger).definition if ledger.is_file() else {},
    )


def _margin(folder: Path, trials: Sequence[TrialRow], metric: Metric) -> float:
    """Return the median half-width, over texts, of the 95% interval of the difference between the best trial and each other one
    of the best quarter."""
    scored = [row for row in trials if row.score is not None]
    ranked = metric.direction.ranked(scored, key=lambda row: row.score or 0.0)
    best, *others = (_influence(folder, row.id, metric) for row in ranked[: 2 + len(ranked) // 4])
    if not others:
        raise ValueError("only one trial has a score")
    half_width = student.ppf(0.975, len(best) - 1) / math.sqrt(len(best))
    return float(np.median([half_width * (best - other).std(ddof=1) for other in others]))


def _influence(folder: Path, trial: str, metric: Metric) -> np.ndarray:
    """Return the contribution of each dev example (N,) to the score of a trial's best epoch."""
    state = read_json(folder / TRIALS / trial / BEST / STATE)
    runs = runs_of_metric([Scores(trial=trial, statistics=state["history"][-1]["statistics"])], metric)
    if runs is None or runs.influence is None:
        raise ValueError(f"{metric.name} is not a mean over examples")
    return runs.influence


def save(record: Record, path: Path) -> None:
    """Write a record to a file that `read` reads."""
    write_json(path, asdict(record))


@dataclass(frozen=True, kw_only=True)
class Share:
    """Median and 95% range, over seeds, of the share of random search's compute that a method needed (infinite: not reached)."""

    median: float
    low: float
    high: float
    reached: int  # seeds that reached the score
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's results on a record: to reach random search's final score, and one that the dev split cannot tell from it."""

    record: str
    method: str
    same: Share
    alike: Share


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A sampler, a scheduler, and the first epoch at which it may stop a trial (None: the search's default)."""

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
    """Measure each contender's share of random search's compute to reach random search's median final score."""
    trials = len(record.points)

    def simulate(contender: Contender, seed: int, trials: int, budget: float = math.inf) -> Course:
        plan = record.plan(contender.method, trials=trials, seed=seed, grace=contender.grace)
        strategy = Strategy(plan, MemoryLedger())
        progress()
        return ReplayBackend(record.nearest(plan), workers=workers, budget=budget).run(strategy)

    baseline = [simulate(RANDOM, seed, trials) for seed in range(seeds)]
    sign = record.plan(RANDOM.method, trials=trials, seed=0).direction.sign
    target = float(np.median([course.best[-1] for course in baseline]))
    whole = float(np.median([course.spent[-1] for course in baseline]))
    rows = []
    for contender in contenders:
        courses = [simulate(contender, seed, MORE * trials, whole) for seed in range(seeds)]
        same, alike = (
            _share([course.needed(score, sign) / whole for course in courses])
            for score in (target, target - sign * record.margin)
        )
        rows.append(Row(record=f"{record.search}, {record.task}", method=str(contender), same=same, alike=alike))
    return rows


def _share(needed: Sequence[float]) -> Share:
    low, median, high = np.quantile(needed, [0.025, 0.5, 0.975], method="closest_observation")
    reached = int(np.isfinite(needed).sum())
    return Share(median=float(median), low=float(low), high=float(high), reached=reached, seeds=len(needed))


def table(rows: Sequence[Row]) -> Table[Row]:
    """Return a table of the shares."""
    columns: list[Column[Row]] = [
        Column("record", lambda row: row.record),
        Column("method", lambda row: row.method),
        Column("same score", lambda row: _share_text(row.same), number=True),
        Column("score that dev cannot tell from it", lambda row: _share_text(row.alike), number=True),
    ]
    title = (
        "Share of random search's compute needed to reach its final score: median [95% of seeds], seeds that reached it"
    )
    return Table(title=title, columns=columns, rows=rows)


def _share_text(share: Share) -> str:
    median, low, high = (f"{value:.3f}" if value <= 1 else ">1" for value in (share.median, share.low, share.high))
    return f"{median} [{low}, {high}], {share.reached} of {share.seeds}"


def parser() -> Parser:
    """Return the parser."""
    p = Parser(prog="gpt2-search replay", description=(__doc__ or "").split("\n")[0])
    p.add_argument(
        "records", nargs="+", metavar="RECORD", help="folder of a search (runs/searches/NAME), or a saved file"
    )
    p.add_argument("--samplers", default="random,tpe", help=f"comma-separated: {', '.join(SAMPLERS)}")
    p.add_argument("--schedulers", default="none,asha", help=f"comma-separated: {', '.join(REPLAYED)}")
    p.add_argument("--graces", help="comma-separated: first epochs at which asha may stop a trial")
    p.add_argument("--seeds", type=int, default=20, help="searches per method (default: 20)")
    p.add_argument("--workers", type=int, default=4, help="trials at once (default: 4)")
    p.add_argument("--save", metavar="FILE", help="write the first record to a file; replay nothing")
    return p


def contenders(samplers: Sequence[str], schedulers: Sequence[str], graces: Sequence[str]) -> list[Contender]:
    """Return all combinations. Raises UnknownNameError, ConfigError."""
    for name in samplers:
        lookup(SAMPLERS, name, "sampler")
    for name in schedulers:
        lookup({key: SCHEDULERS[key] for key in REPLAYED}, name, "scheduler that can be replayed")
    if not all(grace.isdecimal() and int(grace) for grace in graces):
        raise ConfigError(f"The value of `--graces` is {','.join(graces)!r}, but must be comma-separated epochs >= 1")
    epochs: list[int | None] = [int(grace) for grace in graces] or [None]
    return [
        Contender(method=Method(sampler=sampler, scheduler=scheduler), grace=grace)
        for sampler, scheduler in itertools.product(samplers, schedulers)
        for grace in (epochs if scheduler == "asha" else [None])
    ]


def run(argv: Sequence[str] | None = None) -> int:
    """Save a record, or replay and print the table."""
    o = parser().parse(argv)
    at_least(o, 1, "seeds", "workers")
    records = [read(Path(name)) for name in o.records]
    if o.save:
        save(records[0], Path(o.save))
        print(f"Saved {len(records[0].points)} learning curves in {o.save}")
        return 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = contenders(o.samplers.split(","), o.schedulers.split(","), o.graces.split(",") if o.graces else [])
    console = console_of(160)
    rows = []
    with Progress(console=console, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("searches", total=len(records) * o.seeds * (1 + len(chosen)))
        for record in records:
            rows += compare(record, chosen, seeds=o.seeds, workers=o.workers, progress=lambda: bar.advance(task))
    print_table(console, table(rows))
    return 0


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run from the command line and exit."""
    run_or_explain(lambda: run(argv), "")


if __name__ == "__main__":
    main()
