"""The pictures of the answer: the compared settings with their trials and fresh runs, and the expected best of k trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searches.formatting import count, words
from searches.showing.answers import interval_name, value_name
from searches.showing.plots import BASELINE, BEST, OTHER, REFERENCE, Picture, best_baseline, spread, svg_of
from searches.summary import ComparedSetting, Summary, TrialRow, Verdict

DOTS = 150  # trials that are drawn for a value, at most
WIDE = 2.0  # spans of the dots, within which an interval is drawn whole
FAR = 0.6  # spans of the rest, within which a trivial baseline is drawn
REACH = 1.5  # interquartile ranges beyond the quartiles within which trials are drawn (Tukey 1977)
#: A color, a marker and a dash for each line (colors of Okabe and Ito 2008, which those who see few colors tell apart).
LOOKS = [
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#cc79a7", "D", ":"),
    ("#56b4e9", "v", "-"),
    ("#8a6d00", "P", "--"),
    ("#1c2430", "X", "-."),
    ("#a05a2c", "*", ":"),
]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What stands over one place of the axis."""

    name: str
    trials: list[float]
    row: ComparedSetting


def answer_picture(summary: Summary) -> Picture | None:
    """The scores of each compared setting: of its trials in the search, and of its fresh runs; None where there is none."""
    answer = summary.answer
    columns = [column for column in _columns(summary) if column.trials or column.row.runs]
    if not columns:
        return None
    low, high = _range(columns)
    baseline = best_baseline(summary)
    near = baseline is not None and low - FAR * (high - low) <= baseline[1] <= high + FAR * (high - low)
    if baseline and near:
        low, high = min(low, baseline[1]), max(high, baseline[1])
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    ends = (low - margin, high + margin)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, column in enumerate(columns):
            _draw_column(axes, place, column, ends)
        if baseline and near:
            axes.axhline(baseline[1], color=BASELINE, ls="--", lw=1.5, label="best trivial baseline")
        axes.set_ylim(*ends)
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.grid(False, axis="x")
        _name_columns(axes, columns)
        axes.set_xlabel(answer.factor.name if answer.factor else "")
        axes.set_ylabel(_metric_text(answer))
        shown: dict[str, Any] = {}
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
        axes.legend(
            shown.values(), shown.keys(), loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, frameon=False
        )

    return Picture(
        svg=svg_of(draw, width=5.4, height=5.0 if _long(columns) else 4.1, name="answer"),
        alt=_alt(answer, columns),
        caption=_caption(answer, columns, ends, baseline, near=near),
    )


