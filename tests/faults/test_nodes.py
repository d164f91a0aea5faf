"""Searches and candidate jobs on several nodes that come, go and are told to go. The nodes share a store that speaks S3 alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector

from gpt2core import storage
from gpt2core.checkpoints import PART
from gpt2core.storage import folders, local, size
from searches.running.ledger import COMPLETED, DIVERGED
from tests.clusters import Cloud, Nodes
from tests.killing import EPOCHS, NAME, command, make_toy
from tests.services import BUCKET, Store, started
from tests.stored import reports, stored
from trainables.pipeline import SHARD, manifest

STORAGE = f"s3://{BUCKET}/team"
FOLDER = f"{STORAGE}/searches/{NAME}"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """A head and two nodes of one CPU; this process sees the storage too."""
    with started(lambda: Store(tmp_path)) as store:
        for key, value in {**store.environment, "GPT2_SEARCH_CACHE": str(tmp_path / "mine")}.items():
            monkeypatch.setenv(key, value)
        nodes = Nodes(tmp_path, store.environment)
        nodes.add("first", num_cpus=1)
        nodes.add("second", num_cpus=1)
        yield nodes
        nodes.shutdown()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


def test_trials_go_where_nodes_are(nodes: Nodes, cloud: Cloud, tmp_path: Path) -> None:
    seconds_an_epoch = ["--set", "adapter=full", "--set", "batch_size=1"]
    flags = ["--trials", "8", "--scheduler", "none", *seconds_an_epoch]
    search = nodes.start(command(STORAGE, make_toy(tmp_path / "toy"), *flags))
    search.wait_for(lambda: bool(nodes.trials("first") and nodes.trials("second")))

    nodes.add("late", num_cpus=1)
    search.wait_for(lambda: bool(nodes.trials("late")))

    nodes.take_away("late", cloud)
    search.wait_for(lambda: bool(saved()))
    (told,) = saved()
    nodes.kill("late")

    before = reports(stored(FOLDER))
    nodes.kill("second")
    search.ends()

    state = stored(FOLDER)
    whole = {trial.name: sorted(trial.reports) for trial in state.trials.values() if trial.status == COMPLETED}
    others = {trial.name: trial.reason for trial in state.trials.values() if trial.status not in (COMPLETED, DIVERGED)}
    assert others == {}
    assert set(map(tuple, whole.values())) == {tuple(range(1, EPOCHS + 1))}
    assert before.items() <= reports(state).items(), "what was reported was trained again"
    assert told in nodes.trials("first") | nodes.trials("second"), "the trial that was told to leave went on elsewhere"


def test_a_group_over_two_nodes_goes_on_with_another_one(nodes: Nodes, tmp_path: Path) -> None:
    flags = ["--trials", "1", "--replicates", "0", "--workers-per-trial", "2", "--set", "batch_size=4"]
    search = nodes.start(command(STORAGE, make_toy(tmp_path / "toy"), *flags))
    search.wait_for(lambda: bool(reports(stored(FOLDER))))
    before = reports(stored(FOLDER))
    nodes.kill("second")
    nodes.add("late", num_cpus=1)
    search.ends()

    after = reports(stored(FOLDER))
    assert sorted(after) == [("0000", epoch) for epoch in range(1, EPOCHS + 1)]
    assert before.items() <= after.items()
    assert nodes.trials("first")
    assert nodes.trials("late")


def saved() -> list[str]:
    """The trials of which the storage has a part of an epoch."""
    trials = local(f"{FOLDER}/trials")
    return [name for name in folders(trials) if PART in folders(trials / name)]


def test_a_candidate_job_goes_on_where_its_node_was_killed(nodes: Nodes, tmp_path: Path) -> None:
    out = f"{STORAGE}/candidates"
    words = [sys.executable, "-m", "trainables.candidates", "--contexts", "500", "--candidates", "3", "--out", out]
    job = nodes.start(
        [*words, "--workers", "2", "--scorers", "2", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    )
    judged = local(f"{out}/judged")
    job.wait_for(lambda: size(judged) > 0)
    before = written(judged)
    nodes.kill("second")
    job.ends()

    after = written(judged)
    assert before.items() <= after.items(), "a shard that was whole was made again"
    assert len(after) == 500 // SHARD
    (entry,) = manifest(local(out))["rounds"]
    assert entry["contexts"]["made"] == 500


def written(folder: Path) -> dict[str, int]:
    """When each file in a folder of the storage was written."""
    files, key = storage._place(folder)
    found = files.get_file_info(FileSelector(key))
    return {info.base_name: info.mtime_ns for info in found if info.is_file}
