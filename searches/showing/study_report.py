"""The study report: what our runs say about the study's claims, then its figures beside ours.

`searches.deciding.study_claims` and `searches.deciding.study_figures` decide the marks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt2core.errors import all_visible, visible
from gpt2core.files import atomic_path
from searches.deciding import study_claims, study_figures
from searches.deciding.study_claims import Judged, Summaries
from searches.deciding.study_figures import Line
from searches.formatting import count
from searches.published import CLAIMS
from searches.showing.answer_picture import answer_picture
from searches.showing.report import page_environment
from searches.showing.study_picture import figure_pictures
from searches.showing.tables import Column, Table, as_html
from searches.summary import Summary

#: Mark -> color on the screen, in the order in which marks are counted.
COLORS = {
    study_claims.SUPPORTED: "green",
    study_claims.CONTRADICTED: "red",
    study_claims.UNDECIDED: "yellow",
    study_figures.REPRODUCED: "green",
    study_figures.DIFFERS: "red",
    study_figures.FEW: "yellow",
    study_figures.NOT_TELLING: "yellow",
    study_figures.STAND_IN: "magenta",
    study_figures.OTHER: "cyan",
    study_claims.NOT_RUN: "dim",  # for figures as well
}

ABOUT_CLAIMS = """\
Each comparison in the study, and what our runs say about it. Both settings use their own best values of the other \
hyperparameters, such as the learning rate, and are compared on fresh seeds by the objective of our search. Supported: at least \
three runs of each setting show the claimed difference with p < 0.05, corrected for all comparisons of the table. Contradicted: \
a significant difference in the other direction, or equivalence where the study claims a difference. Otherwise undecided, with \
the number of seeds of each setting that would decide it."""
ABOUT_FIGURES = """\
Each printed figure beside ours. Reproduced: at least three runs with the printed model, learning rate, batch size, epochs and \
data set; the printed value lies in the 95% interval of their mean, or within a margin beyond it (1 chrF, 1 point of accuracy, \
0.05 nats, 2% of a perplexity); and no trivial baseline passes by the same rule. To train and score exactly as the study did, \
give --confirm-on test and fix the printed values with --set."""


def judged(tables: Sequence[str], summaries: Summaries) -> list[Judged]:
    """Judge the claims of the study's `tables`."""
    claims = [claim for claim in CLAIMS if claim.table in tables]
    return [study_claims.judge(claim, summaries, claims) for claim in claims]


def claims_table(claims: Sequence[Judged], title: str = "The study's claims") -> Table[Judged]:
    """Return the study's claims with what our runs say about each."""
    return Table(
        title=title,
        name=1,
        columns=[
            Column("Table", lambda row: row.claim.table),
            Column("Claim", lambda row: row.claim.words),
            Column("The study", lambda row: row.claim.printed),
            Column("Our runs", lambda row: "\n".join(row.ours)),
            Column("Mark", lambda row: row.mark, mark=_css_class, style=_color),
            Column("Why", lambda row: row.words),
            Column("Seeds needed", lambda row: "" if row.seeds_needed is None else str(row.seeds_needed), number=True),
        ],
        rows=claims,
    )


def figures_table(figures: Sequence[Line], title: str = "The study's figures") -> Table[Line]:
    """Return the study's figures beside ours."""
    return Table(
        title=title,
        name=1,
        columns=[
            Column("Table", lambda row: row.table),
            Column("Row", lambda row: row.label),
            Column("Metric", lambda row: row.figure.measure),
            Column("The study", lambda row: row.figure.printed, number=True),
            Column("Ours [95% interval]", lambda row: row.ours_text, number=True),
            Column("Runs", lambda row: str(row.runs or ""), number=True),
            Column("Best trivial baseline", lambda row: row.baseline_text),
            Column("Mark", lambda row: row.mark, mark=_css_class, style=_color),
            Column("Why", lambda row: row.why),
        ],
        rows=figures,
    )


def _css_class(row: Judged | Line) -> str:
    return row.mark.replace(" ", "-")


def _color(row: Judged | Line) -> str:
    return COLORS[row.mark]


def write(path: Path, claims: Sequence[Judged], figures: Sequence[Line], summaries: Summaries) -> None:
    """Write the study report as one self-contained HTML file."""
    # Markup stays markup.
    environment = page_environment(
        finalize=lambda value: type(value)(visible(value)) if isinstance(value, str) else value
    )
    ran = {key: summary for key, summary in summaries.items() if not isinstance(summary, str)}
    page = environment.get_template("study_report.html").render(
        claims=as_html(claims_table(claims, ABOUT_CLAIMS)) if claims else "",
        figures=as_html(figures_table(figures, ABOUT_FIGURES)),
        pictures=figure_pictures(figures),
        searches=[_section(*key, summary) for key, summary in ran.items()],
        missing=[(" on ".join(key), why) for key, why in summaries.items() if isinstance(why, str)],
        claim_marks=_counts([row.mark for row in claims]),
        figure_marks=_counts([row.mark for row in figures]),
        stand_ins=list(dict.fromkeys(row.stand_in for row in claims if row.stand_in)),
        smoke=any(summary.smoke for summary in ran.values()),
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")


def _counts(marks: Sequence[str]) -> Mapping[str, int]:
    return {mark: marks.count(mark) for mark in COLORS if mark in marks}


def _section(search: str, task: str, summary: Summary) -> dict[str, Any]:
    """Return what the page shows of a search; `report` is a link to its report, or empty."""
    summary = Summary.model_validate(all_visible(summary.model_dump()))
    trials = count(len(summary.searched), "trial")
    return {
        "question": summary.question,
        "about": f"{search} on {task}: {trials}; model {summary.model}; {summary.data.get('data', 'data not read')}",
        "answer": summary.answer,
        "report": summary.report,
        "picture": answer_picture(summary),
    }