def expected_picture(summary: Summary) -> Picture | None:
    """The expected best score after k trials of each value; None where no value has two trials."""
    answer = summary.answer
    lines = [(row.name, row.expected) for row in answer.rows if len(row.expected) > 1]
    if not answer.factor or not lines:
        return None
    digits = answer.metric.digits
    least = min(len(values) for _, values in lines)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (name, values) in enumerate(lines):
            color, marker, dash = LOOKS[place % len(LOOKS)]
            numbers = _some(len(values))
            axes.plot(
                [number + 1 for number in numbers],
                [values[number] for number in numbers],
                color=color,
                marker=marker,
                ls=dash,
                ms=5,
                markevery=max(1, len(numbers) // 10),
                label=name,
            )
        axes.set_xlabel("trials of each value")
        axes.set_ylabel(f"expected best {words(answer.metric.name)}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=_fitting([name for name, _ in lines]), frameon=False
        )

    told = "; ".join(f"{name}: {values[least - 1]:.{digits}f}" for name, values in lines)
    factor = answer.factor.name
    return Picture(
        svg=svg_of(draw, width=5.4, height=4.1, name="expected"),
        alt=f"Expected best score after so many trials of each {factor}; after {least} trials: {told}",
        caption=(
            f"The score that the best of k trials is expected to have, with equal numbers of trials of each {factor} (Dodge et "
            f"al. 2019). It is on the texts that the search chose by, not of the fresh runs. After {least} trials: {told}."
        ),
    )


def _columns(summary: Summary) -> list[Column]:
    answer = summary.answer
    scored = [row for row in summary.trials if row.of is None and row.score is not None]
    groups: dict[str, list[TrialRow]] = {row.name: [] for row in answer.rows}
    for trial in scored:
        name = _group(trial, answer)
        if name is not None:
            groups[name].append(trial)
    return [
        Column(
            name=value_name(row, answer),
            trials=[trial.score or 0.0 for trial in spread(groups[row.name], summary, DOTS)],
            row=row,
        )
        for row in answer.rows
    ]


def _group(trial: TrialRow, answer: Verdict) -> str | None:
    """The compared setting that a trial of the search belongs to."""
    for row in answer.rows:
        if not answer.factor:
            if row.trial == trial.id:
                return row.name
        elif all(key in trial.point and trial.point[key] == value for key, value in row.value.items()):
            return row.name
    return None


def _range(columns: Sequence[Column]) -> tuple[float, float]:
    """What the picture shows: all runs and means, and the trials that do not lie far from the rest of the trials."""
    trials = np.array([score for column in columns for score in column.trials])
    kept = [score for column in columns for score in column.row.runs]
    kept += [column.row.score for column in columns if column.row.score is not None]
    if len(trials):
        low, high = np.quantile(trials, [0.25, 0.75])
        reach = REACH * (high - low)
        kept += trials[(trials >= low - reach) & (trials <= high + reach)].tolist()
    span = (max(kept) - min(kept)) or 1.0
    bounds = [end for column in columns for end in (column.row.low, column.row.high) if end is not None]
    kept += [bound for bound in bounds if min(kept) - WIDE * span <= bound <= max(kept) + WIDE * span]
    return min(kept), max(kept)


def _draw_column(axes: Any, place: int, column: Column, ends: tuple[float, float]) -> None:
    row, middle = column.row, place - 0.22
    inside = [score for score in column.trials if ends[0] <= score <= ends[1]]
    look = {"color": OTHER, "ms": 4, "alpha": 0.75, "label": "trials of the search"}
    axes.plot(_jittered(middle, inside, 0.13), inside, "o", **look)
    for beyond, marker, end in _outside(column, ends):
        if beyond:
            axes.plot(middle, end, marker, color=OTHER, ms=7, clip_on=False, label="trials outside the picture")
    if row.runs:
        look = {"color": REFERENCE, "ms": 5, "label": "fresh runs", "zorder": 3}
        axes.plot(_jittered(place + 0.12, row.runs, 0.06), row.runs, "D", **look)
    if row.mean is not None:
        bars = None if row.low is None or row.high is None else [[row.mean - row.low], [row.high - row.mean]]
        look = {
            "color": BEST,
            "ms": 13,
            "mew": 2.5,
            "lw": 2,
            "capsize": 4,
            "zorder": 4,
            "label": "their mean, 95% interval",
        }
        axes.errorbar(place + 0.3, row.mean, yerr=bars, fmt="_", **look)


def _outside(column: Column, ends: tuple[float, float]) -> list[tuple[int, str, float]]:
    """How many trials lie above and below the picture, with the mark for them and its height."""
    above, below = (sum(score > ends[1] for score in column.trials), sum(score < ends[0] for score in column.trials))
    return [(above, "^", ends[1]), (below, "v", ends[0])]


def _jittered(middle: float, values: Sequence[float], width: float) -> list[float]:
    """Places around `middle`, so that equal values do not hide one another; the same for the same values."""
    steps = (0.0, 0.8, -0.8, 0.4, -0.4, 1.0, -1.0, 0.6, -0.6, 0.2, -0.2)
    order = np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable")
    return (
        [middle + width * steps[int(rank) % len(steps)] for rank in order]
        if len(values) > 1
        else [middle] * len(values)
    )


def _name_columns(axes: Any, columns: Sequence[Column]) -> None:
    names, long = [column.name.replace(", ", ",\n") for column in columns], _long(columns)
    axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")


def _long(columns: Sequence[Column]) -> bool:
    """Whether the names do not fit side by side."""
    return max(len(part) for column in columns for part in column.name.split(", ")) * len(columns) > 50


def _metric_text(answer: Verdict) -> str:
    metric = answer.metric
    want = f"{metric.direction.wanted} is better"
    unit = f" ({metric.unit}, {want})" if metric.unit else f" ({want})"
    return f"{words(metric.name)}{unit}"


def _alt(answer: Verdict, columns: Sequence[Column]) -> str:
    digits, said = answer.metric.digits, []
    for column in columns:
        row, name = column.row, column.row.name
        if row.mean is not None:
            interval = "" if row.low is None else f" (95% interval {row.low:.{digits}f} to {row.high:.{digits}f})"
            said.append(f"{name}: {len(row.runs)} fresh runs, mean {row.mean:.{digits}f}{interval}")
        elif row.score is not None:
            said.append(f"{name}: best in the search {row.score:.{digits}f}, not run again")
    return f"{words(answer.metric.name)} of each compared setting. {'; '.join(said)}."


def _caption(
    answer: Verdict,
    columns: Sequence[Column],
    ends: tuple[float, float],
    baseline: tuple[str, float] | None,
    *,
    near: bool,
) -> str:
    digits, again = answer.metric.digits, any(column.row.runs for column in columns)
    parts = ["Grey dots: trials, on the texts that the search chose by."]
    if again:
        parts.append(
            "Orange diamonds: runs on fresh seeds, on texts that the search did not use; beside them, in green, their mean with "
            f"its {interval_name(answer)}."
        )
    outside = sum(not ends[0] <= score <= ends[1] for column in columns for score in column.trials)
    if outside:
        lie = "lies" if outside == 1 else "lie"
        parts.append(f"Triangles: {count(outside, 'trial')} {lie} outside the picture.")
    cut = [end for column in columns for end in (column.row.low, column.row.high)]
    if any(bound is not None and not ends[0] <= bound <= ends[1] for bound in cut):
        parts.append("Intervals that leave the picture are in the table.")
    if baseline:
        value, where = f"{baseline[1]:.{digits}f}", "Dashed line:" if near else "Outside the picture:"
        parts.append(f"{where} the best trivial baseline, {value} ({baseline[0]}).")
    return " ".join(parts)


def _fitting(names: Sequence[str]) -> int:
    """How many names of a legend stand side by side."""
    return max(1, min(4, 44 // (max(map(len, names)) + 4)))


def _some(number: int, most: int = 60) -> list[int]:
    """At most so many of the places of a line, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, number - 1, min(number, most))})
