"""What a search shows: a line for each event while it runs, and at the end a table made from its summary."""

import time
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from searches.deciding.objectives import Ranking
from searches.planning.plan_table import progress, show_fact
from searches.question import Plan
from searches.running.budget import Budget
from searches.running.ledger import RUNNING, Event, State
from searches.words import count, point_text, value_text

#: Metric -> heading and digits, where a task has it.
COLUMNS = {
    "train_loss": ("train loss", 3),
    "macro_f1": ("macro-F1", 2),
    "chrf_whole": ("whole chrF", 2),
    "dev_perplexity": ("dev perplexity", 1),
    "length_ratio": ("length ratio", 2),
    "form_rhyme": ("rhyme", 2),
}


#: What a plan says of each scheduler.
SCHEDULERS_SAY = {
    "asha": "ASHA stops from epoch {} on",
    "none": "nothing is stopped early",
    "pbt": "a population, of which every {} epochs the worst go on from the best",
}


RUNNING_SHOWN = 20  # rows of the live table
MOST = 200  # trials that the table at the end, or a report, shows


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
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def say(self, text: str) -> None:
        """Print what a person's command has done."""
        self._line("control", text)

    def __call__(self, event: Event, state: State) -> None:
        """Print an event of the ledger."""
        self.ranking(event, state)
        match event["event"]:
            case "proposed" | "report" if self.live.is_started:
                pass  # the table has it
            case "proposed":
                trial = event["trial"]
                self._line(trial["name"], f"starts ({trial['origin']}): {point_text(trial['point'])}")
            case "gpu_part":
                self._line(event["trial"], f"{event['reason']}: from now on a trial has {event['part']:g} of one")
            case "reopened":
                self._line(event["trial"], "goes on: the budget is larger")
            case "report":
                self._line(event["trial"], self._epoch(event, state))
            case "stopped" if state.trials[event["trial"]].status != RUNNING:
                self._line(event["trial"], f"counts to epoch {event['epoch']} alone: {event['reason']}")
            case "ended":
                reason = f": {event['reason']}" if event.get("reason") else ""
                self._line(event["trial"], f"{event['status']}{reason}  {self._progress(state)}")

    def table(self) -> Table:
        """The trials that run and the best one so far; below, how far the search is."""
        objective = self.plan.objective
        names = list(self.state.clock.running)[:RUNNING_SHOWN]
        shown = [self.state.trials[name] for name in names if name in self.state.trials]  # it may just be noted
        best = next(iter(self.ranking), None)
        table = Table(caption=self._progress(self.state), caption_justify="left", header_style="bold")
        for heading in ("trial", "from", "point"):
            table.add_column(heading)
        for heading in ("epoch", f"best {objective}", "seconds"):
            table.add_column(heading, justify="right")
        seconds = self.state.clock.at(time.time()).trials
        for trial in [*shown, *([best] if best else [])]:
            score = trial.score(objective, self.plan.direction)
            table.add_row(
                trial.name,
                trial.origin,
                point_text(trial.point),
                f"{max(trial.reports, default=0)}/{trial.epochs}",
                "" if score is None else f"{score:.2f}",
                f"{seconds.get(trial.name, 0.0):.0f}",
                style="bold green" if trial is best else None,
            )
        return table

    def _line(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self.started
        self.console.print(f"{seconds:5.0f}s  {name:<8} {text}", markup=False, highlight=False, soft_wrap=True)

    def _epoch(self, event: Event, state: State) -> str:
        metrics, objective = event["metrics"], self.plan.objective
        interval = ""
        if f"{objective}_low" in metrics:
            interval = f" [{metrics[f'{objective}_low']:.2f}, {metrics[f'{objective}_high']:.2f}]"
        epochs = state.trials[event["trial"]].epochs
        beside = "".join(f", {head} {metrics[m]:.{digits}f}" for m, (head, digits) in COLUMNS.items() if m in metrics)
        return f"epoch {event['epoch']}/{epochs}: {objective} {metrics[objective]:.2f}{interval}{beside}"

    def _progress(self, state: State) -> str:
        total = self.plan.profile.trials + self.plan.replicates
        done = len(state.trials) - len(state.clock.running)
        return f"({done} of {total} done, {progress(self.plan, self.budget, state, time.time())})"


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the table, the floors and the verdict of a summary."""
    console.print(trials_table(summary))
    for key, values in summary["best_by"].items():
        if len(values) > 1:
            console.print(_by_table(key, values, summary["objective"]))
    if summary["floors"]:
        console.print(_floors_table(summary["floors"]))
    if summary["pareto"]:
        against = ", ".join(cost.replace("_", " ") for cost in summary["costs"])
        console.print(
            f"Front: no trial is better in {summary['objective']} and no dearer in {against}", highlight=False
        )
    counts = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in summary["counts"].items() if value)
    console.print(f"{counts}; {summary['wall_seconds']:.0f} s", markup=False, highlight=False)
    total = sum(summary["time"].values())
    if total:
        shares = ", ".join(f"{part} {100 * seconds / total:.0f}%" for part, seconds in summary["time"].items())
        console.print(f"Time of the trials: {shares}", markup=False, highlight=False)
    show_fact(summary, console)
    console.print(f"Model: {summary['model']}", markup=False, highlight=False)
    console.print(f"Data: {summary['data'].get('data')}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Verdict: {summary['verdict']['text']}", style="bold", markup=False, highlight=False, soft_wrap=True)
    if summary["test"]:
        console.print(summary["test"]["text"], style="bold", markup=False, highlight=False, soft_wrap=True)


def trials_table(summary: dict[str, Any]) -> Table:
    """One row a trial, best first, replicates at the end; of many trials the best alone."""
    objective = summary["objective"]
    sign = -1 if summary["direction"] == "max" else 1
    every = sorted(
        summary["trials"],
        key=lambda row: (row["of"] is not None, row["score"] is None, sign * (row["score"] or 0), row["id"]),
    )
    searched = [row for row in every if row["of"] is None]
    rows = [*searched[:MOST], *every[len(searched) :]]
    keys = list(dict.fromkeys(key for row in rows for key in row["point"]))
    shown = COLUMNS | {
        cost: (cost.replace("_", " "), 0 if cost.endswith("parameters") else 2) for cost in summary["costs"]
    }
    columns = {name: shape for name, shape in shown.items() if any(name in row["metrics"] for row in rows)}
    table = Table(title=f"{summary['search']}: {summary['question']}", title_justify="left", header_style="bold")
    table.caption, table.caption_justify = left_out(len(searched)) or None, "left"
    for heading in ("trial", "from", *keys):
        table.add_column(heading)
    for heading in (f"{objective} [95% interval]", *(heading for heading, _ in columns.values()), "epochs"):
        table.add_column(heading, justify="right")
    table.add_column("status")
    if summary["pareto"]:
        table.add_column("front")
    for row in rows:
        best = summary["best"] is not None and row["id"] == summary["best"]["id"]
        table.add_row(
            row["id"],
            row["origin"],
            *(value_text(row["point"].get(key)) for key in keys),
            _score_text(row, objective),
            *(f"{row['metrics'][n]:,.{d}f}" if n in row["metrics"] else "" for n, (_, d) in columns.items()),
            f"{row['best_epoch'] or 0} of {row['epochs']}",
            row["status"],
            *(["on it" if row["id"] in summary["pareto"] else ""] if summary["pareto"] else []),
            style="bold green" if best else None,
        )
    return table


def left_out(trials: int) -> str:
    """What a table that shows the best MOST of so many trials says of the others; nothing where there are none."""
    return f"The best {MOST} are shown; {trials - MOST} more are in summary.json." if trials > MOST else ""


def _score_text(row: dict[str, Any], objective: str) -> str:
    if row["score"] is None:
        return "none"
    low, high = (row["metrics"].get(f"{objective}_{end}") for end in ("low", "high"))
    return f"{row['score']:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _by_table(key: str, values: list[dict[str, Any]], objective: str) -> Table:
    table = Table(title=f"Best of each {key} (searched, not yet confirmed)", title_justify="left", header_style="bold")
    for heading in (key, "trials", f"best {objective}", "trial"):
        table.add_column(heading, justify="right")
    for row in values:
        table.add_row(str(row["value"]), str(row["trials"]), f"{row['score']:.2f}", row["best_trial"])
    return table


def _floors_table(floors: dict[str, Any]) -> Table:
    table = Table(title="Floors: what no model is needed for", title_justify="left", header_style="bold")
    table.add_column("prediction")
    metrics = list(dict.fromkeys(metric for floor in floors.values() for metric in floor["scores"]))
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right")
    for floor in floors.values():
        table.add_row(
            floor["meaning"], *(f"{floor['scores'][m][0]:.2f} ± {floor['scores'][m][1]:.2f}" for m in metrics)
        )
    return table


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
    table = Table(header_style="bold")
    for heading in ("key", "role", "values"):
        table.add_column(heading)
    for key, domain in plan.space.items():
        table.add_row(key, "scientific" if key in plan.search.scientific else "nuisance", str(domain))
    for key, value in plan.fixed.items():
        table.add_row(key, "fixed", str(value))
    console.print(table)
    firsts = len(plan.first_points())
    if plan.search.learns_from_pairs:
        sizes = ", ".join(f"{key} {value}" for key, value in plan.profile.candidates.items())
        console.print(
            f"First, pairs are generated into {plan.fixed['pairs']}, a set for each temperature: {sizes}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{count(plan.profile.trials, 'trial')} of at most {count(plan.epochs, 'epoch')}: the baseline, up to "
        f"{count(firsts - 1, 'point')} of the study, then those of {plan.method.sampler}; "
        f"{SCHEDULERS_SAY[plan.method.scheduler].format(plan.grace)}.\n"
        f"Then {count(plan.profile.replicates, 'fresh seed')} for the best {count(plan.profile.confirm, 'trial')} and for the "
        f"baseline. {objectives_text(plan)}\n{resources}\n"
        f"Results go to {folder}. Nothing was started.",
        markup=False,
        highlight=False,
    )
    for number, point in enumerate(plan.first_points()[: plan.profile.trials]):
        console.print(
            f"  {number:04d} {'baseline' if number == 0 else 'study'}: {point_text(point)}",
            markup=False,
            highlight=False,
        )
