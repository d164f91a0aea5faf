"""Plots of a search as SVG, made from its summary."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from gpt2core.naming import words
from searches.showing.marks import marked, points_id
from searches.showing.parallel import draw_parallel
from searches.showing.theme import BASELINE, BEST, EDGE, GRID, INK, OTHER, REFERENCE
from searches.summary import Summary, TrialRow

CURVES, LINES, INTERVALS, POINTS = 60, 200, 25, 1000  # trials that a picture shows at most; more would hide one another

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": EDGE,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.color": GRID,
    "font.size": 12.5,  # legible where a phone shrinks the plot
    "axes.labelsize": 11.5,
    "font.sans-serif": ["DejaVu Sans"],  # each text of a plot names all of them
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is no formula
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot with a caption, and `alt` text for screen readers."""

    svg: str
    alt: str
    caption: str
    wide: bool = False


def curves(summary: Summary) -> str:
    """Return objective and training loss by epoch, side by side; empty if no trial has two epochs."""
    return _side_by_side(_curve_metrics(summary), partial(_draw_curves, summary), name="curves")


def curve_pictures(summary: Summary) -> list[Picture]:
    """Return the same curves as a picture for each metric."""
    rows = _with_curves(summary)
    drawn = spread(rows, summary, CURVES)
    part = f": {len(drawn)} of {len(rows)} trials, spread evenly from best to worst" if len(drawn) < len(rows) else ""
    return [
        Picture(
            svg=_side_by_side([metric], partial(_draw_curves, summary), name=f"curve-{metric}"),
            alt=f"{words(metric)} by epoch, a line for each of {len(drawn)} trials",
            caption=f"{words(metric)} by epoch{part}",
        )
        for metric in _curve_metrics(summary)
    ]


def front(summary: Summary) -> str:
    """Return the first metric of the Pareto front against each other one, side by side; empty without a front."""
    return _side_by_side(_front_metrics(summary), partial(_draw_front, summary), name="front")


def front_pictures(summary: Summary) -> list[Picture]:
    """Return the same plots, each as a picture."""
    score, pictures = words(summary.criteria[0]), []
    for metric in _front_metrics(summary):
        groups = _front_and_others(summary, metric)
        drawn, scored = sum(min(POINTS, len(rows)) for rows in groups), sum(map(len, groups))
        part = f"; {drawn} of {scored} trials, spread evenly from best to worst" if drawn < scored else ""
        pictures.append(
            Picture(
                svg=_side_by_side([metric], partial(_draw_front, summary), name=f"front-{metric}"),
                alt=f"{score} against {words(metric)}; {len(summary.pareto)} trials are on the Pareto front",
                caption=f"{score} against {words(metric)}; blue diamonds, with names: on the Pareto front of all metrics{part}",
            )
        )
    return pictures


def _front_and_others(summary: Summary, metric: str) -> tuple[list[TrialRow], list[TrialRow]]:
    on_front = set(summary.pareto)
    rows = [row for row in _scored(summary) if {metric, summary.criteria[0]} <= row.metrics.keys()]
    return [row for row in rows if row.id in on_front], [row for row in rows if row.id not in on_front]


def _side_by_side(metrics: list[str], draw: Callable[[str, Any], None], *, name: str) -> str:
    def draw_all(figure: Any) -> None:
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            draw(metric, axes)

    return svg_of(draw_all, width=5.4 * len(metrics), name=name) if metrics else ""


