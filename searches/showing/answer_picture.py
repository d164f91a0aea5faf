"""The pictures of the answer: the compared settings with their trials and fresh runs, and the expected best of k trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2core.naming import words
from searches.formatting import count
from searches.showing.answers import interval_name, value_name
from searches.showing.marks import points_id
from searches.showing.plots import Picture, add_legend, best_baseline, spread, svg_of
from searches.showing.theme import BASELINE, BEST, LOOKS, OTHER, REFERENCE
from searches.summary import ComparedSetting, Summary, TrialRow, Verdict

SELECTING = ", scored on the texts that the search selects by"
DOTS = 150  # trials of a setting that are drawn at most
WIDE = 2.0  # an interval is drawn whole within so many spans beyond the dots
FAR = 0.6  # the trivial baseline is drawn within so many spans beyond all else
REACH = 1.5  # trials are drawn within so many interquartile ranges beyond the quartiles (Tukey 1977)
LEGEND: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.45, 1.0), "frameon": False}


@dataclass(frozen=True, kw_only=True)
class Group:
    """A compared setting: its name on the axis, its trials that have a score, and its row of the answer."""

    name: str
    trials: list[TrialRow]
    row: ComparedSetting

    @property
    def scores(self) -> list[float]:
        """The scores of its trials."""
        return [trial.score or 0.0 for trial in self.trials]


def answer_picture(summary: Summary) -> Picture | None:
    """Return the scores of each compared setting, in the search and on fresh seeds; None if there are none."""
    answer = summary.answer
    groups = [group for group in _groups(summary) if group.trials or group.row.runs]
    if not groups:
        return None
    low, high = _range(groups)
    baseline = best_baseline(summary)
    near = baseline is not None and low - FAR * (high - low) <= baseline[1] <= high + FAR * (high - low)
    if baseline and near:
        low, high = min(low, baseline[1]), max(high, baseline[1])
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    ends = (low - margin, high + margin)
    # Whether the names do not fit side by side.
    long = max(len(part) for group in groups for part in group.name.split(", ")) * len(groups) > 50
    names = [group.name if long else group.name.replace(", ", ",\n") for group in groups]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, group in enumerate(groups):
            _draw_group(axes, place, group, ends)
        if baseline and near:
            axes.axhline(baseline[1], color=BASELINE, ls="--", lw=1.5, label="best trivial baseline")
        axes.set_ylim(*ends)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.grid(False, axis="x")
        axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
        axes.set_xlabel(answer.factor.name if answer.factor else "")
        axes.set_ylabel(_metric_text(answer))
        add_legend(axes, ncols=2, **LEGEND)

    return Picture(
        svg=svg_of(draw, width=5.4, height=5.3 if long else 4.4, name="answer"),
        alt=_alt(answer, groups),
        caption=_caption(answer, groups, ends, baseline, near=near, by_texts=summary.by_texts),
    )


def expected_picture(summary: Summary) -> Picture | None:
    """Return the expected best score after k trials of each value; None if no value has two trials."""
    answer = summary.answer
    lines = [(row.name, row.expected) for row in answer.rows if len(row.expected) > 1]
    if not answer.factor or not lines:
        return None
    factor, digits = answer.factor.name, answer.metric.digits
    least = min(len(values) for _, values in lines)
    columns = max(1, min(4, 44 // (max(len(name) for name, _ in lines) + 4)))  # of the legend

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (name, values) in enumerate(lines):
            color, marker, dash = LOOKS[place % len(LOOKS)]
            points = sorted({round(k) for k in np.linspace(0, len(values) - 1, min(len(values), 60))})
            look = {"color": color, "marker": marker, "ls": dash, "ms": 5, "markevery": max(1, len(points) // 10)}
            axes.plot([k + 1 for k in points], [values[k] for k in points], label=name, **look)
        axes.set_xlabel("trials of each value")
        axes.set_ylabel(f"expected best {words(answer.metric.name)}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(ncols=columns, **LEGEND)

    scores = "; ".join(f"{name}: {values[least - 1]:.{digits}f}" for name, values in lines)
    return Picture(
        svg=svg_of(draw, width=5.4, height=4.1, name="expected"),
        alt=f"Expected best score after k trials of each {factor}; after {least} trials: {scores}",
        caption=(
            f"Expected best score among k trials of each {factor} (Dodge et al. 2019){SELECTING if summary.by_texts else ''}. "
            f"After {least} trials: {scores}."
        ),
    )


def _groups(summary: Summary) -> list[Group]:
    answer = summary.answer
    trials: dict[str, list[TrialRow]] = {row.name: [] for row in answer.rows}
    for trial in summary.searched:
        name = _setting_of(trial, answer)
        if name is not None and trial.score is not None:
            trials[name].append(trial)
    return [
        Group(
            name=value_name(row, answer),
            trials=spread(trials[row.name], summary, DOTS),
            row=row,
        )
        for row in answer.rows
    ]


def _setting_of(trial: TrialRow, answer: Verdict) -> str | None:
    """Return the name of the compared setting that a trial belongs to, if any."""
    for row in answer.rows:
        if not answer.factor:
            if row.trial == trial.id:
                return row.name
        elif all(key in trial.point and trial.point[key] == value for key, value in row.value.items()):
            return row.name
    return None


def _range(groups: Sequence[Group]) -> tuple[float, float]:
    """Return the range that the picture shows: all runs and means, and the trials without outliers."""
    trials = np.array([score for group in groups for score in group.scores])
    kept = [score for group in groups for score in group.row.runs]
    kept += [group.row.score for group in groups if group.row.score is not None]
    if len(trials):
        low, high = np.quantile(trials, [0.25, 0.75])
        reach = REACH * (high - low)
        kept += trials[(trials >= low - reach) & (trials <= high + reach)].tolist()
    span = (max(kept) - min(kept)) or 1.0
    kept += [end for end in _interval_ends(groups) if min(kept) - WIDE * span <= end <= max(kept) + WIDE * span]
    return min(kept), max(kept)


def _interval_ends(groups: Sequence[Group]) -> list[float]:
    return [end for group in groups for end in (group.row.low, group.row.high) if end is not None]


def _draw_group(axes: Any, place: int, group: Group, ends: tuple[float, float]) -> None:
    row, middle, (bottom, top) = group.row, place - 0.22, ends
    shown = [trial for trial in group.trials if bottom <= (trial.score or 0.0) <= top]
    inside = [trial.score or 0.0 for trial in shown]
    look = {"color": OTHER, "ms": 4, "alpha": 0.75, "label": "trials of the search"}
    axes.plot(_jittered(middle, inside, 0.13), inside, "o", gid=points_id((trial.id, "") for trial in shown), **look)
    outside = {"color": OTHER, "ms": 7, "clip_on": False, "label": "trials outside the picture"}
    if any(score > top for score in group.scores):
        axes.plot(middle, top, "^", **outside)
    if any(score < bottom for score in group.scores):
        axes.plot(middle, bottom, "v", **outside)
    if row.runs:
        look = {"color": REFERENCE, "ms": 5, "label": "fresh runs", "zorder": 3}
        axes.plot(_jittered(place + 0.12, row.runs, 0.06), row.runs, "D", **look)
    if row.mean is not None:
        bars = None if row.low is None or row.high is None else [[row.mean - row.low], [row.high - row.mean]]
        look = {"color": BEST, "ms": 13, "mew": 2.5, "lw": 2, "capsize": 4, "zorder": 4}
        axes.errorbar(place + 0.3, row.mean, yerr=bars, fmt="_", label="their mean, 95% interval", **look)


def _jittered(middle: float, values: Sequence[float], width: float) -> list[float]:
    """Return places around `middle` so that equal values do not hide one another; the same for the same values."""
    if len(values) < 2:
        return [middle] * len(values)
    steps = (0.0, 0.8, -0.8, 0.4, -0.4, 1.0, -1.0, 0.6, -0.6, 0.2, -0.2)
    ranks = np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable")
    return [middle + width * steps[int(rank) % len(steps)] for rank in ranks]


def _metric_text(answer: Verdict) -> str:
    metric = answer.metric
    unit = f"{metric.unit}, " if metric.unit else ""
    return f"{words(metric.name)}\n({unit}{metric.direction.wanted} is better)"


def _alt(answer: Verdict, groups: Sequence[Group]) -> str:
    digits, parts = answer.metric.digits, []
    for row in (group.row for group in groups):
        if row.mean is not None:
            interval = "" if row.low is None else f" (95% interval {row.low:.{digits}f} to {row.high:.{digits}f})"
            parts.append(f"{row.name}: {count(len(row.runs), 'fresh run')}, mean {row.mean:.{digits}f}{interval}")
        elif row.score is not None:
            parts.append(f"{row.name}: best in the search {row.score:.{digits}f}, not run again")
    return f"{words(answer.metric.name)} of each compared setting. {'; '.join(parts)}."


def _caption(
    answer: Verdict,
    groups: Sequence[Group],
    ends: tuple[float, float],
    baseline: tuple[str, float] | None,
    *,
    near: bool,
    by_texts: bool,
) -> str:
    parts = [f"Grey dots: trials{SELECTING if by_texts else ''}."]
    if any(group.row.runs for group in groups):
        held_out = ", scored on held-out texts" if by_texts else ""
        parts.append(
            f"Orange diamonds: runs on fresh seeds{held_out}; the blue bars next to them: their mean with its "
            f"{interval_name(answer, by_texts=by_texts)}."
        )
    outside = sum(not ends[0] <= score <= ends[1] for group in groups for score in group.scores)
    if outside:
        parts.append(f"Triangles: {count(outside, 'trial')} outside the picture.")
    if any(not ends[0] <= end <= ends[1] for end in _interval_ends(groups)):
        parts.append("The table has the intervals that are cut off.")
    if baseline:
        value, where = f"{baseline[1]:.{answer.metric.digits}f}", "Dashed line:" if near else "Outside the picture:"
        parts.append(f"{where} the best trivial baseline, {value} ({baseline[0]}).")
    return " ".join(parts)
