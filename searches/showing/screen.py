"""What a search shows: a line for each event while it runs, and at the end a table made from its summary."""

import math
import time
from typing import Any, Self

import rich.table
from rich.console import Console
from rich.live import Live

from searches.deciding.objectives import Ranking
from searches.deciding.stopping import SCHEDULERS
from searches.formatting import count, point_text
from searches.planning.forecast import trials_of
from searches.planning.plan_table import progress, show_actual
from searches.question import Plan
from searches.running.budget import Budget
from searches.running.events import Ended, Event, GpuPart, Proposed, Reopened, Report, Stopped
from searches.running.ledger import RUNNING, State, Trial
from searches.showing.numbers import number, with_interval, words
from searches.showing.report_tables import COLUMNS, baselines_table, replicates_table, settings_table, trials_table
from searches.showing.tables import Column, Table, on_screen
from searches.summary import Summary

RUNNING_SHOWN = 20  # rows of the live table


class Screen:
    """Listens to a ledger and shows what happens, with what it cost so far and about how long it takes.

    A line for each event; on a terminal, while it is entered, a table of what runs in place of most of them.
    """

    def __init__(self, plan: Plan, console: Console, budget: Budget, state: State) -> None:
        self.plan, self.console, self.budget, self.state = plan, console, budget, state
        self.started = time.monotonic()
        self.ranking = Ranking(plan, state)
        self.live = Live(console=console, get_renderable=self.table, refresh_per_second=1, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print what a person's command has done."""
        self._line("control", text)

    def __call__(self, event: Event, state: State) -> None:
        """Print an event of the ledger."""
        self.ranking(event, state)
        match event:
            case Proposed() | Report() if self.live.is_started:
                pass  # the table shows it
            case Proposed():
                trial = event.trial
                self._line(trial.name, f"starts ({trial.origin}): {point_text(trial.point)}")
            case GpuPart():
                self._line(event.trial, f"{event.reason}: from now on a trial has {event.part:g} of one")
            case Reopened():
                self._line(event.trial, "goes on: the budget is larger")
            case Report():
                self._line(event.trial, self._epoch(event, state))
            case Stopped() if state.trials[event.trial].status != RUNNING:
                self._line(event.trial, f"counts to epoch {event.epoch} alone: {event.reason}")
            case Ended():
                reason = f": {event.reason}" if event.reason else ""
                self._line(event.trial, f"{event.status}{reason}  {self._progress(state)}")

    def table(self) -> rich.table.Table:
        """The trials that run and the best one so far; below, how far the search is."""
        names = list(self.state.clock.running)[:RUNNING_SHOWN]
        shown = [self.state.trials[name] for name in names if name in self.state.trials]  # it may just be noted
        best = next(iter(self.ranking), None)
        seconds = self.state.clock.at(time.time()).trials
        objective, digits = self.plan.objective, self.plan.metric.digits
        columns = [
            Column[Trial](heading="trial", show=lambda trial: trial.name),
            Column[Trial](heading="from", show=lambda trial: trial.origin),
            Column[Trial](heading="point", show=lambda trial: point_text(trial.point)),
            Column[Trial](
                heading="epoch", show=lambda trial: f"{max(trial.reports, default=0)}/{trial.epochs}", number=True
            ),
            Column[Trial](
                heading=f"best {objective}",
                show=lambda trial: number(trial.score(objective, self.plan.direction), digits),
                number=True,
            ),
            Column[Trial](heading="seconds", show=lambda trial: f"{seconds.get(trial.name, 0.0):.0f}", number=True),
        ]
        rows = [*shown, *([best] if best else [])]
        progress = self._progress(self.state)
        return on_screen(Table(title="", columns=columns, rows=rows, note=progress, marked=lambda trial: trial is best))

    def _line(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self.started
        self.console.print(f"{seconds:5.0f}s  {name:<8} {text}", markup=False, highlight=False, soft_wrap=True)

    def _epoch(self, report: Report, state: State) -> str:
        metrics, objective, known = report.metrics, self.plan.objective, self.plan.metrics
        low, high = (metrics.get(f"{objective}_{end}") for end in ("low", "high"))
        score = with_interval(metrics[objective], low, high, self.plan.metric.digits)
        epochs = state.trials[report.trial].epochs
        beside = "".join(
            f", {head} {number(metrics[name], known[name].digits if name in known else digits)}"
            for name, (head, digits) in COLUMNS.items()
            if name in metrics and name != objective
        )
        return f"epoch {report.epoch}/{epochs}: {objective} {score}{beside}"

    def _progress(self, state: State) -> str:
        total = trials_of(self.plan) + len(state.clones) + self.plan.replicates
        done = len(state.trials) - len(state.clock.running)
        return f"({done} of {total} done, {progress(self.plan, self.budget, state, time.time())})"


def show(summary: Summary, console: Console) -> None:
    """Print the tables of a summary, what the search took, and last its answer."""
    answer = summary.answer
    tables: list[Table[Any]] = [
        trials_table(summary, f"{summary.search}: {summary.question}"),
        replicates_table(summary),
        settings_table(answer),
        baselines_table(summary),
    ]
    for place, table in enumerate(tables):
        if table.rows or not place:
            console.print(on_screen(table))
    if summary.pareto:
        against = ", ".join(map(words, summary.costs))
        console.print(f"Front: no trial is better in {summary.objective} and no dearer in {against}", highlight=False)
    counts = ", ".join(f"{value} {words(key)}" for key, value in summary.counts.items() if value)
    console.print(f"{counts}; {summary.wall_seconds:.0f} s", markup=False, highlight=False)
    total = sum(summary.time.values())
    if total:
        shares = ", ".join(f"{part} {100 * seconds / total:.0f}%" for part, seconds in summary.time.items())
        console.print(f"Time of the trials: {shares}", markup=False, highlight=False)
    show_actual(summary, console)
    _line(console, f"Model: {summary.model}")
    _line(console, f"Data: {summary.data.get('data')}")
    _line(console, f"Answer: {answer.text}", style="bold")
    for line in answer.evidence:
        _line(console, line)
    if summary.test:
        _line(console, summary.test.text)
    for note in answer.notes:
        _line(console, f"Note: {note}", style="yellow")


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def objectives_text(plan: Plan) -> str:
    """What is to be large or small, and what must be kept."""
    others = "".join(f", {name} (min)" for name in plan.method.minimize)
    limits = " and ".join(map(str, plan.method.limits))
    return f"Objective: {plan.objective} ({plan.direction}){others}." + (
        f" The winner keeps {limits}." if limits else ""
    )


def show_plan(plan: Plan, resources: str, folder: str, console: Console) -> None:
    """Print what would run."""
    console.print(f"{plan.search.name}: {plan.search.question}", style="bold", markup=False)
    roles = {key: "scientific" if key in plan.search.scientific else "nuisance" for key in plan.space}
    searched = [(key, roles[key], str(domain)) for key, domain in plan.space.items()]
    fixed = [(key, "fixed", str(value)) for key, value in plan.fixed.items()]
    columns = [
        Column[tuple[str, str, str]](heading="key", show=lambda row: row[0]),
        Column[tuple[str, str, str]](heading="role", show=lambda row: row[1]),
        Column[tuple[str, str, str]](heading="values", show=lambda row: row[2]),
    ]
    console.print(on_screen(Table(title="", columns=columns, rows=[*searched, *fixed])))
    if plan.search.learns_from_pairs:
        sizes = ", ".join(f"{key} {value}" for key, value in plan.profile.candidates.items())
        _line(console, f"First, pairs are generated into {plan.fixed['pairs']}, a set for each temperature: {sizes}.")
    for line in (searched_text(plan), compared_text(plan), objectives_text(plan), resources):
        _line(console, line)
    _line(console, f"Results go to {folder}. Nothing was started.")
    for place, point in enumerate(plan.known_points()):
        origin = plan.origin(place, point)
        _line(console, f"  {place:04d} {origin}: {point_text(point)}")


def searched_text(plan: Plan) -> str:
    """Which trials there are, and how they are stopped."""
    each = f" ({plan.per_view} for each of {len(plan.views)} values of {plan.factor_name})" if plan.balanced else ""
    origins = [plan.origin(place, point) for place, point in enumerate(plan.known_points())]
    default = f"its settings with each other value of {plan.factor_name}, " if "default" in origins else ""
    study = f"{count(origins.count('study'), 'point')} of the study, " if "study" in origins else ""
    return (
        f"{count(plan.trials, 'trial')}{each} of at most {count(plan.epochs, 'epoch')}: the reference, {default}{study}"
        f"then those of {plan.method.sampler}; "
        f"{SCHEDULERS[plan.method.scheduler].words.format(plan.grace)}."
    )


def compared_text(plan: Plan) -> str:
    """Which settings run again on how many fresh seeds, and what counts as a difference."""
    if plan.design is None:
        return "Nothing runs again on fresh seeds, so nothing is decided."
    best = "trial runs" if plan.compared == 2 else f"{plan.compared - 1} trials run"
    who = f"the best trial of each value of {plan.factor_name} runs" if plan.compares_each else f"the best {best}"
    beside = "" if plan.compares_each else ", and so does the reference"
    looks = plan.design.looks
    seeds = (
        f"{looks[0]} to {looks[-1]} fresh seeds each, until it is decided"
        if len(looks) > 1
        else (f"{count(looks[0], 'fresh seed')} each")
    )
    margin = f"{number(plan.margin, plan.metric.digits)} {plan.metric.unit}".strip()
    judged = f"Then {who} again, on {seeds}{beside}; they are judged on {plan.comparing.words}."
    return f"{judged} A difference below {margin} is taken not to matter. {_seen_text(plan, looks[-1])}".rstrip()


def _seen_text(plan: Plan, seeds: int) -> str:
    """What so many seeds can see."""
    from gpt2core.metrics.comparison import LEAST  # SciPy takes half a second to import: not for --help
    from searches.deciding.decision import detectable

    if seeds < LEAST:
        return f"Fewer than {LEAST} seeds name no winner."
    pairs = math.comb(plan.compared, 2) if plan.compares_each else plan.compared - 1
    sds = detectable(1.0, seeds, pairs=pairs)
    return f"With {seeds} seeds, a difference of {sds:.1f} standard deviations of a run is seen in 80% of cases."
