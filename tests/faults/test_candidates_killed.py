"""Candidate generation killed at any point ends with the same files; CANDIDATES_KILLS=10 kills ten times, not three."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import psutil
import pytest

from gpt2core.distill.shards import STAGES
from tests import distilling
from tests.killing import frozen, name_of
from tests.runs import ROOT, program
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CANDIDATES_KILLS", "3"))
WORKERS = 2
EACH = 3  # shards from one kill to the next
LAST = 12  # shards after the last kill: more than are made on a busy machine before the kill arrives
SHARDS = KILLS * EACH + LAST

Stamps = dict[Path, tuple[int, int]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    distilling.writer(folder / "writer")
    distilling.data(folder / "data")
    return folder


def command(out: Path, toy: Path) -> list[str]:
    return distilling.command(out, toy / "writer", toy / "data", "--contexts", str(50 * SHARDS))


def test_killed_generation_resumes_to_the_same_files(toy: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    undisturbed = program(command(tmp_path / "undisturbed", toy))
    assert undisturbed.returncode == 0, undisturbed.stderr

    out, draws = tmp_path / "killed", random.Random(11711)
    process = start(out, toy)
    request.addfinalizer(lambda: (process.kill(), process.wait()))
    seen: Stamps = {}
    twice = 0
    for number, what in enumerate(islice(cycle(["worker", "driver", "ray"]), KILLS)):
        goal = number * EACH + draws.randint(1, EACH - 1)
        wait_until(lambda: filtered(out) >= goal and len(actors_of(process)) > 1, process)  # noqa: B023
        with frozen(process):
            stamps = stamped(out)
            assert filtered(out) < SHARDS, "the kill would come too late"
            twice += remade(seen, stamps)
            seen = stamps
            kill(what, process, draws)
        if what != "worker":
            status, errors = process.wait(PATIENCE), errors_of(out).read_text()
            assert status == (-signal.SIGKILL if what == "driver" else 2)
            assert "Traceback" not in errors
            assert what == "driver" or "error: Ray ended" in errors
            process = start(out, toy)
    assert process.wait(PATIENCE) == 0, errors_of(out).read_text()
    twice += remade(seen, stamped(out))

    assert twice <= KILLS * 2 * WORKERS, "each actor, generator or scorer, makes one file at a time"
    there, here = distilling.contents(tmp_path / "undisturbed"), distilling.contents(out)
    assert there.keys() == here.keys()
    assert [name for name in there if there[name] != here[name]] == []


def start(out: Path, toy: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with errors_of(out).open("w") as errors:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": errors, "text": True}
        return subprocess.Popen(command(out, toy), cwd=ROOT, env=environment, **quiet)


def errors_of(out: Path) -> Path:
    return out.parent / "errors.txt"


def filtered(out: Path) -> int:
    return len(list((out / "judged").glob("*.parquet")))


def stamped(out: Path) -> Stamps:
    shards: Iterator[Path] = (path for stage in STAGES for path in (out / stage).glob("*.parquet"))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards}


def remade(before: Stamps, after: Stamps) -> int:
    assert before.keys() <= after.keys()
    return sum(after[path] != stamp for path, stamp in before.items())


def kill(what: str, process: subprocess.Popen[str], draws: random.Random) -> None:
    """Send SIGKILL to the driver, to one of its actors, or to all of its Ray."""
    below = {child.pid: name_of(child) for child in psutil.Process(process.pid).children(recursive=True)}
    actors = actors_of(process)
    servers = [pid for pid, name in below.items() if name.endswith(("/raylet", "/gcs_server"))]
    assert actors
    assert len(servers) == 2
    for pid in {"worker": [draws.choice(actors)], "driver": [process.pid], "ray": servers}[what]:
        os.kill(pid, signal.SIGKILL)


def actors_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of a command's generators and scorers."""
    below = psutil.Process(process.pid).children(recursive=True)
    return sorted(child.pid for child in below if name_of(child).startswith(("ray::Generator", "ray::Scorer")))
