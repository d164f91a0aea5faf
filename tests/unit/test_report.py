"""The report of a search: everything in its place, nothing taken for markup, readable where facts are missing."""

import copy
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from searches.showing import report
from searches.showing.importance import importance
from searches.showing.plots import plots
from tests.summaries import SCRIPT, summary

ORDER = ["verdict", *report.SECTIONS]


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
    """Both files, from a summary as it is read from its file."""
    page, text, *_ = report.write(folder, json.loads(json.dumps(found)))
    return page.read_text(), text.read_text()


def test_sections_come_in_order_and_the_verdict_before_any_table(tmp_path: Path) -> None:
    costs = {"costs": ["trainable_parameters"], "pareto": ["0000", "0003"]}
    html, markdown = written(tmp_path, summary(**costs))
    page = Page(html)
    assert [name for name in page.ids if name in ORDER] == ORDER
    assert page.ids.index("verdict") < html.index("<table")
    assert html.index("No significant winner.") < html.index("<table")
    assert markdown.index("## Verdict") < markdown.index("| trial |")
    for text in ("+0.50", "-0.25 to +1.25", "0.210", "Beware: no better than random | lines.", "stand-in model"):
        assert text in html
    assert "python searches/toy.py --name toy-again" in html
    assert "python searches/toy.py --name toy-again" in markdown


def test_texts_of_trials_are_never_markup(tmp_path: Path) -> None:
    html, markdown = written(tmp_path, summary())
    assert "script" not in Page(html).tags
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
    assert page.tags.count("svg") == 5, "intervals, two curves, parallel coordinates, front"
    assert len(set(page.ids)) == len(page.ids)


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
    for missing in ("space", "samples", "environment", "commands"):
        del found[missing]
    html, markdown = written(tmp_path, found)
    assert "None" not in re.sub("<svg.*?</svg>", "", html, flags=re.S)
    assert "No commands were noted." in html
    assert "This task writes no texts, or none was kept." in markdown


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
    found |= {"trials": [failed], "best": None, "baseline": failed, "best_by": {}, "samples": {}}
    found["verdict"] = {"winner": None, "text": "no winner: no trial beside the baseline has a score to compare"}
    html, markdown = written(tmp_path, found)
    for text in (html, markdown):
        assert "No winner: no trial beside the baseline has a score to compare." in text
        assert "GPU 0 out of memory" in text
    assert plots(found) == {}


def test_plan_and_fact_stand_side_by_side(tmp_path: Path) -> None:
    plan = [
        {"what": "hours", "predicted": 1.25, "low": 0.5, "high": 3.0, "actual": 1.5},
        {"what": "USD", "predicted": 1.5, "low": 1.0, "high": 2.0},
    ]
    _, markdown = written(tmp_path, summary(plan=plan))
    assert "|  | predicted | low | high | actual |" in markdown
    assert "| hours | 1.25 | 0.5 | 3 | 1.5 |" in markdown
    assert "| USD | 1.5 | 1 | 2 |  |" in markdown
    assert "| wall seconds | 3,600.0 |" in markdown
    assert "| trial seconds | 96.0 |" in markdown
    assert "| seconds lost to failures | 3 |" in markdown


def test_failures_of_one_kind_are_one_line(tmp_path: Path) -> None:
    found = summary(12)
    for number in range(3, 12):
        found["trials"][number] |= {"status": "diverged", "reason": f"The loss is nan at step {number}"}
    _, markdown = written(tmp_path, found)
    assert "| 9 | 0003, 0004, 0005, 0006, 0007, 0008, 0009, 0010 and 1 more | diverged |" in markdown


def test_importance_names_the_key_that_decides_or_says_why_not() -> None:
    shares, why = importance(summary(60))
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert why == "Over 59 trials, finished and stopped ones."
    assert importance(summary(10)) == (
        {},
        "Too few trials: 9 ended with a score, and 20 are needed to tell the keys apart.",
    )
    assert importance(summary(space={}))[0] == {}


def test_a_point_outside_the_space_is_weighed_and_drawn(tmp_path: Path) -> None:
    found = summary(40)
    found["trials"][5]["point"] |= {"lr": 0.9, "alpha": "2r"}
    assert importance(found)[0].keys() == {"lr", "alpha", "rank"}
    assert ">2r<" in plots(found)["parallel.svg"]


def test_the_same_summary_gives_the_same_files_and_stays_as_it_was(tmp_path: Path) -> None:
    found = summary()
    before = copy.deepcopy(found)
    assert written(tmp_path / "one", found) == written(tmp_path / "two", found)
    assert found == before


def test_lower_is_better_where_the_objective_says_so(tmp_path: Path) -> None:
    found = summary(5, direction="min")
    _, markdown = written(tmp_path, found)
    scores = [row["score"] for row in found["trials"][:4]]
    rows = [line.split(" | ") for line in markdown.splitlines() if re.match(r"\| 000\d \| \d", line)]
    assert [row[1].split(" ")[0] for row in rows] == [f"{score:.2f}" for score in sorted(scores)]
