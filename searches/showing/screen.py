"""The screen: the plan before a search, a line for each event while it runs, and the results at its end."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from gpt2core.console import print_line
from gpt2core.errors import visible
from gpt2core.naming import words
from searches.deciding.objectives import Ranking
from searches.deciding.stopping import SCHEDULERS
from searches.formatting import count, number, point_text, value_text, with_interval
from searches.plan import WARM_START, Plan
from searches.planning.plan_table import progress, progress_text, show_actual, trials_done
from searches.running.budget import Budget
from searches.running.events import Ended, Event, GpuPart, Proposed, Reopened, Report, Stopped
from searches.running.ledger import RUNNING, State, Trial
from searches.showing.report_tables import (
    COLUMNS,
    baselines_table,
    decoding_table,
    replicates_table,
    settings_table,
    trials_table,
)
from searches.showing.tables import Column, Table, on_screen, print_table
from searches.summary import Summary
from searches.warm_start import source_text

RUNNING_SHOWN = 20  # rows of the live table
BESIDE = 8  # lines of the screen that its other parts may take
NAME = 7  # characters of a replicate's name
ROOM = 60  # columns that a table of running trials needs


class Screen:
    """Ledger listener that prints a line for each event, with the cost so far and the time left.

    On a terminal, inside `with`, a live view of the running trials and the best one replaces most lines. `link` is where MLflow
    shows the search.
    """

    def __init__(self, plan: Plan, console: Console, budget: Budget, state: State) -> None:
        self.plan, self.console, self.budget, self.state = plan, console, budget, state
        self.started = time.monotonic()
        self.ranking = Ranking(plan, state)
        self.link = ""
        self.live = Live(console=console, get_renderable=self.view, refresh_per_second=1, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def warn(self, text: str) -> None:
        """Print a warning."""
        print_line(self.console, f"warning: {text}", "yellow")

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
                cost = "" if self.live.is_started else f"  {progress_text(self.plan, self.budget, state, time.time())}"
                self._line(event.trial, f"{event.status}{reason}{self._score(state.trials[event.trial])}{cost}")

    def view(self) -> RenderableType:
        """Return the running trials, the progress of the search, the best trial so far and the link to MLflow."""
        done, total = trials_done(self.plan, self.state)
        bar = Grid.grid(padding=(0, 1))
        bar.add_row("Trials", ProgressBar(total=max(1, total), completed=done, width=20), f"{done} of {total}")
        lines = [progress(self.plan, self.budget, self.state, time.time()), self._best(), self.link]
        return Group(*self._running(), bar, *(Text(visible(line)) for line in lines if line))

    def _running(self) -> list[RenderableType]:
        names = list(self.state.clock.running)[: max(1, min(RUNNING_SHOWN, self.console.height - BESIDE))]
        running = [self.state.trials[name] for name in names if name in self.state.trials]  # another thread adds both
        if not running or self.console.width < ROOM:
            return []
        seconds = self.state.clock.at(time.time()).trials
        objective, direction, digits = self.plan.objective, self.plan.direction, self.plan.metric.digits
        columns: list[Column[Trial]] = [
            Column("trial", lambda trial: trial.name),
            Column("origin", lambda trial: trial.origin, detail=True),
            Column("settings", lambda trial: point_text(trial.point)),
            Column("epoch", lambda trial: f"{max(trial.reports, default=0)}/{trial.epochs}", number=True),
            Column("train loss", lambda trial: number(_latest(trial, "train_loss"), 3), number=True),
            Column(words(objective), lambda trial: number(trial.score(objective, direction), digits), number=True),
            Column("seconds", lambda trial: f"{seconds.get(trial.name, 0.0):.0f}", number=True),
        ]
        return [on_screen(Table(title="", columns=columns, rows=running), self.console.width)]

    def _best(self) -> str:
        best = next(iter(self.ranking), None)
        if best is None:
            return ""
        return f"Best so far: trial {best.name}{self._score(best)} ({point_text(best.point)})"

    def _score(self, trial: Trial) -> str:
        score = trial.score(self.plan.objective, self.plan.direction)
        return "" if score is None else f", {words(self.plan.objective)} {number(score, self.plan.metric.digits)}"

    def _line(self, name: str, text: str) -> None:
        clock = f"{time.monotonic() - self.started:5.0f}s"
        if not self.console.is_terminal:
            print_line(self.console, f"{clock}  {name:<8} {text}")
            return
        line = Grid.grid(padding=(0, 2))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, min_width=NAME)
        line.add_row(clock, visible(name), visible(text))
        self.console.print(line)

    def _epoch(self, report: Report, state: State) -> str:
        metrics, objective, known = report.metrics, self.plan.objective, self.plan.metrics
        low, high = (metrics.get(f"{objective}_{end}") for end in ("low", "high"))
        score = with_interval(metrics[objective], low, high, self.plan.metric.digits)
        others = "".join(
            f", {words(name)} {number(metrics[name], known[name].digits if name in known else digits)}"
            for name, digits in COLUMNS.items()
            if name in metrics and name != objective
        )
        return f"epoch {report.epoch}/{state.trials[report.trial].epochs}: {words(objective)} {score}{others}"


def _latest(trial: Trial, metric: str) -> float | None:
    """Return a metric of the last epoch that a trial reported."""
    last = max(trial.reports, default=None)
    return None if last is None else trial.reports[last].metrics.get(metric)


@contextmanager
def waiting_for(console: Console, what: str) -> Iterator[None]:
    """Say what takes seconds: on a terminal with a spinner that vanishes, elsewhere in a line."""
    if not console.is_terminal or console.is_dumb_terminal:
        print_line(console, f"{what} ...")
    with console.status(what):
        yield


def show(summary: Summary, console: Console) -> None:
    """Print the tables of a summary, the cost of the search and, last, its answer."""
    answer = summary.answer
    tables: list[Table[Any]] = [
        trials_table(summary, f"{summary.search}: {summary.question}"),
        decoding_table(summary),
        replicates_table(summary),
        settings_table(summary),
        baselines_table(summary),
    ]
    console.print()
    for place, table in enumerate(tables):
        if table.rows or not place:
            print_table(console, table)
    if summary.pareto:
        first, *others = map(words, summary.criteria)
        print_line(console, f"Pareto front of {first} against {', '.join(others)}: the trials that no other dominates")
    if summary.warm_start:
        print_line(console, summary.warm_start.text)
    counts = ", ".join(f"{value} {words(key)}" for key, value in summary.counts.items() if value)
    print_line(console, f"{counts}; {summary.wall_seconds:.0f} s")
    total = sum(summary.time.values())
    if total:
        shares = ", ".join(f"{part} {100 * seconds / total:.0f}%" for part, seconds in summary.time.items())
        print_line(console, f"Time of the trials: {shares}")
    show_actual(summary, console)
    print_line(console, summary.subject)
    print_line(console, f"Data: {summary.data.get('data')}")
    console.print()
    print_line(console, f"Answer: {answer.text}", "bold")
    for line in (*answer.evidence, *([summary.test.text] if summary.test else [])):
        print_line(console, line)
    for note in answer.notes:
        print_line(console, f"Note: {note}", style="yellow")


def show_plan(
    plan: Plan, resources: str, folder: str, console: Console, earlier: State | None, data: str | None
) -> None:
    """Print what would run; `earlier` is the state of the search that would be resumed, `data` describes the data if known."""
    print_line(console, f"{plan.search.name}: {plan.search.question}", "bold")
    print_table(console, keys_table(plan))
    if plan.search.learns_from_pairs:
        sizes = ", ".join(f"{key} {value}" for key, value in plan.profile.candidates.items())
        print_line(
            console,
            f"First, pairs are generated for each temperature, critic and round in {plan.fixed['pairs']}: {sizes}.",
        )
    for line in (*([f"Data: {data}"] if data else []), *plan_texts(plan), resources):
        print_line(console, line)
    for line in warm_start_texts(plan):
        print_line(console, line)
    print_line(console, f"Results go to {folder}. Nothing was started.")
    if earlier is not None:
        print_line(console, resumed_text(plan, earlier))
    for place, point in enumerate(plan.known_points()):
        print_line(console, f"  {place:04d} {plan.origin(place, point)}: {point_text(point)}")


def resumed_text(plan: Plan, state: State) -> str:
    """Return in a sentence which search would be resumed."""
    done, total = trials_done(plan, state)
    return f"There is a search of this name with the same settings, so it would be resumed: {done} of {total} trials are done."


def keys_table(plan: Plan) -> Table[tuple[str, str, str]]:
    """Return the searched and the fixed keys of a plan, each with its role and its values."""
    roles = {key: "scientific" if key in plan.search.scientific else "nuisance" for key in plan.space}
    searched = [(key, roles[key], plan.domain_text(key)) for key in plan.space]
    fixed = [(key, "fixed", value_text(value)) for key, value in plan.fixed_read.items()]
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
    parts = {
        "the reference": True,
        f"its settings with each other value of {plan.factor_name}": "default" in origins,
        f"{count(origins.count(WARM_START), 'point')} of earlier searches": WARM_START in origins,
        f"{count(origins.count('study'), 'point')} of the study": "study" in origins,
        f"then proposals of {plan.method.sampler}": plan.trials > len(origins),
    }
    order = ", ".join(part for part, is_given in parts.items() if is_given)
    rule = SCHEDULERS[plan.method.scheduler if plan.epochs > 1 else "none"]
    return (
        f"{count(plan.trials, 'trial')}{each} of at most {count(plan.epochs, 'epoch')}: {order}; "
        f"{rule.words.format(plan.grace)}."
    )


def warm_start_texts(plan: Plan) -> list[str]:
    """Return which points of earlier searches are tried, and what of them was changed."""
    lines = []
    for start in plan.warm_start:
        trials, best = ", ".join(start.trials), "trial" if len(start.trials) == 1 else "trials"
        lines.append(f"Warm start: the settings of {trials}, the best {best} of {source_text(start)}, are tried first")
        lines += [f"note: {start.search}: {note}" for note in start.notes]
    return lines


def compared_text(plan: Plan) -> str:
    """Return in sentences which settings run again on fresh seeds, and which differences matter."""
    from gpt2core.metrics.comparison import LEAST  # SciPy takes half a second to import: not for --help
    from searches.deciding.decision import detectable

    if plan.design is None:
        return "Nothing runs again on fresh seeds, so the comparison is not decided."
    if not plan.compared:
        return "A single trial is compared with nothing, so nothing runs again on fresh seeds."
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
