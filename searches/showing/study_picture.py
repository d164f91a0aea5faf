"""Dot plots of the study's printed figures and ours, a plot for each table and metric."""

from collections.abc import Sequence
from typing import Any

from searches.deciding.study_figures import Line
from searches.formatting import count
from searches.showing.plots import Picture, add_legend, svg_of
from searches.showing.theme import BASELINE, BEST, INK

WIDTH, ROW, FRAME = 5.2, 0.42, 1.1  # inches: of a plot, of each of its rows, and of axis and legend
DECADES = 20.0  # ratio of the largest to the smallest value above which the axis is logarithmic
HEADROOM = 0.28  # share of a row between a dot and its label above it


def figure_pictures(lines: Sequence[Line]) -> list[Picture]:
    """Return a picture for each table and metric of which our runs have a value, in the study's order."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.table, line.figure.measure), []).append(line)
    return [_picture(*key, rows) for key, rows in groups.items() if any(row.ours is not None for row in rows)]


def _picture(table: str, measure: str, rows: Sequence[Line]) -> Picture:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            _draw_row(axes, place, row)
        _set_axes(axes, measure, rows)

    ran = [row for row in rows if row.ours is not None]
    shown = "; ".join(f"{row.label}: {row.figure.printed}, ours {row.ours_text or 'not run'}" for row in rows)
    return Picture(
        svg=svg_of(draw, width=WIDTH, height=FRAME + ROW * len(rows), name=f"study-{table}-{measure}"),
        alt=f"{_title(table)}, {measure}. {shown}",
        caption=f"{_title(table)}, {measure}: the study's value, and the mean of our runs with its 95% interval "
        f"({count(len(ran), 'row')} of {len(rows)} ran).",
    )


def _title(table: str) -> str:
    return f"Figure {table.removeprefix('figure-')}" if table.startswith("figure-") else f"Table {table}"


def _draw_row(axes: Any, place: int, row: Line) -> None:
    if row.ours is not None:
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=BEST, lw=2.5, solid_capstyle="butt")
        axes.plot(row.ours, place, "o", color=BEST, ms=8, ls="", label="our runs, 95% interval")
    if row.baseline is not None:
        axes.plot(row.baseline, place, "|", color=BASELINE, ms=14, mew=2, ls="", label="best trivial baseline")
    axes.plot(row.figure.value, place, "D", mfc="none", mec=INK, mew=1.6, ms=8, ls="", label="the study")
    axes.text(
        0.0, place - HEADROOM, row.label, transform=axes.get_yaxis_transform(), va="bottom", fontsize=10, color=INK
    )


def _set_axes(axes: Any, measure: str, rows: Sequence[Line]) -> None:
    values = [value for row in rows for value in (row.figure.value, row.ours, row.low, row.high) if value is not None]
    if min(values) > 0 and max(values) / min(values) > DECADES:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(lambda value, place: "")
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}")
    axes.set_ylim(len(rows) - 0.5, -0.9)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(measure)
    add_legend(axes, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
