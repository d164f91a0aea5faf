"""Searches and candidate jobs on nodes that join, die and are drained. The nodes share only an S3 store."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from gpt2core import storage
from gpt2core.checkpoints.layout import PART
from gpt2core.storage import folders, local, size
from searches.running.ledger import COMPLETED, DIVERGED
from tests import distilling, plugins
from tests.clusters import Cloud, Nodes
from tests.killing import EPOCHS, NAME, command, make_toy
from tests.runs import ROOT
from tests.services import BUCKET, Store, started
from tests.stored import reports, stored
from trainables.candidates.folder import manifest
from trainables.candidates.job import SHARD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head without nodes; this process can use its storage."""
    folder = tmp_path_factory.mktemp("nodes")
    with started(lambda: Store(folder)) as store, pytest.MonkeyPatch.context() as monkeypatch:
        for key, value in {**store.environment, "GPT2_SEARCH_CACHE": str(folder / "mine")}.items():
            monkeypatch.setenv(key, value)
        cluster = Nodes(folder, store.environment)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """Two nodes with one CPU each; tests may add more."""
    cluster.add("first", num_cpus=1)
    cluster.add("second", num_cpus=1)
    yield cluster
    cluster.clear()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


def test_trials_go_where_nodes_are(nodes: Nodes, cloud: Cloud, toy: Path) -> None:
    storage, folder = place("spread")
    seconds_an_epoch = ["--set", "adapter=full", "--set", "batch_size=1", "--set", "train_examples=600"]
    flags = ["--trials", "8", "--replicates", "0", "--max-concurrent", "3", "--scheduler", "none", *seconds_an_epoch]
    search = nodes.start(command(storage, toy, *flags))
    search.wait_for(lambda: bool(nodes.trials("first") and nodes.trials("second")))

    nodes.add("late", num_cpus=1)
    search.wait_for(lambda: bool(nodes.trials("late")))

    nodes.take_away("late", cloud)
    search.wait_for(lambda: bool(saved(folder)))
    (told,) = saved(folder)
    nodes.kill("late")

    before = reports(stored(folder))
    nodes.kill("second")
    search.ends()

    state = stored(folder)
    whole = {trial.name: sorted(trial.reports) for trial in state.trials.values() if trial.status == COMPLETED}
    others = {trial.name: trial.reason for trial in state.trials.values() if trial.status not in (COMPLETED, DIVERGED)}
    assert others == {}
    assert set(map(tuple, whole.values())) == {tuple(range(1, EPOCHS + 1))}
    assert before.items() <= reports(state).items(), "what was reported was trained again"
    assert told in nodes.trials("first") | nodes.trials("second"), "the trial that was told to leave went on elsewhere"


def test_each_node_gets_the_module_with_own_parts(nodes: Nodes, toy: Path, tmp_path: Path) -> None:
    """Only the working folder of the search has it."""
    (tmp_path / "my_parts.py").write_text(f'{plugins.TOP}\nADAPTERS["top"] = TOP\n')
    storage, folder = place("parts")
    own = ["--search", "adapter=top,full", "--import", "my_parts", "--scheduler", "none"]
    python, script, *flags = command(storage, toy, "--trials", "4", "--replicates", "0", *own)
    nodes.start([python, str(ROOT / script), *flags], cwd=tmp_path).ends()
    trials = stored(folder).trials.values()
    assert {(trial.point["adapter"], trial.status) for trial in trials} == {("top", COMPLETED), ("full", COMPLETED)}
    assert nodes.trials("first")
    assert nodes.trials("second")


def test_a_group_over_two_nodes_goes_on_with_another_one(nodes: Nodes, toy: Path) -> None:
    storage, folder = place("group")
    flags = ["--trials", "1", "--replicates", "0", "--workers-per-trial", "2", "--set", "batch_size=2"]
    search = nodes.start(command(storage, toy, *flags))
    search.wait_for(lambda: bool(reports(stored(folder))))
    before = reports(stored(folder))
    nodes.kill("second")
    nodes.add("late", num_cpus=1)
    search.ends()

    after = reports(stored(folder))
    assert sorted(after) == [("0000", epoch) for epoch in range(1, EPOCHS + 1)]
    assert before.items() <= after.items()
    assert nodes.trials("first")
    assert nodes.trials("late")


def place(name: str) -> tuple[str, str]:
    """A storage for one test, and the folder of its search."""
    storage = f"s3://{BUCKET}/{name}"
    return storage, f"{storage}/searches/{NAME}"


def saved(folder: str) -> list[str]:
    trials = local(f"{folder}/trials")
    return [name for name in folders(trials) if PART in folders(trials / name)]


def test_a_candidate_job_survives_the_kill_of_a_node(nodes: Nodes, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/candidates"
    writer, data = distilling.writer(tmp_path / "writer"), distilling.data(tmp_path / "data")
    flags = ["--contexts", "500", "--scorers", "2"]
    job = nodes.start(distilling.command(out, writer, data, *flags, records=tmp_path))
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


def written(folder: Path) -> dict[str, datetime]:
    bucket, key = storage._place(folder)
    return {found["path"]: found["last_modified"] for found in bucket.list_with_delimiter(key)["objects"]}
