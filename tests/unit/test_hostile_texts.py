"""Texts of elsewhere, in every place that shows some: seen as they are, on the screen, in pages, pictures and Markdown."""

import copy
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from markdown_it import MarkdownIt
from rich.table import Table

from gpt2core.cli import run_or_explain
from gpt2core.config import RunConfig
from gpt2core.console import PlainConsole
from gpt2core.errors import UserError, visible
from searches import replay
from searches.deciding.study_claims import UNDECIDED, Judged, Summaries
from searches.deciding.study_figures import DIFFERS, Line
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.promoting.card import model_card
from searches.promoting.selection import Promotion, choose, load_search
from searches.published import CLAIMS, TABLES
from searches.running.budget import Budget
from searches.running.events import event_of
from searches.running.ledger import State
from searches.running.tracking import samples_text
from searches.showing import report, study_report
from searches.showing.markdown import markdown_cell, markdown_code, markdown_fence
from searches.showing.page_script import script
from searches.showing.screen import Screen, show, show_plan
from searches.showing.tables import on_screen
from searches.summary import Summary
from tests.runs import status
from tests.summaries import summary, typed
from tests.unit.test_promotion import RAN, SCORES, ledger, summarised
from trainables.candidates import screen as candidates_screen

#: Markup of rich, a tag, a link, a cell's end, a formula that is none, and what a terminal obeys or a line turns around on.
HOSTILE = (
    "[/x][bold] <script>alert(1)</script> [a](javascript:b) | `` $\\nope$ :smile: "
    "\x1b[2J\x1b]8;;x\x07 \u202eevil\x00\x9b \ud800"
)
SEEN = ("[/x][bold]", ":smile:", r"\x1b[2J", r"\u202eevil")
#: Names that the program itself gives, and numbers written as text: what else is a string may come from elsewhere.
OURS = {
    "id", "trial", "of", "parent", "status", "origin", "objective", "direction", "kind", "outcome", "metric",
    "what",
}  # fmt: skip
OURS |= {
    "winner", "chosen", "by", "against", "costs", "pareto", "script", "role", "name", "first", "second", "task",
    "text",
}  # fmt: skip
OURS |= {"factor", "mode", "of_what", "reference", "versus", "config"}


