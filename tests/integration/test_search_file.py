"""A search that a TOML file states runs like a script, and its results need the file no more."""

from pathlib import Path

import pytest

from tests.runs import events, python, summary

FILE = """
name = "mine"
question = "Does weight decay help, with which adapter?"
scientific = { weight_decay = [0, 0.1] }
nuisance = { adapter = ["full", "lora"], rank = "2..8:log" }
reference = { weight_decay = 0, adapter = "lora", rank = 8 }
tasks = { sonnet = {} }
profiles = { quick = { model = "gpt2-nano", trials = 4, replicates = 0 } }
"""


@pytest.mark.slow
def test_it_runs_is_resumed_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "my file.toml"
    path.write_text(FILE)
    command = [
        "-m",
        "searches",
        "run",
        str(path),
        "--smoke",
        "--trials",
        "4",
        "--replicates",
        "0",
        "--storage",
        str(tmp_path),
    ]
    for _ in range(2):  # the second time it is resumed, and has nothing left to do
        done = python(*command)
        assert done.returncode == 0, done.stderr
    path.unlink()
    done = python("-m", "searches", "report", "mine-smoke", "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = summary(tmp_path, "mine-smoke")
    assert results["commands"]["go on with it"].startswith(f"gpt2-search run '{path}' --smoke")
    assert len(results["trials"]) == 4
    assert all(("rank" in row["point"]) == (row["point"]["adapter"] == "lora") for row in results["trials"])
    assert [event["file"] for event in events(tmp_path, "mine-smoke", "started")] == [str(path)] * 2
