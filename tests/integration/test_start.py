"""A Ray that is slow, or is not there: one line, soon, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
from mlflow.tracking import MlflowClient

from cluster import connect
from gpt2core.errors import UserError
from tests.runs import LORA_RANK, ROOT, program, summary
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

SMALL = ("--smoke", "--trials", "1", "--replicates", "0")


def statuses(storage: Path) -> set[str]:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.status for run in client.search_runs(experiments)}


def test_a_search_whose_cluster_is_gone_ends_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = program([*LORA_RANK, *SMALL, "--storage", str(tmp_path)], RAY_ADDRESS=place)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: Ray did not answer at {place}, which RAY_ADDRESS names (Connection refused)")
    assert statuses(tmp_path) == {"FAILED"}


def test_a_search_that_waits_for_a_mute_cluster_hears_sigterm(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as mute:
        mute.settimeout(PATIENCE)
        search = subprocess.Popen(
            [*LORA_RANK, *SMALL, "--storage", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{mute.getsockname()[1]}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        mute.accept()[0].close()  # the port was tried
        with mute.accept()[0]:  # the head is asked, and says nothing
            search.send_signal(signal.SIGTERM)
            _, said = search.communicate(timeout=PATIENCE)
    assert search.returncode == 130
    assert "Interrupted. What is finished is kept" in said
    assert statuses(tmp_path) == {"KILLED"}


def test_a_mute_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "ANSWER_TIMEOUT", 0.5)
    with socket.create_server(("", 0)) as mute:
        place = f"127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", place)
        with pytest.raises(UserError, match=rf"^Ray did not answer at {place}, .*, in time; "):
            connect.join_cluster(place)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], list[psutil.Process]]:
    """Let so many starts of Ray fail, each with a process that it leaves behind, and the others do nothing."""
    program = tmp_path / "ray" / "raylet.py"
    program.parent.mkdir()
    program.write_text("import signal\nprint(flush=True)\nsignal.pause()")

    def failing(count: int) -> list[psutil.Process]:
        left: list[psutil.Process] = []

        def start(**_: object) -> None:
            if len(left) < count:
                left.append(psutil.Popen([sys.executable, str(program)], stdout=subprocess.PIPE))
                with left[-1].stdout as said:
                    assert said.read(1), "it runs"
                raise Exception("The current node timed out during startup.\nThis could happen because")

        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", start)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return left

    return failing


def test_a_ray_that_starts_slowly_is_tried_a_second_time(starts: Callable[[int], list[psutil.Process]]) -> None:
    said: list[str] = []
    left = starts(1)
    connect.connect(say=said.append)
    assert said == ["Ray did not start (The current node timed out during startup.); trying a second time"]
    assert [process.poll() is None for process in left] == [False]


def test_a_ray_that_does_not_start_is_one_line(starts: Callable[[int], list[psutil.Process]]) -> None:
    left = starts(2)
    with pytest.raises(UserError, match=r"^Ray failed twice to start on this machine \(The current node timed out"):
        connect.connect()
    assert [process.poll() is None for process in left] == [False, False]


def test_variables_that_would_bend_a_search_do_not(tmp_path: Path) -> None:
    odd = {
        "TUNE_RESULT_DIR": str(tmp_path / "results"), "RAY_AIR_LOCAL_CACHE_DIR": str(tmp_path / "cache"),
        "RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_MAX_PENDING_TRIALS_PG": "many", "MLFLOW_RUN_ID": "0123",
        "MLFLOW_EXPERIMENT_NAME": "another", "OMP_NUM_THREADS": "0", "CUDA_VISIBLE_DEVICES": "none of these",
        "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9",
    }  # fmt: skip
    only = min(os.sched_getaffinity(0))
    search = [*LORA_RANK, *SMALL, "--storage", str(tmp_path / "runs")]
    done = program(["taskset", "-c", str(only), *search], **odd)
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines() if line.startswith("warning: ")} == set(odd) - {
        "http_proxy",
        "ALL_PROXY",
    }
    found = summary(tmp_path / "runs", "lora_rank-smoke")
    assert found["counts"]["completed"] == 1
    assert found["environment"]["cluster"].startswith("1 node, 1 CPU, ")
    assert statuses(tmp_path / "runs") == {"FINISHED"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