def intervals(summary: Summary) -> Picture | None:
    """Return the best trials with intervals over texts and the best trivial baseline; None if no trial has such an interval."""
    rows = summary.ranked(_scored(summary))
    shown = rows[:INTERVALS] + [row for row in rows[INTERVALS:] if row.id == summary.reference_id]
    if not shown or not summary.by_texts:
        return None
    objective, baseline, digits = summary.objective, best_baseline(summary), summary.digits(summary.objective)
    ends = {row.id: (row.metrics.get(f"{objective}_low"), row.metrics.get(f"{objective}_high")) for row in shown}
    values = [value for row in shown for value in (row.score, *ends[row.id]) if value is not None]
    span = max(values) - min(values)
    near = baseline is not None and min(values) - span <= baseline[1] <= max(values) + span

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(shown):
            low, high = ends[row.id]
            look = {"color": _color(row, summary), "gid": points_id([(row.id, "")])}
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], lw=2, **look)
            axes.plot(row.score, place, _marker(row, summary), ms=6, **look)
        if baseline and near:
            axes.axvline(baseline[1], color=BASELINE, ls="--", label="best trivial baseline")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        axes.set_yticks(range(len(shown)), [_label(row, summary) for row in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(words(objective))

    where = "the dashed line is" if near else "outside the picture is"
    line = f"; {where} the best trivial baseline, {baseline[1]:.{digits}f} ({baseline[0]})" if baseline else ""
    part = f" of the best {INTERVALS} of {len(rows)} trials" if len(rows) > INTERVALS else ""
    return Picture(
        svg=svg_of(draw, height=1.2 + 0.26 * len(shown), name="intervals"),
        alt=f"Scores with 95% intervals over texts of {len(shown)} trials, best first{line}",
        caption=f"Score and 95% interval over texts{part}, best first{line}",
    )


def parallel(summary: Summary) -> Picture | None:
    """Return parallel coordinates of the searched keys and the objective; None without two scored trials or a space."""
    space = summary.space
    rows = [row for row in _scored(summary) if space.keys() & row.point.keys()]
    if len(rows) < 2 or not space:
        return None
    ranked = spread(rows, summary, LINES)[::-1]
    part = f"{len(ranked)} of {len(rows)} trials, spread evenly" if len(ranked) < len(rows) else f"{len(rows)} trials"
    colors = {summary.reference_id: REFERENCE, summary.best_id: BEST}
    named = {name: color for name, color in colors.items() if name}
    objective = words(summary.objective)
    return Picture(
        svg=svg_of(
            lambda figure: draw_parallel(figure.subplots(), ranked, space, objective, named),
            width=max(5.4, 1.7 * (len(space) + 1)),
            height=4.2,
            name="parallel",
        ),
        alt=f"Parallel coordinates of {', '.join(space)} and {objective}, a line for each trial",
        caption=f"Each line is a trial ({part}); stronger lines are better. Blue is the best trial, dashed orange the reference.",
        wide=True,
    )


def best_baseline(summary: Summary) -> tuple[str, float] | None:
    """Return meaning and score of the best trivial baseline by the objective, or None if none has such a score."""
    objective = summary.objective
    known = [(row.meaning, row.scores[objective][0]) for row in summary.baselines.values() if objective in row.scores]
    return summary.direction.best(known, key=itemgetter(1))


def spread(rows: Sequence[TrialRow], summary: Summary, limit: int) -> list[TrialRow]:
    """Return at most `limit` trials, best first, spread evenly from best to worst, with the best trial and the reference."""
    ranked = summary.ranked(rows)
    if len(ranked) <= limit:
        return ranked
    places = {round(place * (len(ranked) - 1) / (limit - 2)) for place in range(limit - 1)}
    kept = (summary.reference_id, summary.best_id)
    return [row for place, row in enumerate(ranked) if place in places or row.id in kept][:limit]


def _draw_curves(summary: Summary, metric: str, axes: Any) -> None:
    best, reference = summary.best_id, summary.reference_id
    rows, values, labelled = spread(_with_curves(summary), summary, CURVES), [], False
    for row in sorted(rows, key=lambda row: (row.id == best, row.id == reference)):
        points = [(report["epoch"], report[metric]) for report in row.curve if metric in report]
        if not points:
            continue
        named = row.id in (best, reference)
        label = _label(row, summary) if named else None if labelled else "others"
        labelled |= not named
        values += [value for _, value in points]
        look: dict[str, Any] = {"lw": 2.5 if named else 1, "ms": 5 if named else 2, "alpha": 1 if named else 0.7}
        look |= {"marker": _marker(row, summary), "ls": "--" if row.id == reference else "-", "label": label}
        digits = summary.digits(metric, 3)
        notes = [(row.id, f"epoch {epoch:g}: {words(metric)} {value:.{digits}f}") for epoch, value in points]
        axes.plot(*zip(*points, strict=True), color=_color(row, summary), gid=points_id(notes), **look)
    if min(values) > 0 and max(values) > 20 * min(values):
        _use_log_scale(axes, "y")  # one bad trial would flatten all others
    axes.set_xlabel("epoch")
    axes.set_ylabel(words(metric))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, columnspacing=1)


def _draw_front(summary: Summary, metric: str, axes: Any) -> None:
    score, (front, others) = summary.criteria[0], _front_and_others(summary, metric)
    for rows, color, marker in ((others, OTHER, "o"), (front, BEST, "D")):
        drawn = spread(rows, summary, POINTS) if len(rows) > POINTS else rows
        look = {"color": color, "ms": 6, "zorder": 3, "gid": points_id((row.id, "") for row in drawn)}
        axes.plot([row.metrics[metric] for row in drawn], [row.metrics[score] for row in drawn], marker, **look)
    for row in front[:INTERVALS]:
        place = (row.metrics[metric], row.metrics[score])
        axes.annotate(row.id, place, fontsize=9, xytext=(4, 4), textcoords="offset points")
    values = [row.metrics[metric] for row in (*front, *others)]
    if min(values) > 0 and max(values) > 10 * min(values):
        _use_log_scale(axes, "x")
    axes.set_xlabel(words(metric))
    axes.set_ylabel(words(score))


def _use_log_scale(axes: Any, name: str) -> None:
    """Make the x or y axis logarithmic, with plain numbers: the default labels are formulas, which STYLE turns off."""
    from matplotlib.ticker import LogFormatter

    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def add_legend(axes: Any, **look: Any) -> None:
    """Add a legend that names what several rows draw once."""
    handles: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        handles.setdefault(label, handle)
    axes.legend(handles.values(), handles.keys(), **look)


def svg_of(draw: Callable[[Any], None], *, width: float = 5.4, height: float = 3.6, name: str) -> str:
    """Return a picture as SVG; equal names and drawings give equal text."""
    out = io.StringIO()
    save_figure(out, draw, width=width, height=height, format="svg", name=name)
    text = out.getvalue()
    return marked(text[text.index("<svg") :])


def save_figure(
    out: Any, draw: Callable[[Any], None], *, width: float, height: float, format: str | None = None, name: str = ""
) -> None:
    """Write a picture of `width` by `height` inches to a path or file; the default format is by suffix. Raises OSError."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
        draw(figure)
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else None)


def _scored(summary: Summary) -> list[TrialRow]:
    return [row for row in summary.searched if row.score is not None]


def _with_curves(summary: Summary) -> list[TrialRow]:
    return [row for row in summary.searched if len(row.curve) > 1]


def _curve_metrics(summary: Summary) -> list[str]:
    reported = {metric for row in _with_curves(summary) for report in row.curve for metric in report}
    return [metric for metric in (summary.objective, "train_loss") if metric in reported]


def _front_metrics(summary: Summary) -> list[str]:
    rows = _scored(summary) if summary.pareto else []
    return [metric for metric in summary.criteria[1:] if any(metric in row.metrics for row in rows)]


def _label(row: TrialRow, summary: Summary) -> str:
    roles = {"best": summary.best_id, "reference": summary.reference_id}
    return " ".join([*(role for role, name in roles.items() if row.id == name), row.id])


def _color(row: TrialRow, summary: Summary) -> str:
    return {summary.reference_id: REFERENCE, summary.best_id: BEST}.get(row.id, OTHER)


def _marker(row: TrialRow, summary: Summary) -> str:
    return {summary.reference_id: "s", summary.best_id: "D"}.get(row.id, "o")
