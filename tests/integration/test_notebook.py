"""The notebook of the examples runs as it is, and its stored outputs are those of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import ROOT, python

NOTEBOOK = ROOT / "examples" / "search.ipynb"


def kinds(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """Return the media types of each output of each cell."""
    return [[sorted(output.get("data", ["text"])) for output in cell.get("outputs", [])] for cell in notebook["cells"]]


def test_the_stored_outputs_have_no_paths_of_a_machine() -> None:
    text = NOTEBOOK.read_text()
    assert sum(len(cell.get("outputs", [])) for cell in json.loads(text)["cells"]) >= 6
    assert not any(folder in text for folder in ("/tmp/", "/home/", "/root/", "/Users/", str(ROOT)))


@pytest.mark.slow
def test_it_runs_and_its_searches_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "search.ipynb"
    path.write_text(NOTEBOOK.read_text())
    done = python("-m", "tests.notebooks", str(path), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert kinds(json.loads(path.read_text())) == kinds(json.loads(NOTEBOOK.read_text()))
    again = "from searches import resume; result = resume('decay', storage='runs', trials=8); print(len(result.trials))"
    done = python("-c", again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(8 + 2 * 3)