def spoilt(value: Any, key: str = "") -> Any:
    """The same value with something hostile in every text of elsewhere."""
    if isinstance(value, dict):
        return {name: spoilt(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [spoilt(one, key) for one in value]
    return f"{value} {HOSTILE}" if isinstance(value, str) and key not in OURS else value


def obeyed(text: str) -> set[str]:
    """Characters in a text that something would act on."""
    return {character for character in text if visible(character) != character}


@pytest.fixture
def hostile() -> Summary:
    found = spoilt(copy.deepcopy(summary(costs=["trainable_parameters"], pareto=["0000"])))
    found["answer"]["sentences"].append(HOSTILE)
    for row in found["trials"]:
        row["point"]["lora_targets"] = HOSTILE
    return typed(found)


def screen(width: int = 250, **options: Any) -> tuple[PlainConsole, io.StringIO]:
    file = io.StringIO()
    return PlainConsole(file=file, width=width, **options), file


def test_the_end_of_a_search_is_shown(hostile: Summary) -> None:
    console, file = screen(4000)
    show(hostile, console)
    assert not obeyed(file.getvalue())
    assert all(seen in file.getvalue() for seen in SEEN)


def test_a_terminal_obeys_what_the_program_says_alone() -> None:
    console, file = screen(force_terminal=True, color_system="standard")
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE, style="bold green")
    console.print(table)
    console.print(HOSTILE, style="bold")
    shown = file.getvalue()
    assert "\x1b[1" in shown, "styles are the program's"
    assert [part for part in ("\x1b[2J", "\x1b]8", "\x07", "\u202e", "\x9b") if part in shown] == []


def test_a_plan_and_a_running_search_are_shown() -> None:
    options = parse(SEARCH, ["--smoke", "--data-dir", "[/x]d", "--model", "gpt2-nano"])
    console, file = screen()
    show_plan(options.plan, f"resources {HOSTILE}", HOSTILE, console, None, HOSTILE)
    state = State()
    shown = Screen(options.plan, console, Budget(), state)
    shown.warn(HOSTILE)
    shown.say(HOSTILE)
    trial = {"name": "0000", "point": {"rank": HOSTILE}, "run": {"epochs": 1}, "origin": "sampler"}
    ended = {"event": "ended", "trial": "0000", "status": "failed", "reason": HOSTILE, "time": 1.0}
    for event in ({"event": "proposed", "trial": trial, "time": 0.0}, ended):
        state.apply(event_of(event))
        shown(event, state)
    console.print(shown.view())
    assert "[/x]d" in file.getvalue()
    assert not obeyed(file.getvalue())


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_of_a_search_is_text_in_each_of_its_forms(hostile: Summary, tmp_path: Path) -> None:
    page, markdown, *pictures = report.write(tmp_path, hostile)
    html = Page(page.read_text())
    facts, ours = re.findall(r"<script[^>]*>(.*?)</script>", page.read_text(), re.DOTALL)
    assert ours == script("report.js")
    assert "<" not in facts
    assert HOSTILE[:9] in next(iter(json.loads(facts).values()))[1]
    assert not [address for address in html.addresses if not address.startswith("#")]
    assert all(seen in html.text for seen in SEEN)
    assert not obeyed(page.read_text())

    rendered = Page(MarkdownIt("commonmark").enable("table").render(markdown.read_text()))
    assert "script" not in rendered.tags
    assert not [address for address in rendered.addresses if not address.endswith(".svg")]
    assert "[a](javascript:b)" in rendered.text

    assert len(pictures) >= 4
    for picture in pictures:
        assert not [one for one in ElementTree.fromstring(picture.read_text()).iter() if one.tag.endswith("script")]


def test_notes_and_samples_for_mlflow_are_text() -> None:
    samples = [{"id": HOSTILE, "generated": f"```\n{HOSTILE}", "gold": "# x"}]
    for text in (samples_text(samples), f"**{markdown_cell(HOSTILE)}** at {markdown_code(HOSTILE)}"):
        page = Page(MarkdownIt("commonmark").enable("table").render(text))
        assert not {"script", "a"} & page.tags
        assert not obeyed(text)
        assert "[a](javascript:b)" in page.text


@given(strategies.text(strategies.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=30))
def test_any_text_is_itself_in_markdown_and_harmless_on_a_screen(text: str) -> None:
    assert not obeyed(visible(text))
    assert visible(visible(text)) == visible(text)
    line = " ".join(visible(text).split())
    for shown in (f"x {markdown_cell(text)} x", f"x {markdown_code(text)} x", markdown_fence(text)):
        assert Page(MarkdownIt("commonmark").enable("table").render(shown)).tags <= {"p", "code", "pre"}
    if line:
        found = Page(MarkdownIt("commonmark").render(f"x {markdown_cell(text)} x")).text.strip()
        assert found == f"x {line} x"


def test_the_page_and_the_tables_of_the_study_are_text(hostile: Summary, tmp_path: Path) -> None:
    figure = next(figure for figures in TABLES.values() for figure in figures)
    summaries: Summaries = {
        ("lora_rank", "sonnet"): hostile.model_copy(update={"model": HOSTILE}),
        ("adapters", "sonnet"): f"Not run: {HOSTILE}",
    }
    judged = [Judged(claim=CLAIMS[0], mark=UNDECIDED, words=HOSTILE, ours=(HOSTILE,), stand_in=HOSTILE)]
    lines = [Line(table="3", figure=figure, mark=DIFFERS, why=HOSTILE, baseline=1.0, baseline_words=HOSTILE)]
    study_report.write(tmp_path / "study.html", judged, lines, summaries)
    text = (tmp_path / "study.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert not [address for address in page.addresses if address[:1] != "#"]
    assert not obeyed(text)
    assert all(seen in page.text for seen in SEEN)
    console, file = screen(4000)
    console.print(on_screen(study_report.claims_table(judged), 250))
    console.print(on_screen(study_report.figures_table(lines), 250))
    assert not obeyed(file.getvalue())
    assert all(seen in file.getvalue() for seen in SEEN)


def test_the_screen_of_candidates_and_the_table_of_replays_are_text(tmp_path: Path) -> None:
    entry = {
        "round": 1, "generator": HOSTILE, "thresholds": {"tau": 0.5}, "contexts": {"made": 1},
        "candidates": {"made": 1}, "pairs": {"made": 2, "reasons": {HOSTILE: 1}}, "accepted": 1, "negatives": 0,
        "quarantined": {"rows": 0}, "critic": {"critic": "nli", "model": HOSTILE}, "stand_in": HOSTILE,
    }  # fmt: skip
    console, file = screen(4000)
    candidates_screen.show([entry], tmp_path, console)
    share = replay.Share(median=1.0, low=1.0, high=1.0, reached=1, seeds=1)
    console.print(replay.table([replay.Row(record=HOSTILE, method=HOSTILE, same=share, alike=share)]))
    assert not obeyed(file.getvalue())
    assert all(file.getvalue().count(seen) >= 5 for seen in SEEN)


def test_an_error_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UserError(f"a\n{HOSTILE}")

    assert status(run_or_explain, fail, "") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not obeyed(said)


def test_the_card_of_a_model_is_text(tmp_path: Path) -> None:
    folder = ledger(tmp_path, SCORES)
    text = (folder / "ledger.jsonl").read_text()
    told = {"event": "data", "data": {"data": f"sonnet: 3 train; {HOSTILE}", "digest": HOSTILE}, "baselines": {}}
    (folder / "ledger.jsonl").write_text(json.dumps(told) + "\n" + text)
    summarised(folder, "0001", RAN)
    summary = json.loads((folder / "summary.json").read_text())
    told = dict.fromkeys(("scope", "text"), HOSTILE) | {"evidence": [HOSTILE], "notes": [HOSTILE]}
    summary |= {"answer": summary["answer"] | told, "question": HOSTILE, "versions": {"torch": HOSTILE}}
    (folder / "summary.json").write_text(json.dumps(summary))
    found = load_search(str(tmp_path), "s")
    chosen = choose(found, None)
    promotion = Promotion(search=found, chosen=chosen, config=RunConfig.of(chosen.trial.run), format="model", epoch=1)
    card = model_card(promotion, "name")
    page = Page(MarkdownIt("commonmark").enable("table").render(card.text))
    assert not {"script", "a"} & page.tags
    assert not obeyed(card.text)
    assert page.text.count("[a](javascript:b)") >= 5
