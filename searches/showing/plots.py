"""Plots of a search as SVG, made from its summary."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from searches.showing.parallel import draw_parallel
from searches.summary import Summary, TrialRow

BEST, REFERENCE, OTHER, BASELINE = "#0b6e4f", "#b3541e", "#8a94a0", "#a32020"
CURVES, LINES, INTERVALS, POINTS = 60, 200, 25, 1000  # trials that a picture shows at most; more would hide one another

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6673",
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 11,
    "text.color": "#1c2430",
    "axes.labelcolor": "#1c2430",
    "xtick.color": "#1c2430",
    "ytick.color": "#1c2430",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is one
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot with its words: `alt` for those who do not see it, `caption` for all."""

    svg: str
    alt: str
    caption: str
    wide: bool = False


def curves(summary: Summary) -> str:
    """The objective and the training loss of each trial by epoch; empty where no trial has two epochs."""
    return _side_by_side(_curve_metrics(summary), partial(_draw_curves, summary), name="curves")


def curve_pictures(summary: Summary) -> list[Picture]:
    """The same, a picture for each metric."""
    rows = _with_curves(summary)
    drawn = spread(rows, summary, CURVES)
    which = f"{len(drawn)} of {len(rows)} trials, spread evenly from best to worst" if len(drawn) < len(rows) else ""
    return [
        Picture(
            svg=_side_by_side([metric], partial(_draw_curves, summary), name=f"curve-{metric}"),
            alt=f"{_words(metric)} by epoch, a line for each of {len(drawn)} trials",
            caption=f"{_words(metric)} by epoch" + (f": {which}" if which else ""),
        )
        for metric in _curve_metrics(summary)
    ]


def front(summary: Summary) -> str:
    """The objective against each cost with the Pareto front; empty where the search weighs no costs."""
    return _side_by_side(_front_costs(summary), partial(_draw_front, summary), name="front")


def front_pictures(summary: Summary) -> list[Picture]:
    """The same, a picture for each cost."""
    objective = _words(summary.objective)
    return [
        Picture(
            svg=_side_by_side([cost], partial(_draw_front, summary), name=f"front-{cost}"),
            alt=f"{objective} against {_words(cost)}; {len(summary.pareto)} trials are on the Pareto front",
            caption=f"{objective} against {_words(cost)}; green, with their names: on the Pareto front of all costs"
            + _points_said(summary, cost),
        )
        for cost in _front_costs(summary)
    ]


def _points_said(summary: Summary, cost: str) -> str:
    """How many trials a picture of the front shows, where it leaves some out."""
    groups = _front_and_others(summary, cost)
    drawn, every = sum(min(POINTS, len(rows)) for rows in groups), sum(map(len, groups))
    return f"; {drawn} of {every} trials, spread evenly from best to worst" if drawn < every else ""


def _front_and_others(summary: Summary, cost: str) -> tuple[list[TrialRow], list[TrialRow]]:
    on_front = set(summary.pareto)
    rows = [row for row in _scored(summary) if cost in row.metrics]
    return [row for row in rows if row.id in on_front], [row for row in rows if row.id not in on_front]


def _side_by_side(names: list[str], draw: Callable[[str, Any], None], *, name: str) -> str:
    def draw_all(figure: Any) -> None:
        for axes, one in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            draw(one, axes)

    return svg_of(draw_all, width=5.4 * len(names), name=name) if names else ""


