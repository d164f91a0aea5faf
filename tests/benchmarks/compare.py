"""What all comparisons share: both ways alternate in one process; the table has ratio, spread and target."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=160)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row: what is done here, what the peer does, and how many times as good the ratio of the two is to be.

    `check` raises SystemExit, as `differs` makes it, where the two do not do the same work; it is called before anything counts.
    The ways are called; what they return counts, or where that is no number the seconds that they take.
    """

    what: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    reach: float | None = None
    check: Callable[[], None] | None = None
    unit: str = "s"
    repeats: int | None = None


def differs(what: str) -> SystemExit:
    """The end of a benchmark whose two ways do not do the same work."""
    return SystemExit(f"{what}: the two ways do not do the same work")


def measure(way: Callable[[], Any]) -> float:
    """What a way returns where it is a number, else the seconds that it takes."""
    started = time.perf_counter()
    found = way()
    seconds = time.perf_counter() - started
    return found if isinstance(found, float) else seconds


def show_by_size(title: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Print figures by name, with a column for each size."""
    table = Table("", title=title)
    for heading in columns:
        table.add_column(heading, justify="right")
    for what in dict.fromkeys(what for column in columns.values() for what in column):
        table.add_row(what, *(column.get(what, "") for column in columns.values()))
    CONSOLE.print(table)


def show(title: str, comparisons: Iterable[Comparison], repeats: int, *, warm: bool = True) -> None:
    """Check, then measure; print the table. Each way has a turn that does not count, where it is `warm`."""
    table = Table("what", "beside", title=title)
    for heading in ("here", "beside it", r"ratio \[least, most]", "to reach"):
        table.add_column(heading, justify="right")
    for row in comparisons:
        if row.check:
            row.check()
        if warm:
            measure(row.ours), measure(row.theirs)
        pairs = [(measure(row.ours), measure(row.theirs)) for _ in range(row.repeats or repeats)]
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        middle = statistics.median(ratios)
        table.add_row(
            row.what,
            row.peer,
            *(f"{statistics.median(column):.3g} {row.unit}" for column in zip(*pairs, strict=True)),
            f"{middle:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
            "" if row.reach is None else f"{row.reach:g}{'' if middle >= row.reach else ': not reached'}",
        )
    CONSOLE.print(table)
