"""The commands of the tutorial and of the pages about results, typed one after the other in an empty folder."""

import re
from pathlib import Path

import pytest

from tests.documentation import commands, parts
from tests.runs import ROOT, python

pytestmark = pytest.mark.slow

SEARCH = "lora_rank-quick"  # which the pages go on with; here a search on a tiny subset has its name
PAGES = [ROOT / "docs" / name for name in ("tutorial.md", "how-to/results.md", "how-to/promote.md")]
NEEDS_MORE = "weight_decay-quick"  # a second search
ENDLESS = "--watch"  # which has a test of its own
TYPED = [
    words
    for page in PAGES
    for command in commands(page)
    for words in parts(command)
    if words[:2] == ["python", "-m"] and NEEDS_MORE not in words and ENDLESS not in words
]


def run(folder: Path, words: list[str]) -> str:
    done = python(*words, cwd=folder, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorial")
    run(folder, ["-m", "searches", "run", "lora_rank", "--smoke", "--name", SEARCH])
    return folder


def test_the_pages_have_commands() -> None:
    assert {words[3] for words in TYPED} >= {"list", "show", "report", "promote", "generate", "export-optuna"}


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_a_command_works(words: list[str], folder: Path) -> None:
    assert run(folder, words[1:])


def test_the_promoted_model_lies_where_the_tutorial_says(folder: Path) -> None:
    (path,) = re.findall(r"--checkpoint (\S+/promoted)", PAGES[0].read_text(encoding="utf-8"))
    assert (folder / path / "README.md").is_file()
