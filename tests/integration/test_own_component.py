"""A component of one's own, with a key of its own: one file and one line, in a copy of the project, and a search over it."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.runs import ROOT, events, python, summary

ADAPTER = '''"""The last blocks alone train."""

from gpt2core.adapters.base import Adapter
from gpt2core.component import Keys, key
from gpt2core.config import RunConfig
from gpt2core.model import GPT2


class TopKeys(Keys):
    """Keys of the adapter `top`."""

    top_blocks: int = key(1, "how many of the last blocks train", ge=1)


def top(model: GPT2, config: RunConfig) -> None:
    """Train the last blocks."""
    model.requires_grad_(False)
    for block in model.blocks[-config.part(TopKeys).top_blocks :]:
        block.requires_grad_(True)


TOP = Adapter(apply=top, keys=TopKeys, meaning="the last blocks train")
'''
SEARCH = '''"""How many of the last blocks must train?"""

from searches.domains import Choice
from searches.question import Case, Profile, Search
from searches.runner import main

SEARCH = Search(
    name="top_blocks",
    question="How many of the last blocks must train?",
    tasks={"sonnet": Case()},
    factor=["top_blocks"],
    scientific={"top_blocks": Choice(1, 2, 4)},
    nuisance={"lr": Choice(1e-4, 1e-3)},
    fixed={"adapter": "top"},
    reference={"top_blocks": 1, "lr": 1e-3},
    profiles={"quick": Profile(model="gpt2-nano", trials=6, replicates=0, run={"epochs": 1})},
)

if __name__ == "__main__":
    main(SEARCH)
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for room in ("cluster", "gpt2core", "searches", "trainables"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "gpt2core" / "adapters" / "top.py").write_text(ADAPTER)
    (folder / "searches" / "top_blocks.py").write_text(SEARCH)
    table = folder / "gpt2core" / "adapters" / "__init__.py"
    lines = {  # the line in the table, and its import
        "from gpt2core.adapters.whole": "from gpt2core.adapters.top import TOP\nfrom gpt2core.adapters.whole",
        '        "frozen": FROZEN,\n': '        "frozen": FROZEN,\n        "top": TOP,\n',
    }
    text = table.read_text()
    for before, after in lines.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    table.write_text(text)
    return folder


def run(copy: Path, *command: str) -> str:
    done = python(*command, cwd=copy, PYTHONPATH=str(copy))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_search_over_a_key_of_ones_own_runs_each_of_its_values(copy: Path, tmp_path: Path) -> None:
    flags = ("--smoke", "--trials", "6", "--replicates", "0", "--set", "epochs=1", "--storage", str(tmp_path))
    assert "top_blocks 4" in run(copy, "searches/top_blocks.py", *flags)
    name = "top_blocks-smoke"
    trials = summary(tmp_path, name)["trials"]
    points = {tuple(row["point"].values()) for row in trials}
    assert points == {(blocks, lr) for blocks in (1, 2, 4) for lr in (1e-4, 1e-3)}
    assert {row["status"] for row in trials} <= {"completed", "stopped"}
    runs = {event["trial"]["name"]: event["trial"]["run"] for event in events(tmp_path, name, "proposed")}
    assert {run["top_blocks"] for run in runs.values()} == {1, 2, 4}
    trained = {
        runs[event["trial"]]["top_blocks"]: event["metrics"]["trainable_parameters"]
        for event in events(tmp_path, name, "report")
    }
    assert trained[4] == 2 * trained[2] == 4 * trained[1], "the processes of the trials know the key too"
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name != "Default")
    logged = [run.data.params for run in client.search_runs([experiment.experiment_id]) if "lr" in run.data.params]
    assert {params["top_blocks"] for params in logged} == {"1", "2", "4"}


def test_it_is_listed_and_a_single_run_takes_it(copy: Path, tmp_path: Path) -> None:
    assert "top_blocks" in run(copy, "-m", "gpt2core", "keys")
    described = run(copy, "-m", "gpt2core", "describe", "--adapter", "top", "--set", "top_blocks=2")
    assert "the last blocks train" in described
