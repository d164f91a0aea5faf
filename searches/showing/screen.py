"""What a search shows: a line for each event while it runs, and at the end a table made from its summary."""

import math
import time
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from searches.deciding.objectives import Ranking
from searches.deciding.stopping import SCHEDULERS
from searches.formatting import count, point_text, value_text
from searches.planning.forecast import trials_of
from searches.planning.plan_table import progress, show_fact
from searches.question import Plan
from searches.running.budget import Budget
from searches.running.ledger import RUNNING, Event, State
from searches.showing.answers import rows_cells, rows_headings, rows_title
from searches.showing.numbers import digits_of, number, with_interval, words

#: Metric -> heading and digits, where a task has it.
COLUMNS = {
    "train_loss": ("train loss", 3),
    "macro_f1": ("macro-F1", 2),
    "chrf_whole": ("whole chrF", 2),
    "dev_perplexity": ("dev perplexity", 1),
    "length_ratio": ("length ratio", 2),
    "form_rhyme": ("rhyme", 2),
}


OVER_TEXTS = "The interval of a single trial is over other texts alone; another seed would move its score too."
RUNNING_SHOWN = 20  # rows of the live table
MOST = 200  # trials that the table at the end, or a report, shows


class Screen:
    """Listens to a ledger and shows what happens, with what it cost so far and about how long it takes.

    A line for each event; on a terminal, while it is entered, a table of what runs in place of most of them.
    """

    def __init__(self, plan: Plan, console: Console, budget: Budget, state: State) -> None:
        self.plan, self.console, self.budget, self.state = plan, console, budget, state
        self.started = time.monotonic()
        self.digits = {name: metric.digits for name, metric in plan.metrics.items()}
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
                number(score, objective, self.digits),
                f"{seconds.get(trial.name, 0.0):.0f}",
                style="bold green" if trial is best else None,
            )
        return table

    def _line(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self.started
        self.console.print(f"{seconds:5.0f}s  {name:<8} {text}", markup=False, highlight=False, soft_wrap=True)

    def _epoch(self, event: Event, state: State) -> str:
        metrics, objective = event["metrics"], self.plan.objective
        low, high = (metrics.get(f"{objective}_{end}") for end in ("low", "high"))
        score = with_interval(metrics[objective], low, high, self.digits[objective])
        epochs = state.trials[event["trial"]].epochs
        beside = "".join(
            f", {head} {number(metrics[name], name, self.digits, digits)}"
            for name, (head, digits) in COLUMNS.items()
            if name in metrics and name != objective
        )
        return f"epoch {event['epoch']}/{epochs}: {objective} {score}{beside}"

    def _progress(self, state: State) -> str:
        total = trials_of(self.plan) + len(state.clones) + self.plan.replicates
        done = len(state.trials) - len(state.clock.running)
        return f"({done} of {total} done, {progress(self.plan, self.budget, state, time.time())})"


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of a summary, what the search took, and last its answer."""
    answer = summary["answer"]
    console.print(trials_table(summary))
    if answer["rows"]:
        console.print(_answer_table(summary))
    if summary["baselines"]:
        console.print(_baselines_table(summary))
    if summary["pareto"]:
        against = ", ".join(map(words, summary["costs"]))
        console.print(
            f"Front: no trial is better in {summary['objective']} and no dearer in {against}", highlight=False
        )
    counts = ", ".join(f"{value} {words(key)}" for key, value in summary["counts"].items() if value)
    console.print(f"{counts}; {summary['wall_seconds']:.0f} s", markup=False, highlight=False)
    total = sum(summary["time"].values())
    if total:
        shares = ", ".join(f"{part} {100 * seconds / total:.0f}%" for part, seconds in summary["time"].items())
        console.print(f"Time of the trials: {shares}", markup=False, highlight=False)
    show_fact(summary, console)
    _line(console, f"Model: {summary['model']}")
    _line(console, f"Data: {summary['data'].get('data')}")
    _line(console, f"Answer: {answer['text']}", style="bold")
    for line in answer["evidence"]:
        _line(console, line)
    if summary.get("test"):
        _line(console, summary["test"]["text"])
    for note in answer["notes"]:
        _line(console, f"Note: {note}", style="yellow")


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def trials_table(summary: dict[str, Any]) -> Table:
    """One row a trial, best first, replicates at the end; of many trials the best alone."""
    objective, digits = summary["objective"], digits_of(summary)
    sign = -1 if summary["direction"] == "max" else 1
    every = sorted(
        summary["trials"],
        key=lambda row: (row["of"] is not None, row["score"] is None, sign * (row["score"] or 0), row["id"]),
    )
    searched = [row for row in every if row["of"] is None]
    rows = [*searched[:MOST], *every[len(searched) :]]
    keys = list(dict.fromkeys(key for row in rows for key in row["point"]))
    columns = columns_of(summary, rows)
    table = Table(title=f"{summary['search']}: {summary['question']}", title_justify="left", header_style="bold")
    table.caption, table.caption_justify = f"{left_out(len(searched))} {OVER_TEXTS}".strip(), "left"
    for heading in ("trial", "from", *keys):
        table.add_column(heading)
    for heading in (f"{objective} [95% interval over texts]", *(heading for heading, _ in columns.values()), "epochs"):
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
            score_text(row, summary),
            *(number(row["metrics"].get(name), name, digits, few) for name, (_, few) in columns.items()),
            f"{row['best_epoch'] or 0} of {row['epochs']}",
            row["status"],
            *(["on it" if row["id"] in summary["pareto"] else ""] if summary["pareto"] else []),
            style="bold green" if best else None,
        )
    return table


def columns_of(summary: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, tuple[str, int]]:
    """Heading and digits, where no metric says them, of what is shown beside the score of these trials."""
    shown = COLUMNS | {cost: (words(cost), 2) for cost in summary["costs"]}
    return {
        name: shape
        for name, shape in shown.items()
        if name != summary["objective"] and any(name in row["metrics"] for row in rows)
    }


def left_out(trials: int) -> str:
    """What a table that shows the best MOST of so many trials says of the others; nothing where there are none."""
    return f"The best {MOST} are shown; {trials - MOST} more are in summary.json." if trials > MOST else ""


def score_text(row: dict[str, Any], summary: dict[str, Any]) -> str:
    """The score of a trial with its interval over texts."""
    if row["score"] is None:
        return "none"
    objective = summary["objective"]
    low, high = (row["metrics"].get(f"{objective}_{end}") for end in ("low", "high"))
    return with_interval(row["score"], low, high, digits_of(summary).get(objective, 2))


def _answer_table(summary: dict[str, Any]) -> Table:
    answer = summary["answer"]
    table = Table(title=rows_title(answer), title_justify="left", header_style="bold")
    for heading in rows_headings(answer):
        table.add_column(heading)
    for row, cells in zip(answer["rows"], rows_cells(answer), strict=True):
        winner = row["trial"] is not None and row["trial"] == answer["winner"]
        table.add_row(*cells, style="bold green" if winner else None)
    return table


def _baselines_table(summary: dict[str, Any]) -> Table:
    table = Table(title="Trivial baselines", title_justify="left", header_style="bold")
    metrics = baseline_metrics(summary)
    table.add_column("prediction")
    for metric in metrics:
        table.add_column(words(metric), justify="right")
    for baseline in summary["baselines"].values():
        table.add_row(baseline["meaning"], *(baseline_text(baseline["scores"].get(m), m, summary) for m in metrics))
    return table


def baseline_metrics(summary: dict[str, Any]) -> list[str]:
    """The metrics that any trivial baseline has a score for, the objective first."""
    found = dict.fromkeys(metric for baseline in summary["baselines"].values() for metric in baseline["scores"])
    return sorted(found, key=lambda metric: metric != summary["objective"])


def baseline_text(score: Any, metric: str, summary: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds; the mean alone where nothing is drawn, nothing where there is no such score."""
    if score is None:
        return ""
    digits = digits_of(summary)
    spread = f" ± {number(score[1], metric, digits)}" if score[1] else ""
    return f"{number(score[0], metric, digits)}{spread}"


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
    margin = f"{number(plan.margin, plan.objective, {plan.objective: plan.metric.digits})} {plan.metric.unit}".strip()
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
