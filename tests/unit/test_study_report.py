"""The report of the study: what may be called reproduced, and what a page shows."""

from typing import Any

import pytest

from searches.published import TABLES, Figure
from searches.showing.study_report import DIFFERS, NOT_RUN, REPRODUCED, Line, lines, write


def summary(model: str = "gpt2", status: str = "completed", **metrics: float) -> dict[str, Any]:
    """A search on sonnets with one trial."""
    point = {"attention": "dense", "pretrain": None, "lr": 1e-5, "pretrain_lr": 1e-5}
    row = {
        "id": "0001",
        "of": None,
        "status": status,
        "point": point,
        "config": {"model": model},
        "score": 1.0,
        "metrics": {"chrf_whole": 40.6, "chrf_whole_low": 39.0, "chrf_whole_high": 42.0, **metrics},
        "curve": [{"epoch": epoch, "chrf_continuation": 20.0 + epoch, "train_loss": 4.0 - epoch} for epoch in (1, 2)],
    }
    floor = {"meaning": "random <lines>", "scores": {"chrf_whole": [43.19, 0.3]}}
    return {
        "trials": [row],
        "best": row,
        "floors": {"random": floor},
        "pareto": ["0001"],
        "objective": "chrf_continuation",
        "question": "Do poems help?",
        "model": model,
        "data": {"data": "toy data"},
        "wall_seconds": 3.0,
        "verdict": {"text": "no significant winner"},
    }


def first_of_table_4(found: dict[str, Any] | str) -> Line:
    return lines(["4"], {("pretraining", "sonnet"): found})[0]


@pytest.mark.parametrize(
    ("found", "mark", "why"),
    [
        (summary(), REPRODUCED, ""),
        (summary(chrf_whole=45.0, chrf_whole_low=44.0, chrf_whole_high=46.0), DIFFERS, ""),
        (summary(model="gpt2-nano"), NOT_RUN, "gpt2-nano stands in for gpt2; its score is no reproduction"),
        (summary(status="failed"), NOT_RUN, "its trial did not end well, or was not among the trials"),
        ("There is no data", NOT_RUN, "There is no data"),
    ],
)
def test_a_figure_is_reproduced_by_the_studys_model_and_interval_alone(
    found: dict[str, Any] | str, mark: str, why: str
) -> None:
    line = first_of_table_4(found)
    assert (line.mark, line.why) == (mark, why)
    assert line.figure.value == 40.517


def test_the_floor_is_laid_beside() -> None:
    assert first_of_table_4(summary()).floor == "43.19 (random <lines>)"


def test_counts_are_reproduced_to_the_digit_and_memory_is_only_predicted() -> None:
    found = lines(["6"], {})
    assert {line.mark for line in found if line.figure.metric == "parameters"} == {REPRODUCED}
    predicted = [line for line in found if line.figure.metric == "predicted_gpu_memory_gb"]
    assert {line.mark for line in predicted} == {NOT_RUN}
    assert all("no GPU has measured it" in line.why for line in predicted)


def test_every_figure_is_asked_by_a_search_or_says_why_not() -> None:
    figures = [figure for table in TABLES.values() for figure in table]
    assert all(bool(figure.search) != bool(figure.why_not) for figure in figures)


def test_the_page_shows_every_line_plots_and_no_markup_of_the_data(tmp_path: Any) -> None:
    summaries: dict[tuple[str, str], dict[str, Any] | str] = {("pretraining", "sonnet"): summary(model="gpt2-nano")}
    found = lines(["4"], summaries)
    write(tmp_path / "report.html", found, summaries)
    page = (tmp_path / "report.html").read_text()
    for line in found:
        assert line.figure.label in page
    assert "A stand-in model took part" in page
    assert page.count("<svg") == 1, "two curves in one picture; the trial has no costs to plot"
    assert "random &lt;lines&gt;" in page
    write(tmp_path / "again.html", found, summaries)
    assert (tmp_path / "again.html").read_text() == page, "the same twice"


def test_a_line_shows_numbers_in_their_digits() -> None:
    figure = Figure(label="x", metric="m", value=775_669_760)
    line = Line(table="1", figure=figure, mark=NOT_RUN, ours=1.5564, low=1.5, high=41.729)
    assert (line.printed_text, line.ours_text) == ("775,669,760", "1.556 [1.500, 41.73]")
