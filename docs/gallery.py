"""Run every search on embedded data, and make the gallery of their reports: `python -m docs.gallery [NAME ...]`.

A search that has ended is not run again, only reported, so the same command goes on after an interruption. The reports are kept
compressed; `make docs` unpacks them.
"""

import gzip
import io
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

from gpt2core.data.shakespeare import load_sonnets
from searches.formatting import count
from searches.question import scripts, search_of
from searches.result_files import REPORT, SEARCHES, SUMMARY
from searches.study import QUESTION
from searches.summary import Summary
from tests import course
from tests.browser.chromium import chromium, show
from tests.runs import ROOT

DOCS = ROOT / "docs"
REPORTS, IMAGES, PAGE = DOCS / "gallery", DOCS / "images" / "gallery", DOCS / "gallery.md"
STORAGE = Path("runs", "gallery")
FOLDER = ROOT / STORAGE / SEARCHES
WIDTH, HEIGHT, COLORS = 1100, 700, 128  # of a picture
EMBEDDED = (
    "sonnet",
    "poems",
    "cfimdb",
    "multi",
)  # tasks whose data, or a stand-in for it, is installed with the project
TABLES = "5"  # of the study: one search
INTRODUCTION = """\
# Gallery

Each search on this page was run once, by the command below its answer. These are **examples of reports, not findings about
GPT-2**: the model is `gpt2-nano`, a small stand-in, and the data is what comes with the project, in part a stand-in too.
"""


@dataclass(frozen=True)
class Exhibit:
    """A search of the gallery: its script, question and flags, and its report in the folder of the searches."""

    script: str
    question: str
    flags: Sequence[str]
    report: Path

    @property
    def command(self) -> str:
        """The command that ran it, without the place of its results."""
        return " ".join(["python", f"searches/{self.script}.py", *self.flags])

    @property
    def image(self) -> Path:
        """The picture of its report."""
        return IMAGES / f"{self.script}.png"


def exhibits() -> list[Exhibit]:
    """Return all searches, then the study."""
    searches = [
        Exhibit(search.name, search.question, data_flags([*search.tasks]), Path(f"{search.name}-quick") / REPORT)
        for search in map(search_of, sorted(scripts()))
    ]
    return [*searches, Exhibit("study", QUESTION, ["--tables", TABLES], Path("study-quick.html"))]


def data_flags(tasks: Sequence[str]) -> list[str]:
    """Return the flags with which a search of these tasks needs no network."""
    task = next((task for task in tasks if task in EMBEDDED), None)
    if task is None:
        return ["--data-dir", str(STORAGE / "pairs")]
    return [] if task == tasks[0] else ["--set", f"task={task}"]


def write_pairs(folder: Path) -> None:
    """Write pairs in the format of the paraphrase task: the halves of a verse exchanged, or half of it from the next verse."""
    for split, rows in load_sonnets(None).splits.items():
        verses = [line.strip().split() for row in rows for line in row.text.splitlines()]
        pairs = []
        for number, (verse, following) in enumerate(pairwise(verses)):
            middle, same = len(verse) // 2, number % 2
            end = verse[middle:] if same else following[len(following) // 2 :]
            first, second = " ".join(verse), " ".join([*end, *verse[:middle]])
            pairs.append((f"{split}{number}", first, second, f"{same}.0"))
        course.quora(folder / f"quora-{split}.csv", pairs)


def run(exhibit: Exhibit) -> None:
    """Run the search of an exhibit, and keep its report and those that it links to, without names of this machine's folders."""
    command = [f"searches/{exhibit.script}.py", *exhibit.flags]
    if exhibit.report.name == REPORT and (FOLDER / exhibit.report).is_file():
        command = ["-m", "searches", "report", exhibit.report.parent.name]
    environment = os.environ | {"GPT2_SEARCH_STORAGE": str(STORAGE), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)
    page = (FOLDER / exhibit.report).read_text(encoding="utf-8")
    for path in [exhibit.report, *map(Path, re.findall(rf'href="([^"#]+/{REPORT})"', page))]:
        text = (FOLDER / path).read_text(encoding="utf-8").replace(f"{ROOT}/", "")
        (FOLDER / path).write_text(text, encoding="utf-8")  # which is photographed
        kept = REPORTS / f"{path}.gz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(gzip.compress(text.encode(), mtime=0))


def photograph(exhibit: Exhibit, browser: Chrome) -> None:
    """Keep a small picture of the top of the report."""
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    show(browser, (FOLDER / exhibit.report).as_uri(), WIDTH, HEIGHT)
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB").quantize(COLORS)
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture.save(exhibit.image, optimize=True)


def page(shown: Sequence[Exhibit]) -> Iterator[str]:
    """Yield the paragraphs of the gallery."""
    yield INTRODUCTION
    for exhibit in shown:
        yield f"## {exhibit.question}\n"
        yield f"![Top of the report of {exhibit.script}.py]({exhibit.image.relative_to(DOCS)})\n"
        summary = FOLDER / exhibit.report.parent / SUMMARY
        if summary.is_file():
            yield from facts(Summary.read(summary))
        if "--data-dir" in exhibit.flags:
            yield "The data is made up: pairs of verses whose halves are exchanged, some with half of the next verse.\n"
        yield f"```console\n$ {exhibit.command}\n```\n"
        # Sphinx has no link to a page that it does not make.
        yield f'<a href="gallery/{exhibit.report}">The whole report</a>\n'


def facts(summary: Summary) -> Iterator[str]:
    """Yield the answer of a search, and what it took."""
    yield textwrap.fill(f"**{summary.answer.sentences[0]}**", 120) + "\n"
    trials, replicates = (summary.counts[key] for key in ("trials", "replicates"))
    runs = f"{count(trials, 'trial')} and {count(replicates, 'run')} on fresh seeds"
    yield f"{runs}, in {summary.wall_seconds:.0f} s on {summary.environment['processor']}.\n"


def main(names: Sequence[str]) -> None:
    """Make the exhibits of these names, by default all, and the page if all have been made."""
    everything = exhibits()
    write_pairs(ROOT / STORAGE / "pairs" / "quora")
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        for exhibit in everything:
            if not names or exhibit.script in names:
                run(exhibit)
                photograph(exhibit, browser)
    if missing := [exhibit.script for exhibit in everything if not (FOLDER / exhibit.report).is_file()]:
        print(f"{PAGE} is not written, since these have not run: {', '.join(missing)}")
    else:
        PAGE.write_text("\n".join(page(everything)).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
