"""The plan of a search, the plan beside what came of it, and what is spent of its budget, in words and tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from searches.planning.forecast import seconds_left
from searches.question import Plan
from searches.running.budget import HOUR, Budget, share, spent
from searches.running.ledger import State

LIMITS = {"hours": "hours", "gpu_hours": "GPU-hours", "usd": "USD"}


def plan_table(rows: list[dict[str, Any]]) -> Table:
    """A row for each quantity: what was predicted, from at least to at most, and what it came to where that is known."""
    known = any("actual" in row for row in rows)
    table = Table(title="Plan and fact" if known else "What it would take", title_justify="left", header_style="bold")
    table.add_column("")
    for heading in ("predicted", "low", "high", *(["actual"] if known else [])):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = [row[key] for key in ("predicted", "low", "high", *(["actual"] if known else []))]
        table.add_row(row["what"], *map(number_text, numbers))
    return table


def number_text(value: float | None) -> str:
    """Three digits of a number; nothing for what was not measured."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def show_prediction(prediction: Mapping[str, Any] | str, console: Console) -> None:
    """Print a prediction, or why there is none."""
    if isinstance(prediction, str):
        console.print(f"No prediction of time and cost: {prediction}", markup=False, highlight=False, soft_wrap=True)
        return
    console.print(plan_table(prediction["rows"]))
    lines = [f"Ranges: {prediction['meaning']}.", f"Assumed: {'; '.join(prediction['notes'])}."]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def show_fact(summary: Mapping[str, Any], console: Console) -> None:
    """Print plan and fact side by side, and what is spent of the budget."""
    if summary.get("plan"):
        console.print(plan_table(summary["plan"]))
    budget = summary.get("budget", {})
    if budget.get("limits"):
        parts = [
            f"{number_text(budget['spent'][name])} of {limit:g} {LIMITS[name]}"
            for name, limit in budget["limits"].items()
        ]
        ended = "; it ended the search, and the same command with a larger one goes on" if budget["ended"] else ""
        console.print(f"Budget: {', '.join(parts)} spent{ended}", markup=False, highlight=False, soft_wrap=True)


def progress(plan: Plan, budget: Budget, state: State, now: float) -> str:
    """About how long a running search still takes, what it took, and the share of the budget."""
    used, left = spent(budget, state, now), seconds_left(plan, state, now)
    name, part = share(budget, used)
    until = ""
    if "hours" in budget.limits and (rest := (budget.limits["hours"] - used.hours) * HOUR) < left:
        left, until = max(0.0, rest), ", when the budget ends it"
    money = f", {used.usd:.2f} USD" if budget.usd_per_gpu_hour else ""
    hours = f"{used.gpu_hours:.3f} GPU-hours" if state.clock.gpus else f"{used.cpu_hours:.3f} CPU-hours"
    of_budget = f"; {part:.0%} of the budget's {LIMITS[name]}" if name else ""
    return f"about {left:.0f}s left{until}; {hours}{money} so far{of_budget}"