def intervals(summary: Summary) -> Picture | None:
    """The best trials with their intervals over texts beside the best trivial baseline; None where no trial has a score."""
    rows = sorted(_scored(summary), key=lambda row: _order(row, summary))
    shown = rows[:INTERVALS] + [row for row in rows[INTERVALS:] if row.id == _id(summary.reference)]
    if not shown:
        return None
    baseline, digits = best_baseline(summary), summary.digits(summary.objective)
    ends = {row.id: _ends(row, summary.objective) for row in shown}
    values = [value for row in shown for value in (row.score, *ends[row.id]) if value is not None]
    span = max(values) - min(values)
    near = baseline is not None and min(values) - span <= baseline[1] <= max(values) + span

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(shown):
            low, high = ends[row.id]
            color = _color(row, summary)
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=color, lw=2)
            axes.plot(row.score, place, "o", color=color, ms=6)
        if baseline and near:
            axes.axvline(baseline[1], color=BASELINE, ls="--", label="best trivial baseline")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        axes.set_yticks(range(len(shown)), [_name(row, summary) for row in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(_words(summary.objective))

    height = 1.2 + 0.26 * len(shown)
    where = "the dashed line is" if near else "outside the picture is"
    beside = f"; {where} the best trivial baseline, {baseline[1]:.{digits}f} ({baseline[0]})" if baseline else ""
    less = f" of the best {INTERVALS} of {len(rows)} trials" if len(rows) > INTERVALS else ""
    return Picture(
        svg=svg_of(draw, height=height, name="intervals"),
        alt=f"Scores with 95% intervals over texts of {len(shown)} trials, best first{beside}",
        caption=f"Score and 95% interval over texts{less}, best first{beside}",
    )


def _ends(row: TrialRow, objective: str) -> tuple[float | None, float | None]:
    return row.metrics.get(f"{objective}_low"), row.metrics.get(f"{objective}_high")


def parallel(summary: Summary) -> Picture | None:
    """Parallel coordinates of the searched keys and the objective; None below two trials or without a recorded space."""
    space = summary.space
    rows = [row for row in _scored(summary) if space.keys() <= row.point.keys()]
    if len(rows) < 2 or not space:
        return None
    shown = spread(rows, summary, LINES)
    which = f"{len(shown)} of {len(rows)} trials, spread evenly" if len(shown) < len(rows) else f"{len(rows)} trials"
    ranked = sorted(shown, key=lambda row: _order(row, summary), reverse=True)
    named = {i: color for i, color in ((_id(summary.reference), REFERENCE), (_id(summary.best), BEST)) if i}
    objective = _words(summary.objective)
    return Picture(
        svg=svg_of(
            lambda figure: draw_parallel(figure.subplots(), ranked, space, objective, named),
            width=max(5.4, 1.7 * (len(space) + 1)),
            height=4.2,
            name="parallel",
        ),
        alt=f"Parallel coordinates of {', '.join(space)} and {objective}, a line for each trial",
        caption=f"Each line is a trial ({which}): the darker, the better. Green is the best, orange the reference.",
        wide=True,
    )


def best_baseline(summary: Summary) -> tuple[str, float] | None:
    """Meaning and score of the best trivial baseline, by the objective; None where none has such a score."""
    objective = summary.objective
    known = [(row.meaning, row.scores[objective][0]) for row in summary.baselines.values() if objective in row.scores]
    return summary.direction.best(known, key=itemgetter(1))


def spread(rows: list[TrialRow], summary: Summary, limit: int) -> list[TrialRow]:
    """At most `limit` trials, evenly from the best to the worst, the best and the reference among them."""
    ranked = sorted(rows, key=lambda row: _order(row, summary))
    if len(ranked) <= limit:
        return ranked
    places = {round(place * (len(ranked) - 1) / (limit - 2)) for place in range(limit - 1)}
    kept = (_id(summary.reference), _id(summary.best))
    return [row for place, row in enumerate(ranked) if place in places or row.id in kept][:limit]


def _draw_curves(summary: Summary, metric: str, axes: Any) -> None:
    best, reference = _id(summary.best), _id(summary.reference)
    rows, values, labelled = spread(_with_curves(summary), summary, CURVES), [], False
    for row in sorted(rows, key=lambda row: (row.id == best, row.id == reference)):
        points = [(report["epoch"], report[metric]) for report in row.curve if metric in report]
        if not points:
            continue
        named = row.id in (best, reference)
        label = _name(row, summary) if named else None if labelled else "others"
        labelled |= not named
        values += [value for _, value in points]
        look = {"lw": 2.5 if named else 1, "ms": 4 if named else 2, "alpha": 1 if named else 0.7}
        axes.plot(*zip(*points, strict=True), marker="o", color=_color(row, summary), label=label, **look)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")  # else one bad trial would flatten all others
    axes.set_xlabel("epoch")
    axes.set_ylabel(_words(metric))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, columnspacing=1)


def _draw_front(summary: Summary, cost: str, axes: Any) -> None:
    front, others = _front_and_others(summary, cost)
    for rows, color in ((others, OTHER), (front, BEST)):
        some = spread(rows, summary, POINTS) if len(rows) > POINTS else rows
        axes.scatter([row.metrics[cost] for row in some], [row.score for row in some], color=color, zorder=3)
    for row in front[:INTERVALS]:
        place = (row.metrics[cost], row.score)
        axes.annotate(row.id, place, fontsize=9, xytext=(4, 4), textcoords="offset points")
    found = [row.metrics[cost] for row in (*front, *others)]
    if min(found) > 0 and max(found) > 10 * min(found):
        axes.set_xscale("log")
    axes.set_xlabel(_words(cost))
    axes.set_ylabel(_words(summary.objective))


def svg_of(draw: Callable[[Any], None], *, width: float = 5.4, height: float = 3.6, name: str) -> str:
    """A picture as SVG, the same for the same name and drawing."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    # The names of groups are the same in every plot, and a page may hold an id once; nothing refers to them.
    return re.sub(r'<g id="[\w.]+">', "<g>", text[text.index("<svg") :])


def _scored(summary: Summary) -> list[TrialRow]:
    return [row for row in summary.trials if row.of is None and row.score is not None]


def _with_curves(summary: Summary) -> list[TrialRow]:
    return [row for row in summary.trials if row.of is None and len(row.curve) > 1]


def _curve_metrics(summary: Summary) -> list[str]:
    rows = _with_curves(summary)
    return [m for m in (summary.objective, "train_loss") if any(m in report for r in rows for report in r.curve)]


def _front_costs(summary: Summary) -> list[str]:
    rows = _scored(summary) if summary.pareto else []
    return [cost for cost in summary.costs if any(cost in row.metrics for row in rows)]


def _order(row: TrialRow, summary: Summary) -> tuple[bool, float, str]:
    return row.score is None, -summary.direction.sign * (row.score or 0.0), row.id


def _id(row: TrialRow | None) -> str | None:
    return row.id if row else None


def _name(row: TrialRow, summary: Summary) -> str:
    named = {"best": _id(summary.best), "reference": _id(summary.reference)}
    roles = [role for role, name in named.items() if row.id == name]
    return " ".join([*roles, row.id])


def _color(row: TrialRow, summary: Summary) -> str:
    return {_id(summary.reference): REFERENCE, _id(summary.best): BEST}.get(row.id, OTHER)


def _words(metric: str) -> str:
    return metric.replace("_", " ")
