"""Killed or interrupted anywhere, a search ends as if undisturbed and repeats nothing; SEARCH_KILLS=20 replaces five kills."""

import os
import random
import signal
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from searches.running.ledger import COMPLETED, STOPPED
from tests.killing import EPOCHS, NAME, Search, frozen, kill, left, make_toy
from tests.runs import mlflow_runs
from tests.server import Server

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SEARCH_KILLS", "5"))
TRIALS = 6 if KILLS <= 5 else 2 * KILLS
REPORTS = 4 * EPOCHS + (TRIALS - 4) + 2 * EPOCHS  # at least: the known points and the replicates are never stopped
EACH = REPORTS // (KILLS + 1)  # reports from one kill to the next
STATUS = {"driver": -signal.SIGKILL, "ray": 2, "interrupt": 130}  # of a search that ends by it

Stamps = dict[Path, tuple[int, int]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.kill()


def test_kills_change_no_result(toy: Path, server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    undisturbed = Search(tmp_path / "undisturbed", toy, "--trials", str(TRIALS))
    request.addfinalizer(undisturbed.end)
    undisturbed.ends(0)
    server.wait()
    search = Search(tmp_path / "killed", toy, "--trials", str(TRIALS), "--tracking-uri", server.uri)
    request.addfinalizer(search.end)

    draws, stamps, seen = random.Random(11711), dict[Path, tuple[int, int]](), set[int]()
    for number, victim in enumerate(islice(cycle(["trial", "driver", "server", "ray", "interrupt"]), KILLS)):
        moment = max(1 + number * EACH + draws.randrange(EACH), search.reported + 1)
        assert search.wait_for(lambda: len(search.events("report")) >= moment), "it ended too early"  # noqa: B023
        with frozen(search.process):
            below = search.below()
            seen |= below.keys()
            stamps |= stamped(search)
            disturb(victim, search, server, below, draws)
        if victim in STATUS:
            resume(victim, search, server, below)
    seen |= search.below().keys()
    search.ends(0)

    ended = [event["trial"] for event in search.events("ended")]
    assert len(ended) == len(set(ended)), "a finished trial ran again"
    assert {path: stamp for path, stamp in stamped(search).items() if path in stamps} == stamps
    assert left(seen) == []
    there, here = undisturbed.summary(), search.summary()
    in_mlflow_once(here, server.uri)
    assert rows(here) == rows(there)
    assert here["best"]["id"] == there["best"]["id"]
    assert here["answer"] == there["answer"]


def disturb(victim: str, search: Search, server: Server, below: dict[int, str], draws: random.Random) -> None:
    trials = sorted(pid for pid, name in below.items() if name.startswith("ray::ImplicitFunc"))
    servers = [pid for pid, name in below.items() if name.endswith(("/raylet", "/gcs_server"))]
    assert len(servers) == 2
    if victim == "server":
        server.kill()
        server.start()
    elif victim == "interrupt":
        search.process.send_signal(signal.SIGINT)
    else:
        kill({"trial": draws.sample(trials, victim == "trial"), "driver": [search.process.pid], "ray": servers}[victim])


def resume(victim: str, search: Search, server: Server, below: dict[int, str]) -> None:
    """Wait for the end of a search whose `victim` was killed, and start it again."""
    errors = search.ends(STATUS[victim])
    assert "Traceback" not in errors
    if victim == "ray":
        assert errors.startswith("error: Ray ended: ")
        assert errors.endswith("; finished work is kept, and the same command resumes it\n")
    if victim == "interrupt":
        assert "Interrupted. What is finished is kept; to go on: python searches/sentiment.py --storage" in errors
    assert left(below) == [], "it outlived its driver"
    server.wait()
    search.start()


def stamped(search: Search) -> Stamps:
    folders = [search.folder / "trials" / event["trial"] for event in search.events("ended")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def rows(summary: dict[str, Any]) -> dict[str, Any]:
    return {row["id"]: (row["point"], row["config"], row["status"], row["score"]) for row in summary["trials"]}


def in_mlflow_once(summary: dict[str, Any], uri: str) -> None:
    """One run for the search, one for each trial below it, one for each replicate below that, and each epoch once."""
    client = MlflowClient(uri)
    runs = {run.info.run_id: run for run in mlflow_runs(uri, "sst")}
    (parent,) = (run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags)
    assert parent.data.tags["search"] == NAME
    assert parent.info.status == "FINISHED"
    below = {run.data.tags["trial"]: run for run in runs.values() if run is not parent}
    assert sorted(below) == sorted(row["id"] for row in summary["trials"])
    assert len(runs) == 1 + len(below)
    for row in summary["trials"]:
        run = below[row["id"]]
        assert run.data.tags["mlflow.parentRunId"] == (below[row["of"]] if row["of"] else parent).info.run_id
        steps = sorted(metric.step for metric in client.get_metric_history(run.info.run_id, summary["objective"]))
        assert steps == list(range(1, len(steps) + 1)), "an epoch is there twice, or is missing"
        assert len(steps) >= row["epochs"], "one that heard of its end later has more, which do not count"
        assert run.data.metrics.get(f"best/{summary['objective']}") == row["score"], "one that diverged has none"
        assert run.info.status == {COMPLETED: "FINISHED", STOPPED: "KILLED"}.get(row["status"], "FAILED")


def test_a_worker_of_a_group_is_killed(toy: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    search = Search(tmp_path, toy, "--trials", "1", "--replicates", "0", "--workers-per-trial", "2")
    request.addfinalizer(search.end)
    assert search.wait_for(lambda: bool(search.events("report")))
    below = search.below()
    workers = sorted(pid for pid, name in below.items() if "RayTrainWorker" in name)
    assert len(workers) == 2, below
    kill(workers[:1])
    search.ends(0)
    (row,) = search.summary()["trials"]
    assert (row["status"], row["epochs"]) == ("completed", EPOCHS)
    assert [event["epoch"] for event in search.events("report")] == list(range(1, EPOCHS + 1))
    assert left(below) == []
