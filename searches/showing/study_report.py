"""The report of the study: its figures, ours with their intervals, and the floors, side by side; each is marked.

A figure is called reproduced only where the study's own model was trained the study's way and the printed value lies in our
95% interval; a stand-in's score is shown and never called a reproduction.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Table

from gpt2core.config import MODELS, RunConfig
from gpt2core.describe import describe
from gpt2core.files import atomic_path
from searches.published import TABLES, Figure
from searches.running.ledger import COMPLETED
from searches.showing.plots import curves, front

REPRODUCED, DIFFERS, NOT_RUN = "reproduced", "not reproduced", "not run"

Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One printed figure beside ours."""

    table: str
    figure: Figure
    mark: str
    why: str = ""
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    floor: str = ""

    @property
    def ours_text(self) -> str:
        """Our value with its interval where there is one."""
        if self.ours is None:
            return ""
        interval = "" if self.low is None else f" [{_number(self.low)}, {_number(self.high)}]"
        return _number(self.ours) + interval

    @property
    def printed_text(self) -> str:
        """The study's value."""
        return _number(self.figure.value)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return (
        f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:g}"
        if abs(value) < 0.001
        else f"{value:.3f}"
        if abs(value) < 10
        else f"{value:.2f}"
    )


def lines(tables: Iterable[str], summaries: Mapping[tuple[str, str], Summary | str]) -> list[Line]:
    """Lay every figure of `tables` beside ours; a search that could not run is a reason in place of a summary."""
    return [_line(table, figure, summaries) for table in tables for figure in TABLES[table]]


def _line(table: str, figure: Figure, summaries: Mapping[tuple[str, str], Summary | str]) -> Line:
    if figure.why_not:
        return Line(table=table, figure=figure, mark=NOT_RUN, why=figure.why_not)
    if figure.search == "describe":
        return _described(table, figure)
    summary = summaries[str(figure.search), figure.task]
    if isinstance(summary, str):
        return Line(table=table, figure=figure, mark=NOT_RUN, why=summary)
    rows = [row for row in summary["trials"] if row["of"] is None and _answers(row["point"], figure.point)]
    rows = [row for row in rows if row["status"] == COMPLETED and figure.metric in row["metrics"]]
    if not rows:
        return Line(
            table=table, figure=figure, mark=NOT_RUN, why="its trial did not end well, or was not among the trials"
        )
    return _scored(table, figure, rows[0], summary)


def _answers(point: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    return all(key in point and point[key] == value for key, value in asked.items())


def _described(table: str, figure: Figure) -> Line:
    """Counts need no training; memory is predicted by a formula."""
    adapter = "full" if figure.point["adapter"] == "total" else figure.point["adapter"]
    config = RunConfig(model=figure.model, adapter=adapter, rank=figure.point["rank"])
    found = describe(config, "study" if adapter in ("lora", "freeze") else "plain")
    if figure.metric == "predicted_gpu_memory_gb":
        predicted = found["chosen"]["predicted_gpu_memory_gb"]
        why = "predicted by a formula; no GPU has measured it"
        return Line(table=table, figure=figure, mark=NOT_RUN, why=why, ours=predicted)
    key = "total_parameters_with_pooler" if figure.point["adapter"] == "total" else "trainable_parameters"
    mark = REPRODUCED if found[key] == figure.value else DIFFERS
    return Line(table=table, figure=figure, mark=mark, ours=found[key])


def _scored(table: str, figure: Figure, row: dict[str, Any], summary: Summary) -> Line:
    metrics, model = row["metrics"], row["config"]["model"]
    low, high = (metrics.get(f"{figure.metric}_{end}") for end in ("low", "high"))
    known = [f for f in summary["floors"].values() if figure.metric in f["scores"]]
    best = max(known, key=lambda floor: floor["scores"][figure.metric][0], default=None)
    floor = f"{best['scores'][figure.metric][0]:.2f} ({best['meaning']})" if best else ""
    if model != figure.model:
        mark, why = NOT_RUN, f"{model} stands in for {figure.model}; its score is no reproduction"
    elif low is None or high is None:
        mark, why = NOT_RUN, "this metric has no interval to judge by"
    else:
        mark, why = (REPRODUCED if low <= figure.value <= high else DIFFERS), ""
    return Line(
        table=table, figure=figure, mark=mark, why=why, ours=metrics[figure.metric], low=low, high=high, floor=floor
    )


def table(found: list[Line]) -> Table:
    """The report for the screen."""
    shown = Table(title="The study and this run", title_justify="left", header_style="bold")
    for heading in ("table", "row", "metric"):
        shown.add_column(heading)
    for heading in ("study", "ours [95% interval]"):
        shown.add_column(heading, justify="right")
    for heading in ("highest floor", "mark"):
        shown.add_column(heading)
    for line in found:
        mark = f"{line.mark}: {line.why}" if line.why else line.mark
        figure = line.figure
        shown.add_row(line.table, figure.label, figure.metric, line.printed_text, line.ours_text, line.floor, mark)
    return shown


def write(path: Path, found: list[Line], summaries: Mapping[tuple[str, str], Summary | str]) -> None:
    """Write the report as one HTML file that needs no other."""
    ran = {key: summary for key, summary in summaries.items() if not isinstance(summary, str)}
    environment = Environment(loader=PackageLoader("searches.showing", "."), autoescape=select_autoescape(["html"]))
    page = environment.get_template("study_report.html").render(
        lines=found,
        searches=[
            {"key": " on ".join(key), **summary, "plots": [curves(summary), front(summary)]}
            for key, summary in ran.items()
        ],
        marks={mark: sum(line.mark == mark for line in found) for mark in (REPRODUCED, DIFFERS, NOT_RUN)},
        stand_in=any(
            row["config"]["model"] not in MODELS or row["config"]["model"] == "gpt2-nano"
            for s in ran.values()
            for row in s["trials"]
        ),
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")
