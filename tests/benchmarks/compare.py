"""Comparisons: both sides do the same work, in turns in one process. A table shows the ratios, their spread and the target."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=160)
TURNS = 3  # turns of each side


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row: the work, the peer, and the ratio of the peer's cost to ours that is the target.

    `ours` and `theirs` return their cost if it is a number; otherwise it is the seconds that they take. `check` raises `differs`
    if they do not do the same work; it runs before they are timed. A slow peer may do only a `part` of the work, and the rest is
    assumed to cost as much. What is the same each time, such as memory, needs a single turn (`varies=False`).
    """

    what: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    reach: float | None = None
    check: Callable[[], None] | None = None
    unit: str = "s"
    part: float = 1.0
    varies: bool = True


def differs(what: str) -> SystemExit:
    """Return the error that ends a benchmark whose sides do not do the same work."""
    return SystemExit(f"{what}: the two sides do not do the same work")


def measure(way: Callable[[], Any]) -> float:
    """Return what a function returns if that is a number, otherwise the seconds that it takes."""
    started = time.perf_counter()
    result = way()
    seconds = time.perf_counter() - started
    return result if isinstance(result, float) else seconds


def show_by_size(title: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Print figures by name, with a column for each size."""
    table = Table("", title=title)
    for heading in columns:
        table.add_column(heading, justify="right")
    for what in dict.fromkeys(what for column in columns.values() for what in column):
        table.add_row(what, *(column.get(what, "") for column in columns.values()))
    CONSOLE.print(table)


def show(title: str, comparisons: Iterable[Comparison], turns: int = TURNS, *, warm: bool = False) -> None:
    """Check and measure all comparisons, and print them. With `warm`, each side has a first turn that does not count."""
    table = Table("work", "peer", title=title)
    for heading in ("ours", "peer's", r"ratio \[least, most]", "target"):
        table.add_column(heading, justify="right")
    for row in comparisons:
        if row.check:
            row.check()
        if warm:
            measure(row.ours), measure(row.theirs)
        pairs = [(measure(row.ours), measure(row.theirs) / row.part) for _ in range(turns if row.varies else 1)]
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
