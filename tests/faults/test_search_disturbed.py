"""One search that meets a second one of its name, a full disk, a preemption and a move. Kills: test_search_killed.py."""

import resource
import signal
from pathlib import Path

import pytest

from tests.killing import Search, frozen, left, make_toy

pytestmark = pytest.mark.slow

EPOCHS = 60  # so that it is still running when it is disturbed


def test_it_says_what_happens_and_goes_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    toy = make_toy(tmp_path / "toy")
    size = ["--trials", "1", "--replicates", "0", "--max-concurrent", "1", "--set", f"epochs={EPOCHS}"]
    search = Search(tmp_path / "runs", toy, *size)
    request.addfinalizer(search.end)
    assert search.wait_for(lambda: bool(search.events("started")))
    with frozen(search.process):
        second_is_refused(search)
    assert search.wait_for(lambda: bool(search.events("report")))
    disk_is_full(search)
    search.start()
    assert search.wait_for(lambda: len(search.events("report")) > search.reported)
    preempted(search)
    move(search, toy / "data", tmp_path)
    search.start()
    search.ends(0)
    ended = [event["trial"] for event in search.events("ended")]
    assert len(ended) == len(set(ended)) == 1
    assert not (tmp_path / "runs").exists(), "something of it was written to where it was"
    assert list(search.storage.glob("mlartifacts/sst/*/artifacts/report.html"))


def second_is_refused(search: Search) -> None:
    second = Search.__new__(Search)
    second.__dict__.update(search.__dict__, starts=100)
    second.start()
    errors = second.ends(2)
    assert errors == f"error: {search.folder}: another search is running under this name; choose another --name\n"


def disk_is_full(search: Search) -> None:
    """No file of the driver can grow: what it still reports does not fit."""
    path = search.folder / "ledger.jsonl"
    size = path.stat().st_size + 10
    resource.prlimit(search.process.pid, resource.RLIMIT_FSIZE, (size, size))
    errors = search.ends(2)
    assert "Traceback" not in errors
    assert errors.endswith(  # Ray's own log has met the limit too
        f"error: {path}: cannot be written (File too large); nothing recorded is lost: free some space, then run the same "
        "command again\n"
    )
    assert path.read_text().endswith("}\n")


def move(search: Search, data: Path, folder: Path) -> None:
    """Storage and data are found elsewhere when it goes on."""
    for former, name in ((search.storage, "moved runs"), (data, "moved data")):
        former.rename(folder / name)
        search.words = [str(folder / name) if word == str(former) else word for word in search.words]
    search.storage = folder / "moved runs"
    search.folder = search.storage / "searches" / search.folder.name


def preempted(search: Search) -> None:
    """Asked to end again and again, it writes down how it stands and says how to go on."""
    below = search.below()
    search.process.send_signal(signal.SIGTERM)
    assert not search.wait_for(lambda: search.process.send_signal(signal.SIGTERM) is not None)
    errors = search.ends(130)
    assert "Interrupted. What is finished is kept; to go on: python searches/sentiment.py --storage" in errors
    assert "Traceback" not in errors
    assert search.events("left")
    assert search.summary()["counts"]["trials"] == len(
        [event for event in search.events("proposed") if event["trial"].get("of") is None]
    )
    assert left(below) == []
