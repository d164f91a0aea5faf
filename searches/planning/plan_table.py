"""Shows a forecast, predicted and actual cost, and progress and budget of a running search."""

from collections.abc import Sequence

from rich.console import Console

from gpt2core.console import print_line
from searches.plan import Plan
from searches.planning.forecast import MEANING, seconds_left, trials_of
from searches.running.budget import HOUR, Budget, nearest_limit, spent
from searches.running.ledger import State
from searches.running.quantities import WORDS, Forecast, QuantityRow
from searches.showing.tables import Column, Table, print_table
from searches.summary import Summary

PREDICTED_AND_ACTUAL = "Predicted and actual"
LIMITS = {"hours": "hours", "gpu_hours": "GPU-hours", "usd": "USD"}


def forecast_table(rows: Sequence[QuantityRow], title: str, *, known: bool) -> Table[QuantityRow]:
    """Return a table of predicted quantities, with their actual values if `known`."""
    columns = [
        Column[QuantityRow](heading="", show=lambda row: WORDS[row.quantity]),
        Column[QuantityRow](heading="predicted", show=lambda row: number_text(row.value), number=True),
        Column[QuantityRow](heading="low", show=lambda row: number_text(row.low), number=True),
        Column[QuantityRow](heading="high", show=lambda row: number_text(row.high), number=True),
    ]
    actual = Column[QuantityRow](heading="actual", show=lambda row: number_text(row.actual), number=True)
    return Table(title=title, columns=[*columns, actual] if known else columns, rows=rows)


def number_text(value: float | None) -> str:
    """Return a number with three digits; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def show_prediction(prediction: Forecast | str, console: Console) -> None:
    """Print a forecast, or why there is none."""
    if isinstance(prediction, str):
        print_line(console, f"No prediction of time and cost: {prediction}")
        return
    print_table(console, forecast_table(prediction.rows(), "What it would take", known=False))
    print_line(console, f"Ranges: {MEANING}.")
    print_line(console, f"Assumed: {'; '.join(prediction.notes)}.")


def show_actual(summary: Summary, console: Console) -> None:
    """Print predicted and actual cost, and what is spent of the budget."""
    budget = summary.budget
    if summary.forecast:
        print_table(console, forecast_table(summary.forecast, PREDICTED_AND_ACTUAL, known=True))
    if budget.limits:
        parts = [
            f"{number_text(budget.spent[name])} of {limit:g} {LIMITS[name]}" for name, limit in budget.limits.items()
        ]
        ended = "; it ended the search, which the same command with a larger budget resumes" if budget.ended else ""
        print_line(console, f"Budget: {', '.join(parts)} spent{ended}")


def trials_done(plan: Plan, state: State) -> tuple[int, int]:
    """Return how many trials, replicates included, have ended, and how many there will be at most."""
    total = trials_of(plan) + len(state.clones) + plan.replicates
    return len(state.trials) - len(state.clock.running), total


def progress_text(plan: Plan, budget: Budget, state: State, now: float) -> str:
    """Return the progress of a running search, its time and its cost, in parentheses."""
    done, total = trials_done(plan, state)
    return f"({done} of {total} done, {progress(plan, budget, state, now)})"


def progress(plan: Plan, budget: Budget, state: State, now: float) -> str:
    """Return about how long a running search still takes, its cost so far, and the share of the budget."""
    used, left = spent(budget, state, now), seconds_left(plan, state, now)
    name, part = nearest_limit(budget, used)
    until = ""
    if "hours" in budget.limits and (rest := (budget.limits["hours"] - used.hours) * HOUR) < left:
        left, until = max(0.0, rest), " until the budget ends it"
    money = f", {used.usd:.2f} USD" if budget.usd_per_gpu_hour else ""
    hours = f"{used.gpu_hours:.3f} GPU-hours" if state.clock.gpus else f"{used.cpu_hours:.3f} CPU-hours"
    of_budget = f"; {part:.0%} of the budget's {LIMITS[name]}" if name else ""
    return f"about {left:.0f}s left{until}; {hours}{money} so far{of_budget}"
