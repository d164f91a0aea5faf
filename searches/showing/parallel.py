"""Parallel coordinates: a vertical axis for each searched key and for the score, and a line for each trial."""

import math
from typing import Any

from searches.formatting import value_text
from searches.showing.marks import axis_id, points_id
from searches.showing.theme import EDGE, GROUND, OTHER, REFERENCE
from searches.summary import Space, TrialRow


class Axis:
    """Maps the values of a key to places from 0 to 1 on an axis, and chooses its ticks."""

    def __init__(self, name: str, values: list[Any], domain: Space) -> None:
        self.name, self.kind = name, domain.kind
        if self.kind == "choice":
            self.choices = list(dict.fromkeys(map(value_text, [*domain.values, *values])))
            return
        self.low = min(value for value in (domain.low, *values) if value is not None)
        self.high = max(value for value in (domain.high, *values) if value is not None)

    def place(self, value: Any) -> float:
        """Return the place of a value."""
        if self.kind == "choice":
            return (self.choices.index(value_text(value)) + 0.5) / len(self.choices)
        low, high, value = (self._scaled(v) for v in (self.low, self.high, value))
        return 0.5 if low == high else (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and labels of the ticks: every choice, powers of ten, or quarters of the range."""
        if self.kind == "choice":
            return [((number + 0.5) / len(self.choices), text) for number, text in enumerate(self.choices)]
        if self.kind == "log-uniform" and self.low < self.high:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            values = [self.low, *(10.0**power for power in powers), self.high]
            return _apart([(self.place(value), f"{value:.3g}") for value in values])
        if self.low == self.high:
            return [(0.5, f"{self.low:.4g}")]
        values = [self.low + share * (self.high - self.low) for share in (0, 0.25, 0.5, 0.75, 1)]
        return [(self.place(value), f"{value:.4g}") for value in values]

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.kind == "log-uniform" else float(value)


def draw_parallel(
    axes: Any, rows: list[TrialRow], space: dict[str, Space], objective: str, named: dict[str, str]
) -> None:
    """Draw `rows`, worst first, so that better trials are on top; `named` gives some trials their own color.

    A line skips the axes of keys that its trial does not have.
    """
    from matplotlib.collections import LineCollection

    vertical = [
        Axis(key, [row.point[key] for row in rows if key in row.point], domain) for key, domain in space.items()
    ]
    scores = [row.score or 0.0 for row in rows]
    vertical.append(Axis(objective, scores, Space(text="", kind="uniform", low=min(scores), high=max(scores))))
    ordered = sorted(rows, key=lambda row: row.id in named)
    lines, colors = [], []
    for number, row in enumerate(ordered):
        values = {**row.point, objective: row.score}
        axes_of_row = [(place, axis) for place, axis in enumerate(vertical) if axis.name in values]
        lines.append([(place, axis.place(values[axis.name])) for place, axis in axes_of_row])
        shade = 0.3 + 0.7 * number / max(1, len(rows) - 1)
        colors.append(named.get(row.id, (OTHER, shade)))
    axes.add_collection(
        LineCollection(
            lines,
            colors=colors,
            linewidths=[3.0 if row.id in named else 1.2 for row in ordered],
            linestyles=["--" if named.get(row.id) == REFERENCE else "-" for row in ordered],
            gid=points_id((row.id, "") for row in ordered),
        )
    )
    for place, axis in enumerate(vertical):
        axes.axvline(place, color=EDGE, lw=1, gid=axis_id(axis.name))
        for height, text in axis.ticks():
            look = {"facecolor": GROUND, "edgecolor": "none", "alpha": 0.8, "pad": 1}
            axes.text(place + 0.04, height, text, fontsize=9, va="center", bbox=look, zorder=4)
    axes.set_xticks(range(len(vertical)), [axis.name for axis in vertical])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(vertical) - 0.6)
    axes.set_ylim(-0.04, 1.04)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _apart(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Drop ticks that would overlap a lower one, but keep both ends."""
    kept = [ticks[0]]
    for tick in ticks[1:-1]:
        if tick[0] - kept[-1][0] > 0.06 and ticks[-1][0] - tick[0] > 0.06:
            kept.append(tick)
    return [*kept, ticks[-1]]
