"""The report of a search: everything in its place, nothing taken for markup, readable where facts are missing."""

import base64
import copy
import hashlib
import io
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.console import Console

from searches.showing import report
from searches.showing.answer_picture import answer_picture, expected_picture
from searches.showing.answers import numbers
from searches.showing.page_script import script
from searches.showing.parallel import draw_parallel
from searches.showing.report_tables import settings_table
from searches.showing.screen import show
from tests.summaries import GAINS, SCRIPT, about_best, about_factor, nothing_compared, summary, typed, verdict

ORDER = ["answer", *report.SECTIONS]


class Page(HTMLParser):
    """The headings, tags and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(str(value))


def written(folder: Path, found: dict[str, Any]) -> tuple[str, str]:
    page, text, *_ = report.write(folder, typed(found))
    return page.read_text(), text.read_text()


def shown(found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=250, record=True)
    show(typed(found), console)
    return console.export_text()


def plots_of(found: dict[str, Any]) -> dict[str, str]:
    """The plots of the Markdown."""
    return report.plots(typed(found), report.pictures_of(typed(found)))


def decided(outcome: str, trials: int = 30) -> dict[str, Any]:
    found = summary(trials)
    return found | {"answer": about_factor([row for row in found["trials"] if row["of"] is None], outcome)}


def test_sections_come_in_order_and_the_answer_before_any_table(tmp_path: Path) -> None:
    costs = {"costs": ["trainable_parameters"], "pareto": ["0000", "0003"]}
    html, markdown = written(tmp_path, summary(**costs, gains=GAINS))
    assert [name for name in Page(html).ids if name in ORDER] == ORDER
    assert html.index("No effect of rank on dev loss was found") < html.index("<table")
    assert markdown.index("## Answer") < markdown.index("| rank | trials |") < markdown.index("| trial |")
    assert "a trivial baseline (random | lines)." in html
    for text in ("not decided", "about 7 each", "3 each", "0.050 nats per token"):
        assert text in html
    assert "The model is a stand-in" in html
    assert "python searches/toy.py --name toy-again" in html
    assert "python searches/toy.py --name toy-again" in markdown


@pytest.mark.parametrize("outcome", ["undecided", "equivalent", "difference"])
def test_the_claim_is_the_first_sentence_and_the_box_says_whether_it_is_decided(outcome: str, tmp_path: Path) -> None:
    found = decided(outcome)
    claim, *rest = found["answer"]["sentences"]
    html, _ = written(tmp_path, found)
    assert f'<p class="claim">{claim}</p>\n<p>{" ".join(rest)}</p>' in html
    assert ('<section class="answer decided"' in html) == (outcome != "undecided")
    assert ('<tr class="marked"><th scope="row">16</th>' in html) == (outcome == "difference")


def test_the_larger_side_of_a_difference_is_the_better_one_of_its_metric() -> None:
    answer = summary()["answer"]
    answer["pairs"] = [{"a": "rank 4", "b": "rank 8", "difference": 0.031, "low": 0.02, "high": 0.042, "p_value": 0.01}]
    found = numbers(verdict(answer))["Largest difference"]
    assert found == "rank 8 better than rank 4 by 0.031 [0.020, 0.042] nats per token"
    answer["metric"]["direction"] = "max"
    found = numbers(verdict(answer))["Largest difference"]
    assert found == "rank 4 better than rank 8 by 0.031 [0.020, 0.042] nats per token"
    answer["pairs"][0] |= {"difference": -0.031, "low": -0.042, "high": -0.02}
    found = numbers(verdict(answer))["Largest difference"]
    assert found == "rank 8 better than rank 4 by 0.031 [0.020, 0.042] nats per token"


@pytest.mark.parametrize(("p", "sentence", "value"), [(0.0404, "p = 0.040", "0.040"), (0.0002, "p < 0.001", "< 0.001")])
def test_a_p_value_has_three_decimals_but_is_never_0(p: float, sentence: str, value: str, tmp_path: Path) -> None:
    found = summary()
    found["answer"]["test"] |= {"p_value": p, "anova": p}
    _, text = written(tmp_path, found)
    assert f"Welch's ANOVA over all values: {sentence}." in text.replace("\\<", "<")
    assert numbers(typed(found).answer)["p"] == value


def test_the_answer_comes_last_on_the_screen_with_its_evidence_and_notes() -> None:
    found = summary()
    text = shown(found)
    answer = found["answer"]
    tail = text[text.index("Answer: ") :].splitlines()
    notes = [f"Note: {note}" for note in answer["notes"]]
    assert tail == [f"Answer: {' '.join(answer['sentences'])}", *answer["evidence"], *notes]
    tables = ("Trivial baselines", "Each rank at its best other settings")
    for part in (*tables, "dev loss [95% interval over texts]", "reference"):
        assert part in text
    assert "baseline " not in text.split("Trivial baselines")[0]
    assert f"{found['best']['score']:.3f} [" in text, "with the digits of the metric"


def test_parameters_that_are_kept_are_shown_once_a_trial_prunes_some(tmp_path: Path) -> None:
    found = summary(5)
    without = written(tmp_path, found)[1] + shown(found)
    assert "kept parameters" not in without.lower()
    found["trials"][1]["metrics"]["kept_parameters"] = 1234.0
    for text in (written(tmp_path, found)[1], shown(found)):
        assert "Kept parameters are left after training" in text
        assert all(kept in text and kept not in without for kept in ("1,000", "1,234", "3,000")), (
            "as many as train otherwise"
        )


def test_what_became_of_each_value_is_said() -> None:
    answer = about_factor([row for row in summary(8)["trials"] if row["of"] is None], "difference")
    answer["rows"][0] |= {"failed": ["0000-r2"], "stable": False}
    answer["rows"][1] |= {"trial": None, "runs": [], "mean": None, "score": None}
    answer["rows"][3] |= {"runs": [], "mean": None}
    place = 6
    assert [cells[place] for cells in settings_table(typed(summary(8) | {"answer": answer})).cells()] == [
        "unstable: 1 run failed", "no score", "significantly better than all others", "not run again",
    ]  # fmt: skip


def test_a_search_without_a_factor_shows_its_best_trial_beside_the_reference(tmp_path: Path) -> None:
    found = summary(12)
    found["answer"] = about_best(found["trials"])
    html, markdown = written(tmp_path, found)
    assert "The best trials and the reference" in html
    assert "trial 0000, the reference" in markdown
    assert expected_picture(typed(found)) is None
    assert not (tmp_path / "expected.svg").exists()
    assert "The best trials and the reference" in shown(found)


def test_a_trivial_baseline_is_a_line_where_it_is_near_and_else_in_the_caption() -> None:
    found = summary()
    picture = answer_picture(typed(found))
    assert "Outside the picture: the best trivial baseline, 5.510 (a bigram model" in picture.caption
    found["baselines"]["bigram"]["scores"]["dev_loss"] = [4.6, 0.0]
    picture = answer_picture(typed(found))
    assert "Dashed line: the best trivial baseline, 4.600" in picture.caption
    assert "best trivial baseline<" in picture.svg


def test_a_diverged_trial_does_not_flatten_the_picture_and_is_counted() -> None:
    found = summary()
    found["trials"][4]["score"] = 400.0
    picture = answer_picture(typed(found))
    assert "Triangles: 1 trial outside the picture." in picture.caption
    assert ">400" not in picture.svg


def test_the_pictures_say_their_numbers_to_those_who_do_not_see_them() -> None:
    found = decided("difference")
    picture, curves = answer_picture(typed(found)), expected_picture(typed(found))
    assert picture
    assert curves
    row = found["answer"]["rows"][2]
    assert f"rank 16: 3 fresh runs, mean {row['mean']:.3f} (95% interval {row['low']:.3f} to" in picture.alt
    assert "rank 16: " in curves.alt


def test_texts_of_trials_are_never_markup(tmp_path: Path) -> None:
    html, markdown = written(tmp_path, summary())
    assert Page(html).tags.count("script") == 2, "facts of the trials, and the page's own script"
    assert html.count("&lt;script&gt;alert(") >= 4, "in title, question, failures and samples"
    shown = MarkdownIt("commonmark").enable("table").render(markdown)
    assert "<script" not in shown
    assert "random | lines" in shown, "a bar is no end of a cell"
    assert f"0000 {SCRIPT}" in markdown, "in a fence longer than the backticks of the text"


def test_the_page_needs_nothing_else_and_holds_no_id_twice(tmp_path: Path) -> None:
    html, _ = written(tmp_path, summary(costs=["trainable_parameters"], pareto=["0000"]))
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert all(address.startswith("#") for address in page.addresses), page.addresses
    assert not re.search(r"url\((?!#)", html)
    assert page.tags.count("svg") == 7, "answer, expected, intervals, two curves, parallel, front"
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_allows_its_own_script_alone(tmp_path: Path) -> None:
    html, _ = written(tmp_path, summary())
    text = script("report.js")
    assert len(text) < 20_000
    assert f"<script>{text}</script>" in html
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">" in html
    for unsafe in ("innerHTML", "insertAdjacentHTML", "eval(", "document.write", "Function("):
        assert unsafe not in text


def test_thousands_of_trials_are_written_soon_and_the_rest_is_counted(tmp_path: Path) -> None:
    found = summary(3000)
    started = time.monotonic()
    html, markdown = written(tmp_path, found)
    assert time.monotonic() - started < 30
    assert len(html) < 3_000_000
    for text in (html, markdown):
        assert "The best 200 are shown; 2800 more are in summary.json." in text
    assert "60 of 3000 trials, spread evenly from best to worst" in html
    assert "200 of 2999 trials, spread evenly" in html


def test_facts_that_an_older_summary_lacks_are_left_out(tmp_path: Path) -> None:
    found = summary()
    for missing in ("space", "samples", "environment", "commands", "effects", "reliability", "metrics"):
        del found[missing]
    html, markdown = written(tmp_path, found)
    assert "None" not in re.sub("<svg.*?</svg>", "", html, flags=re.S)
    assert "No commands were recorded." in html
    assert "This task generates no texts, or none were kept." in markdown


def test_generated_pairs_are_named_with_their_critic_and_that_it_is_a_stand_in(tmp_path: Path) -> None:
    made = {"contexts": 12, "candidates": 120, "pairs": 1500, "accepted": 7, "digest": "e" * 64}
    made |= {"critic": "overlap", "model": "none", "stand_in": "lexical overlap, a stand-in"}
    for text in written(tmp_path, summary(pairs={"temperature-0.7": made, "temperature-0.9": made})):
        assert text.count("The critic of the generated pairs was lexical overlap, a stand-in.") == 1
        assert "temperature-0.9" in text
        assert "1,500" in text
        assert "e" * 12 in text


def test_a_search_without_any_score_says_why(tmp_path: Path) -> None:
    found = summary(2)
    failed = found["trials"][1] | {"curve": []}
    found |= {"trials": [failed], "best": None, "reference": failed, "samples": {}}
    found["answer"] = nothing_compared("there are no two settings with a score to compare")
    found["effects"] = {"trials": 0, "why": "0 trials ended with a score.", "rows": []}
    html, markdown = written(tmp_path, found)
    for text in (html, markdown, shown(found)):
        assert "Not decided: there are no two settings with a score to compare." in text
        assert "GPU 0 out of memory" in text or "failed" in text
    assert plots_of(found) == {}


def test_what_was_predicted_and_what_it_came_to_stand_side_by_side(tmp_path: Path) -> None:
    forecast = [
        {"quantity": "hours", "value": 1.25, "low": 0.5, "high": 3.0, "actual": 1.5},
        {"quantity": "usd", "value": 1.5, "low": 1.0, "high": 2.0},
    ]
    _, markdown = written(tmp_path, summary(forecast=forecast))
    assert "|  | predicted | low | high | actual |" in markdown
    assert "| hours | 1.25 | 0.5 | 3 | 1.5 |" in markdown
    assert "| USD | 1.5 | 1 | 2 |  |" in markdown
    assert "| wall seconds | 3,600.0 |" in markdown
    assert "| trial seconds | 126.0 |" in markdown
    assert "| seconds lost to failures | 3 |" in markdown


def test_failures_of_one_kind_are_one_line(tmp_path: Path) -> None:
    found = summary(12)
    for number in range(3, 12):
        found["trials"][number] |= {"status": "diverged", "reason": f"The loss is nan at step {number}"}
    _, markdown = written(tmp_path, found)
    assert "| 9 | 0003, 0004, 0005, 0006, 0007, 0008, 0009, 0010 and 1 more | diverged |" in markdown


def test_what_mattered_is_called_exploratory_and_has_intervals(tmp_path: Path) -> None:
    for text in written(tmp_path, summary()):
        assert "Which settings mattered (exploratory)" in text
        assert "40% to 96%" in text
        assert "0.160 to 0.260" in text
        assert "Exploratory, over 30 trials" in text


def test_the_reliability_of_each_metric_is_told_in_its_own_digits(tmp_path: Path) -> None:
    _, markdown = written(tmp_path, summary())
    assert "| dev loss | 0.0200 | 0.0045 | 0.95 |" in markdown
    assert "| chrF continuation | 0.000 | 0.447 | 0.00 |" in markdown
    html, _ = written(tmp_path, summary(reliability=[]))
    assert 'href="#metrics"' not in html


def test_a_trivial_baseline_without_a_score_of_a_metric_has_an_empty_cell(tmp_path: Path) -> None:
    _, markdown = written(tmp_path, summary())
    assert "| a bigram model of the training texts | 5.510 |  |" in markdown
    assert r"| random \| lines |  | 29.18 ± 0.30 |" in markdown


def test_a_line_skips_the_axes_of_keys_that_its_trial_lacks() -> None:
    found = summary(4)
    del found["trials"][1]["point"]["alpha"]
    read, axes = typed(found), Figure().subplots()
    draw_parallel(axes, read.trials[:3], read.space, read.objective, {})
    keys = len(read.space)
    assert [len(path.vertices) for path in axes.collections[0].get_paths()] == [keys + 1, keys, keys + 1]
    assert "parallel.svg" in plots_of(found)


def test_a_point_outside_the_space_is_drawn() -> None:
    found = summary(40)
    found["trials"][5]["point"] |= {"lr": 0.9, "alpha": "2r"}
    assert ">2r<" in plots_of(found)["parallel.svg"]


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    found = summary(40, costs=["trainable_parameters"], pareto=["0000"])
    found["trials"][4]["curve"][0]["dev_loss"] = 4000.0
    plots = plots_of(found)
    assert ">10,000<" in plots["front.svg"]
    assert ">1,000<" in plots["curves.svg"]
    assert "mathdefault" not in "".join(plots.values())


def test_the_same_summary_gives_the_same_files_and_stays_as_it_was(tmp_path: Path) -> None:
    found = summary()
    before = copy.deepcopy(found)
    assert written(tmp_path / "one", found) == written(tmp_path / "two", found)
    assert found == before


def test_higher_is_better_where_the_objective_says_so(tmp_path: Path) -> None:
    found = summary(5, direction="max")
    _, markdown = written(tmp_path, found)
    scores = [row["score"] for row in found["trials"][:4]]
    rows = [
        line.split(" | ")
        for line in markdown.split("**Trials, best first**")[1].splitlines()
        if re.match(r"\| 000\d \| \d", line)
    ]
    assert [row[1].split(" ")[0] for row in rows] == [f"{score:.3f}" for score in sorted(scores, reverse=True)]
