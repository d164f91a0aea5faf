"""Plots of a search as SVG, made from its summary."""

import io
from collections.abc import Callable
from typing import Any

from searches.words import value_text

Summary = dict[str, Any]

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
}


def plots(summary: Summary) -> dict[str, str]:
    """All that a search has to show, by the name of a file."""
    drawn = {"curves.svg": curves(summary), "front.svg": front(summary)}
    return {name: svg for name, svg in drawn.items() if svg}


def curves(summary: Summary) -> str:
    """The objective and the training loss of each trial by epoch; empty where no trial has two epochs."""
    rows = [row for row in summary["trials"] if row["of"] is None and len(row["curve"]) > 1]
    if not rows:
        return ""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for axes, metric in ((left, summary["objective"]), (right, "train_loss")):
            for row in rows:
                best = row["id"] == (summary["best"] or {}).get("id")
                points = [(report["epoch"], report[metric]) for report in row["curve"] if metric in report]
                label = f"{row['id']} {_point(row['point'])}"
                axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=2.5 if best else 1, label=label)
            axes.set_xlabel("epoch")
            axes.set_ylabel(metric.replace("_", " "))
            axes.xaxis.get_major_locator().set_params(integer=True)
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)

    return _svg(draw, width=11)


def front(summary: Summary) -> str:
    """Quality against trainable parameters with the Pareto front; empty where the search weighs no costs."""
    cost = "trainable_parameters"
    rows = [
        row for row in summary["trials"] if row["of"] is None and cost in row["metrics"] and row["score"] is not None
    ]
    if not summary["pareto"] or not rows:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row in rows:
            on_front = row["id"] in summary["pareto"]
            color = "tab:green" if on_front else "tab:gray"
            axes.scatter(row["metrics"][cost], row["score"], color=color, zorder=3 if on_front else 2)
            axes.annotate(
                row["id"], (row["metrics"][cost], row["score"]), fontsize=7, xytext=(4, 4), textcoords="offset points"
            )
        axes.set_xscale("log")
        axes.set_xlabel("trainable parameters (green: on the Pareto front of objective and costs)")
        axes.set_ylabel(summary["objective"].replace("_", " "))

    return _svg(draw, width=7)


def _svg(draw: Callable[[Any], None], width: float) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": "gpt2-search"}):
        figure = Figure(figsize=(width, 3.4), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _point(point: dict[str, Any]) -> str:
    return ", ".join(map(value_text, point.values()))
