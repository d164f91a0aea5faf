"""The screen: the plan before a search, a line for each event while it runs, and the results at its end."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Self

import rich.table
from rich.console import Console
from rich.live import Live

from searches.deciding.objectives import Ranking
from searches.deciding.stopping import SCHEDULERS
from searches.formatting import count, number, point_text, value_text, with_interval, words
from searches.plan import WARM_START, Plan
from searches.planning.plan_table import progress_text, show_actual
from searches.running.budget import Budget
from searches.running.events import Ended, Event, GpuPart, Proposed, Reopened, Report, Stopped
from searches.running.ledger import RUNNING, State, Trial
from searches.showing.report_tables import COLUMNS, baselines_table, replicates_table, settings_table, trials_table
from searches.showing.tables import Column, Table, on_screen
from searches.summary import Summary
from searches.warm_start import source_text

RUNNING_SHOWN = 20  # rows of the live table


class Screen:
    """Ledger listener that prints a line for each event, with the cost so far and the time left.

    On a terminal, inside `with`, a live table of the running trials replaces most lines.
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
        """Print a message about the control of the search."""
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
                self._line(event.trial, f"{event.reason}; from now on each trial gets {event.part:g} of a GPU")
            case Reopened():
                self._line(event.trial, "continues, because the budget is larger")
            case Report():
                self._line(event.trial, self._epoch(event, state))
            case Stopped() if state.trials[event.trial].status != RUNNING:
                self._line(event.trial, f"pruned retroactively at epoch {event.epoch}: {event.reason}")
            case Ended():
                reason = f": {event.reason}" if event.reason else ""
                self._line(event.trial, f"{event.status}{reason}  {self._progress(state)}")

    def table(self) -> rich.table.Table:
        """Return the running trials, the best trial so far and, below, the progress of the search."""
        names = list(self.state.clock.running)[:RUNNING_SHOWN]
        running = [self.state.trials[name] for name in names if name in self.state.trials]  # another thread adds both
        best = next(iter(self.ranking), None)
        seconds = self.state.clock.at(time.time()).trials
        objective, direction, digits = self.plan.objective, self.plan.direction, self.plan.metric.digits
        columns: list[Column[Trial]] = [
            Column("trial", lambda trial: trial.name),
            Column("origin", lambda trial: trial.origin),
            Column("point", lambda trial: point_text(trial.point)),
            Column("epoch", lambda trial: f"{max(trial.reports, default=0)}/{trial.epochs}", number=True),
            Column(f"best {objective}", lambda trial: number(trial.score(objective, direction), digits), number=True),
            Column("seconds", lambda trial: f"{seconds.get(trial.name, 0.0):.0f}", number=True),
        ]
        rows = [*running, *([best] if best else [])]
        note = self._progress(self.state)
        return on_screen(Table(title="", columns=columns, rows=rows, note=note, marked=lambda trial: trial is best))

    def _line(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self.started
        print_line(self.console, f"{seconds:5.0f}s  {name:<8} {text}")

    def _epoch(self, report: Report, state: State) -> str:
        metrics, objective, known = report.metrics, self.plan.objective, self.plan.metrics
        low, high = (metrics.get(f"{objective}_{end}") for end in ("low", "high"))
        score = with_interval(metrics[objective], low, high, self.plan.metric.digits)
        others = "".join(
            f", {heading} {number(metrics[name], known[name].digits if name in known else digits)}"
            for name, (heading, digits) in COLUMNS.items()
            if name in metrics and name != objective
        )
        return f"epoch {report.epoch}/{state.trials[report.trial].epochs}: {objective} {score}{others}"

    def _progress(self, state: State) -> str:
        return progress_text(self.plan, self.budget, state, time.time())


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Print a text without markup, highlighting or hard line breaks."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def waiting_for(console: Console, what: str) -> Iterator[None]:
    """Say what takes seconds: on a terminal with a spinner that vanishes, elsewhere in a line."""
    if not console.is_terminal:
        print_line(console, f"{what} ...")
    with console.status(what):
        yield


def show(summary: Summary, console: Console) -> None:
    """Print the tables of a summary, the cost of the search and, last, its answer."""
    answer = summary.answer
    tables: list[Table[Any]] = [
        trials_table(summary, f"{summary.search}: {summary.question}"),
        replicates_table(summary),
        settings_table(summary),
        baselines_table(summary),
    ]
    for place, table in enumerate(tables):
        if table.rows or not place:
            console.print(on_screen(table))
    if summary.pareto:
        costs = ", ".join(map(words, summary.costs))
        print_line(console, f"Pareto front of {summary.objective} against {costs}: the trials that no other dominates")
    if summary.warm_start:
        print_line(console, summary.warm_start.text)
    counts = ", ".join(f"{value} {words(key)}" for key, value in summary.counts.items() if value)
    print_line(console, f"{counts}; {summary.wall_seconds:.0f} s")
    total = sum(summary.time.values())
    if total:
        shares = ", ".join(f"{part} {100 * seconds / total:.0f}%" for part, seconds in summary.time.items())
        print_line(console, f"Time of the trials: {shares}")
    show_actual(summary, console)
    print_line(console, f"Model: {summary.model}")
    print_line(console, f"Data: {summary.data.get('data')}")
    print_line(console, f"Answer: {answer.text}", style="bold")
    for line in (*answer.evidence, *([summary.test.text] if summary.test else [])):
        print_line(console, line)
    for note in answer.notes:
        print_line(console, f"Note: {note}", style="yellow")


def show_plan(plan: Plan, resources: str, folder: str, console: Console) -> None:
    """Print what would run."""
    console.print(f"{plan.search.name}: {plan.search.question}", style="bold", markup=False)
    console.print(on_screen(keys_table(plan)))
    if plan.search.learns_from_pairs:
        sizes = ", ".join(f"{key} {value}" for key, value in plan.profile.candidates.items())
        print_line(
            console, f"First, a set of pairs is generated for each temperature in {plan.fixed['pairs']}: {sizes}."
        )
    for line in (*plan_texts(plan), resources):
        print_line(console, line)
    for line in warm_start_texts(plan):
        print_line(console, line)
    print_line(console, f"Results go to {folder}. Nothing was started.")
    for place, point in enumerate(plan.known_points()):
        print_line(console, f"  {place:04d} {plan.origin(place, point)}: {point_text(point)}")


def keys_table(plan: Plan) -> Table[tuple[str, str, str]]:
    """Return the searched and the fixed keys of a plan, each with its role and its values."""
    roles = {key: "scientific" if key in plan.search.scientific else "nuisance" for key in plan.space}
    searched = [(key, roles[key], plan.domain_text(key)) for key in plan.space]
    fixed = [(key, "fixed", value_text(value)) for key, value in plan.fixed.items()]
    columns: list[Column[tuple[str, str, str]]] = [
        Column(heading, itemgetter(place)) for place, heading in enumerate(("key", "role", "values"))
    ]
    return Table(title="", columns=columns, rows=[*searched, *fixed])


def plan_texts(plan: Plan) -> list[str]:
    """Return in sentences what runs, what is compared, and by which metric."""
    return [searched_text(plan), compared_text(plan), objectives_text(plan)]


def objectives_text(plan: Plan) -> str:
    """Return the objectives and constraints in a sentence."""
    others = "".join(f", {name} (min)" for name in plan.method.minimize)
    limits = " and ".join(map(str, plan.method.limits))
    winner = f" The winner must keep {limits}." if limits else ""
    return f"Objective: {plan.objective} ({plan.direction}){others}.{winner}"


def searched_text(plan: Plan) -> str:
    """Return in a sentence which trials run and how they are stopped early."""
    each = f" ({plan.per_view} for each of {len(plan.views)} values of {plan.factor_name})" if plan.balanced else ""
    origins = [plan.origin(place, point) for place, point in enumerate(plan.known_points())]
    default = f"its settings with each other value of {plan.factor_name}, " if "default" in origins else ""
    warm = f"{count(origins.count(WARM_START), 'point')} of earlier searches, " if WARM_START in origins else ""
    study = f"{count(origins.count('study'), 'point')} of the study, " if "study" in origins else ""
    rule = SCHEDULERS[plan.method.scheduler if plan.epochs > 1 else "none"]
    return (
        f"{count(plan.trials, 'trial')}{each} of at most {count(plan.epochs, 'epoch')}: the reference, {default}{warm}{study}"
        f"then proposals of {plan.method.sampler}; {rule.words.format(plan.grace)}."
    )


def warm_start_texts(plan: Plan) -> list[str]:
    """Return which points of earlier searches are tried, and what of them was changed."""
    lines = []
    for start in plan.warm_start:
        trials = ", ".join(start.trials)
        lines.append(f"Warm start: the settings of {trials}, the best trials of {source_text(start)}, are tried first")
        lines += [f"note: {start.search}: {note}" for note in start.notes]
    return lines


def compared_text(plan: Plan) -> str:
    """Return in sentences which settings run again on fresh seeds, and which differences matter."""
    from gpt2core.metrics.comparison import LEAST  # SciPy takes half a second to import: not for --help
    from searches.deciding.decision import detectable

    if plan.design is None:
        return "Nothing runs again on fresh seeds, so the comparison is not decided."
    if plan.compares_each:
        settings = f"the best trial of each value of {plan.factor_name} runs"
    else:
        best = "trial" if plan.compared == 2 else f"{plan.compared - 1} trials"
        settings = f"the reference and the best {best} run"
    looks = plan.design.looks
    seeds = count(looks[0], "fresh seed")
    if len(looks) > 1:
        seeds = f"{looks[0]} to {looks[-1]} fresh seeds, until the comparison is decided"
    margin = f"{number(plan.margin, plan.metric.digits)} {plan.metric.unit}".strip()
    pairs = math.comb(plan.compared, 2) if plan.compares_each else plan.compared - 1
    if looks[-1] < LEAST:
        power = f"Fewer than {LEAST} seeds name no winner."
    else:
        sds = detectable(1.0, looks[-1], pairs=pairs)
        power = (
            f"With {looks[-1]} seeds, a difference of {sds:.1f} standard deviations of a run is found with 80% power."
        )
    return (
        f"Then {settings} again, each on {seeds}, scored on {plan.comparing.words}. A difference below {margin} does not matter. "
        f"{power}"
    )
