"""The page about the study: what our runs say of its claims, then its figures and ours side by side.

What earns which mark is said in `searches.deciding.study_claims` and `searches.deciding.study_figures`; here it is only shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from gpt2core.errors import all_visible, visible
from gpt2core.files import atomic_path
from searches.deciding import study_claims, study_figures
from searches.deciding.study_claims import Judged, Summaries
from searches.deciding.study_figures import Line
from searches.formatting import count
from searches.published import CLAIMS
from searches.showing.answer_picture import answer_picture
from searches.showing.plots import Picture
from searches.showing.tables import Column, Table, as_html
from searches.summary import Summary

COLORS = {  # on the screen
    study_claims.SUPPORTED: "green",
    study_claims.CONTRADICTED: "red",
    study_claims.UNDECIDED: "yellow",
    study_figures.REPRODUCED: "green",
    study_figures.DIFFERS: "red",
    study_figures.FEW: "yellow",
    study_figures.NOT_TELLING: "yellow",
    study_figures.STAND_IN: "magenta",
    study_figures.OTHER: "cyan",
    study_claims.NOT_RUN: "dim",  # of figures too
}

ABOUT_CLAIMS = """\
Each comparison that the study draws, and what our runs say of it. Both settings have their own best other values (learning \
rate and the like), and are compared on fresh seeds, by the metric that decides in our search. Supported: the difference that \
is claimed, p < 0.05 after correction for all comparisons of the table, three runs or more of each. Contradicted: surely the \
other way round, or no difference that matters where one is claimed. Else undecided, with how many seeds of each setting \
would decide it."""
ABOUT_FIGURES = """\
Each printed figure beside ours. Reproduced: three runs or more with the printed model, learning rate, batch size, passes over \
the data, and data set; the printed value lies in the 95% interval of their mean, or within the margin beyond it (1 chrF, 1 \
point of accuracy, 0.05 nats, 2% of a perplexity); and no trivial baseline, which needs no model, passes by the same rule. For \
runs that are made and scored as the study's were, give --confirm-on test, and fix the printed values with --set."""


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
    return [study_claims.judge(claim, summaries, asked) for claim in asked]


def claims_table(found: Sequence[Judged], title: str = "The study's claims") -> Table[Judged]:
    """The claims, and what our runs say of each."""
    return Table(
        title=title,
        name=1,
        columns=[
            Column(heading="Table", show=lambda one: one.claim.table),
            Column(heading="Claim", show=lambda one: one.claim.words),
            Column(heading="The study", show=lambda one: one.claim.printed),
            Column(heading="Our runs", show=lambda one: "\n".join(one.ours)),
            Column(heading="Mark", show=lambda one: one.mark, mark=_class_of, style=_style_of),
            Column(heading="Why", show=lambda one: one.words),
            Column(
                heading="Seeds needed",
                show=lambda one: "" if one.seeds_needed is None else str(one.seeds_needed),
                number=True,
            ),
        ],
        rows=found,
    )


def figures_table(found: Sequence[Line], title: str = "The study's figures") -> Table[Line]:
    """The printed figures beside ours."""
    return Table(
        title=title,
        name=1,
        columns=[
            Column(heading="Table", show=lambda line: line.table),
            Column(heading="Row", show=lambda line: line.label),
            Column(heading="Metric", show=lambda line: line.figure.measure),
            Column(heading="The study", show=lambda line: line.figure.printed, number=True),
            Column(heading="Ours [95% interval]", show=lambda line: line.ours_text, number=True),
            Column(heading="Runs", show=lambda line: str(line.runs or ""), number=True),
            Column(heading="Best trivial baseline", show=lambda line: line.baseline_text),
            Column(heading="Mark", show=lambda line: line.mark, mark=_class_of, style=_style_of),
            Column(heading="Why", show=lambda line: line.why),
        ],
        rows=found,
    )


def _class_of(one: Judged | Line) -> str:
    return one.mark.replace(" ", "-")


def _style_of(one: Judged | Line) -> str:
    return COLORS[one.mark]


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
        claims=as_html(claims_table(found, ABOUT_CLAIMS)) if found else "",
        figures=as_html(figures_table(lines, ABOUT_FIGURES)),
        searches=[_asked(*key, summary) for key, summary in summaries.items() if not isinstance(summary, str)],
        missing=[(" on ".join(key), why) for key, why in summaries.items() if isinstance(why, str)],
        claim_marks=_counted([one.mark for one in found]),
        figure_marks=_counted([line.mark for line in lines]),
        stand_ins=list(stand_ins),
        smoke=any(not isinstance(summary, str) and summary.smoke for summary in summaries.values()),
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")


def _counted(marks: Sequence[str]) -> Mapping[str, int]:
    """How often there is each mark, in the order of their meaning; marks that nothing has are left out."""
    return {mark: marks.count(mark) for mark in COLORS if mark in marks}


def _asked(search: str, task: str, summary: Summary) -> Asked:
    summary = Summary.model_validate(all_visible(summary.model_dump()))
    trials = count(len(summary.searched), "trial")
    return Asked(
        question=summary.question,
        about=f"{search} on {task}: {trials}; model {summary.model}; {summary.data.get('data', 'data not read')}",
        first=summary.answer.claim,
        rest=summary.answer.rest,
        report=summary.report,
        picture=answer_picture(summary),
    )
