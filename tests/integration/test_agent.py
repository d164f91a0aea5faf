"""A program uses searches by JSON alone: it proposes, asks for the cost, runs, reads the answer, follows up and compares."""

import json
from pathlib import Path
from typing import Any

import pytest

from searches.showing.answers import OUTCOMES
from tests.runs import python

PROPOSAL = """
name = "decay"
question = "Does weight decay matter?"
factor = ["weight_decay"]
scientific = { weight_decay = [0.0, 0.1] }
nuisance = { lr = "1e-4..1e-2:log" }
fixed = { adapter = "lora" }
reference = { weight_decay = 0.0, lr = 1e-3 }
tasks = { sonnet = {} }

[profiles.toy]
model = "gpt2-nano"
trials = 4
replicates = 3
folds = 2
run = { epochs = 1, train_examples = 16, decode_seeds = 1, max_new_tokens = 8 }
"""


class Agent:
    """Calls `python -m searches` in a folder and reads JSON from its standard output only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "decay.toml").write_text(PROPOSAL)

    def __call__(self, *words: str, status: int = 0) -> Any:
        done = python("-m", "searches", *words, "--json", cwd=self.folder)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout, parse_constant=pytest.fail)


def check(answer: dict[str, Any]) -> None:
    """An answer has its outcome in words, and each difference its interval, or says that nothing is decided."""
    assert answer["outcome_text"] == OUTCOMES[answer["outcome"]]
    assert answer["decided"] == (answer["outcome"] != "undecided")
    assert answer["pairs"]
    assert all(pair["low"] <= pair["difference"] <= pair["high"] for pair in answer["pairs"])
    assert "fresh seed" in answer["scope"]


@pytest.mark.slow
def test_an_agent_goes_from_a_proposal_to_a_comparison(tmp_path: Path) -> None:
    ask = Agent(tmp_path)
    plan = ask("run", "decay.toml", "--plan")
    cost = {row["quantity"]: row["value"] for row in plan["forecast"]}
    assert cost["trials"] == plan["trials"] + 2 * 3
    assert 0 < cost["hours"] < 1
    assert not (tmp_path / "runs").exists()

    first = ask("run", "decay.toml")
    check(first["answer"])
    assert (first["name"], first["status"], first["warm_start"]) == (plan["name"], "finished", None)
    assert first["progress"]["trials_done"] == first["progress"]["trials_planned"] == cost["trials"]
    assert ask("show", "decay-toy")["answer"] == first["answer"] == ask("report", "decay-toy")["answer"]

    follow = (
        "--name",
        "late",
        "--warm-start",
        "decay-toy",
        "--set",
        "weight_decay=0.1",
        "--search",
        "lr=1e-3..1e-1:log",
    )
    origins = [point["origin"] for point in ask("run", "decay.toml", *follow, "--plan")["first_points"]]
    assert origins[0] == "reference"
    second = ask("run", "decay.toml", *follow)
    check(second["answer"])
    begun = second["warm_start"]
    assert begun["searches"] == ["decay-toy"]
    assert 1 <= begun["rank"] <= begun["of"]
    assert set(begun["trials"]) <= {trial["id"] for trial in second["trials"]}

    (tmp_path / "runs" / "searches" / "decay-toy").rename(tmp_path / "elsewhere")
    again = ask("run", "decay.toml", *follow)  # resumed, without the earlier search
    assert again["trials"] == second["trials"]
    (tmp_path / "elsewhere").rename(tmp_path / "runs" / "searches" / "decay-toy")

    compared = ask("compare", "decay-toy", "late", "--plot", "both.svg")
    assert compared["outcome_text"] == OUTCOMES[compared["outcome"]]
    assert compared["difference"]["low"] <= compared["difference"]["estimate"] <= compared["difference"]["high"]
    assert (tmp_path / "both.svg").is_file()
    rows = {row["name"]: row for row in ask("list")}
    assert (rows["late"]["outcome"], rows["late"]["pairs"]) == (second["answer"]["outcome"], second["answer"]["pairs"])
    assert "did you mean `late`" in ask("show", "lat", status=2)["error"]
    assert "did you mean `--trials`" in ask("run", "decay.toml", "--trails", "3", status=2)["error"]
