"""What people see on a real terminal of any width: nothing that identifies is cut, and words break only between them.

The screens are kept in screens/; after an intended change, look at what `python -m tests.terminal.test_screens` writes there.
"""

import re
import tempfile
from pathlib import Path

import pytest

from tests.ledgers import options_of, write_ledger
from tests.terminal.tmux import INSTALL, TMUX, screen

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not TMUX, reason=INSTALL)]

SCREENS = Path(__file__).parent / "screens"
SHOW = ["-m", "searches", "show", "whole", "--storage", "runs"]
LIVE = ["-m", "tests.terminal.live", "runs"]
WIDTHS = (40, 80, 120, 200)
CASES: dict[str, tuple[list[str], int, dict[str, str]]] = {
    **{f"show-{width}": (SHOW, width, {}) for width in WIDTHS},
    **{f"live-{width}": (LIVE, width, {}) for width in WIDTHS},
    "show-80-wide": ([*SHOW, "--wide"], 80, {}),
    "live-80-dumb": (LIVE, 80, {"TERM": "dumb"}),
}


def write_search(folder: Path) -> None:
    write_ledger(options_of(8, folder / "runs", "--replicates", "3"), folder / "runs" / "searches" / "whole")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    write_search(folder)
    return folder


def seen(name: str, folder: Path) -> str:
    words, width, environment = CASES[name]
    return screen(words, folder, width, **environment)


@pytest.mark.parametrize("name", CASES)
def test_a_screen_is_as_it_was_looked_at(name: str, folder: Path) -> None:
    assert seen(name, folder) == (SCREENS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_name_or_score_is_cut(width: int) -> None:
    text = (SCREENS / f"show-{width}.txt").read_text(encoding="utf-8")
    assert "…" not in text
    names = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert {f"{number:04}" for number in range(8)} <= names
    assert len(re.findall(r"\d\d\.\d\d \[\d\d\.\d\d, \d\d\.\d\d\]", text)) >= 8


def test_without_colours_the_words_are_the_same(folder: Path) -> None:
    words, width, _ = CASES["show-80"]
    assert screen(words, folder, width, NO_COLOR="1") == (SCREENS / "show-80.txt").read_text(encoding="utf-8")


def test_a_search_ends_with_answer_evidence_and_links(tmp_path: Path) -> None:
    text = screen(["-m", "searches.lora_rank", "--smoke", "--storage", "runs"], tmp_path, 80)
    assert "Traceback" not in text
    end = text[text.index("\nAnswer: ") :].split("\n")
    labels = ("Report: ", "Results: ", "Model folder of trial ", "MLflow: ", "Its server is started by: ")
    places = [next(place for place, line in enumerate(end) if line.startswith(label)) for label in labels]
    assert places == sorted(places)
    assert any(line.startswith("Measured with 1 fresh seed") for line in end[: places[0]])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write_search(Path(place))
        for case in CASES:
            (SCREENS / f"{case}.txt").write_text(seen(case, Path(place)), encoding="utf-8")
