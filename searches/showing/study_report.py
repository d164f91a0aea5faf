"""The page about the study: what our runs say of its claims, then its figures and ours side by side.

What earns which mark is said in `searches.deciding.claims` and `searches.deciding.figures`; here it is only shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Table
from rich.text import Text

from gpt2core.errors import all_visible, visible
from gpt2core.files import atomic_path
from searches.deciding import claims, figures
from searches.deciding.claims import Judged, Summaries, Summary
from searches.deciding.figures import Line
from searches.formatting import count
from searches.published import CLAIMS
from searches.showing.answer_picture import answer_picture
from searches.showing.answers import claim_and_rest
from searches.showing.plots import Picture

COLORS = {  # on the screen
    claims.SUPPORTED: "green",
    claims.CONTRADICTED: "red",
    claims.UNDECIDED: "yellow",
    figures.REPRODUCED: "green",
    figures.DIFFERS: "red",
    figures.FEW: "yellow",
    figures.NOT_TELLING: "yellow",
    figures.STAND_IN: "magenta",
    figures.OTHER: "cyan",
    claims.NOT_RUN: "dim",  # of figures too
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the page shows of a search: its question, its own answer, and where its report is."""

    question: str
    about: str
    first: str  # sentence of the answer
    rest: str
    report: str  # a link; empty where there is none
    picture: Picture | None


def judged(tables: Sequence[str], summaries: Summaries) -> list[Judged]:
    """Judge the claims of `tables`."""
    asked = [claim for claim in CLAIMS if claim.table in tables]
    return [claims.judge(claim, summaries, asked) for claim in asked]


def claims_table(found: Sequence[Judged]) -> Table:
    """The claims for the screen."""
    shown = Table(title="The study's claims", title_justify="left", header_style="bold")
    for heading in ("table", "claim", "the study", "our runs", "mark", "why"):
        shown.add_column(heading)
    shown.add_column("seeds needed", justify="right")
    for one in found:
        claim = one.claim
        shown.add_row(
            *_cells(claim.table, claim.words, claim.printed, "\n".join(one.ours)),
            _mark(one.mark),
            *_cells(one.words, seeds_text(one)),
        )
    return shown


def figures_table(found: Sequence[Line]) -> Table:
    """The figures for the screen."""
    shown = Table(title="The study's figures", title_justify="left", header_style="bold")
    for heading in ("table", "row", "metric"):
        shown.add_column(heading)
    for heading in ("study", "ours [95% interval]", "runs"):
        shown.add_column(heading, justify="right")
    for heading in ("best trivial baseline", "mark", "why"):
        shown.add_column(heading)
    for line in found:
        figure, runs = line.figure, str(line.runs or "")
        shown.add_row(
            *_cells(line.table, line.label, figure.measure, figure.printed, line.ours_text, runs, line.baseline_text),
            _mark(line.mark),
            *_cells(line.why),
        )
    return shown


def _cells(*texts: str) -> list[Text]:
    """Texts as they are: a bracket in one is no markup."""
    return [Text(visible(text)) for text in texts]


def _mark(mark: str) -> Text:
    return Text(mark, style=COLORS[mark])


def seeds_text(one: Judged) -> str:
    """How many seeds each setting needs for a decision; empty where that is not known or not needed."""
    return "" if one.seeds_needed is None else str(one.seeds_needed)


def write(path: Path, found: Sequence[Judged], lines: Sequence[Line], summaries: Summaries) -> None:
    """Write the report as one HTML file that needs no other."""
    environment = Environment(
        loader=PackageLoader("searches.showing", "."),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: type(value)(visible(value)) if isinstance(value, str) else value,  # markup stays markup
    )
    stand_ins = dict.fromkeys([one.stand_in for one in found if one.stand_in])
    page = environment.get_template("study_report.html").render(
        claims=found,
        lines=lines,
        searches=[_asked(*key, summary) for key, summary in summaries.items() if not isinstance(summary, str)],
        missing=[(" on ".join(key), why) for key, why in summaries.items() if isinstance(why, str)],
        claim_marks=_counted([one.mark for one in found]),
        figure_marks=_counted([line.mark for line in lines]),
        stand_ins=list(stand_ins),
        smoke=any(not isinstance(summary, str) and summary.get("smoke") for summary in summaries.values()),
        seeds_text=seeds_text,
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")


def _counted(marks: Sequence[str]) -> Mapping[str, int]:
    """How often there is each mark, in the order of their meaning; marks that nothing has are left out."""
    return {mark: marks.count(mark) for mark in COLORS if mark in marks}


def _asked(search: str, task: str, summary: Summary) -> Asked:
    summary = all_visible(summary)
    first, rest = claim_and_rest(summary["answer"]["text"])
    data: Mapping[str, Any] = summary["data"]
    trials = count(sum(row["of"] is None for row in summary["trials"]), "trial")
    return Asked(
        question=summary["question"],
        about=f"{search} on {task}: {trials}; model {summary['model']}; {data.get('data', 'data not read')}",
        first=first,
        rest=rest,
        report=summary.get("report", ""),
        picture=answer_picture(dict(summary)),
    )
