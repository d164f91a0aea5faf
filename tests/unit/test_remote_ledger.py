"""A ledger that the storage has too: all of it, with one owner, and nothing of a trial that the storage does not know of."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2core import lease, storage
from gpt2core.errors import StorageError, UserError
from gpt2core.storage import Tag, address, fetch, local, remove, send
from searches.running import remote_ledger
from searches.running.ledger import Ledger, LedgerError, read_state
from searches.running.remote_ledger import refresh
from tests.services import BUCKET, Store
from tests.unit.test_storage import become

FOLDER = "searches/lora_rank"


@pytest.fixture
def place(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a ledger that is not there yet; this process is the first machine."""
    for key, value in store.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(lease, "LEASE", 0.3)
    for module in (lease, remote_ledger):
        monkeypatch.setattr(module, "RENEWAL", 0.1)
        monkeypatch.setattr(module, "PAUSE", 0.05)
    become(monkeypatch, tmp_path / "first")
    return f"s3://{BUCKET}/{tmp_path.name}/{FOLDER}/ledger.jsonl"


def proposed(number: int) -> dict[str, object]:
    """An event that others act on."""
    trial = {"name": f"{number:04d}", "point": {}, "run": {"epochs": 1}, "origin": "sampler"}
    return {"event": "proposed", "trial": trial}


def die(ledger: Ledger) -> None:
    with ledger.remote.changed:
        ledger.remote.lost = True
        ledger.remote.changed.notify_all()
    ledger.remote.thread.join()
    ledger.file.close()


def test_another_machine_resumes_the_ledger(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(local(place))
    for number in range(5):
        first.record(proposed(number))
    die(first)
    become(monkeypatch, tmp_path / "second")
    said: list[str] = []
    second = Ledger(local(place), say=said.append)
    assert list(second.state.trials) == [f"{number:04d}" for number in range(5)]
    assert said[0].startswith("Another machine was here")
    second.record(proposed(5))
    second.close()

    become(monkeypatch, tmp_path / "third")
    refresh(local(place).parent)
    assert len(read_state(local(place)).trials) == 6
    pieces = pieces_of(place)
    assert pieces["000000000000000.jsonl"] == local(place).read_text(), "one object has all"
    assert len(pieces) == 3, "and two are where the first machine may have been writing"
    said.clear()
    Ledger(local(place), say=said.append).close()
    assert said == [], "and no owner"


def test_at_its_end_a_ledger_is_one_object(place: str) -> None:
    for start in range(3):
        ledger = Ledger(local(place))
        for number in range(3):
            ledger.record(proposed(3 * start + number))
        ledger.close()
        assert pieces_of(place) == {"000000000000000.jsonl": local(place).read_text()}


def test_leftovers_of_merged_pieces_are_no_gap(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(local(place))
    for number in range(4):
        ledger.record(proposed(number))
    removed: list[Path] = []

    def remove_one(path: Path) -> None:
        if removed:
            raise StorageError("the machine is gone")
        removed.append(path)
        remove(path)

    monkeypatch.setattr(remote_ledger, "remove", remove_one)
    ledger.close()
    become(monkeypatch, tmp_path / "second")
    refresh(local(place).parent)
    assert read_state(local(place)).trials == ledger.state.trials


def test_an_object_whose_answer_was_lost_is_not_written_twice(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(local(place))
    ledger.record(proposed(0))
    put = remote_ledger.write

    def unanswered(path: Path, data: bytes, over: Tag) -> Tag:
        monkeypatch.setattr(remote_ledger, "write", put)
        put(path, data, over)
        raise StorageError("no answer")

    monkeypatch.setattr(remote_ledger, "write", unanswered)
    ledger.record(proposed(1))
    ledger.record(proposed(2))
    assert "".join(text for _, text in sorted(pieces_of(place).items())) == local(place).read_text()
    ledger.close()


def test_a_search_on_another_machine_is_untouched(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(local(place))
    first.record(proposed(0))
    die(first)  # its thread, which shares this process's cache; `renewed` acts in its place
    become(monkeypatch, tmp_path / "second")
    monkeypatch.setattr(lease, "LEASE", 60.0)
    owner = local(place).with_suffix("") / "owner.json"
    fetch(owner)
    seen = json.loads(owner.read_text())

    def renewed(seconds: float) -> None:
        owner.write_text(json.dumps(seen | {"time": seen["time"] + 5}))
        send(owner)

    monkeypatch.setattr(lease.time, "sleep", renewed)
    words = f"{address(local(place).parent)}: a search of this name runs on another machine"
    with pytest.raises(UserError, match=words):
        Ledger(local(place))


def test_one_that_was_taken_over_writes_no_more(place: str) -> None:
    ledger = Ledger(local(place))
    ledger.record(proposed(0))
    owner = local(place).with_suffix("") / "owner.json"
    owner.write_text(json.dumps({"id": "another", "machine": "another", "time": 0.0}))
    send(owner)
    with ledger.remote.changed:
        assert ledger.remote.changed.wait_for(lambda: ledger.remote.lost, 30)
    with pytest.raises(LedgerError, match="another machine has taken this search over"):
        ledger.record(proposed(1))
    ledger.close()


def test_no_trial_begins_that_the_storage_does_not_know_of(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(local(place))
    endpoint = "http://127.0.0.1:9"
    monkeypatch.setattr(remote_ledger, "PATIENCE", 0.3)
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(LedgerError, match=r"stored nothing for 0.3 s; nothing is lost: run the same command again"):
            ledger.record(proposed(0))
        assert ledger.state.trials == {}
    die(ledger)
    again = Ledger(local(place))
    assert list(again.state.trials) == ["0000"], "it was on this machine's disk, and no worker had heard of it"
    again.close()


def test_a_ledger_with_a_hole_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(local(place))
    for number in range(3):
        ledger.record(proposed(number))
    fetch(local(place).with_suffix(""))
    remove(sorted(local(place).with_suffix("").glob("0*.jsonl"))[1])
    die(ledger)
    become(monkeypatch, tmp_path / "second")
    with pytest.raises(UserError, match=r"the ledger's bytes \d+ to \d+ are missing"):
        Ledger(local(place))


ASLEEP = """
import signal, sys, threading
from gpt2core import lease
from gpt2core.errors import StorageError
from gpt2core.storage import local
from searches.running import remote_ledger
from searches.running.ledger import Ledger, LedgerError
from tests.unit.test_remote_ledger import proposed

lease.LEASE, lease.RENEWAL, remote_ledger.RENEWAL = 0.3, 0.1, 0.1
ledger = Ledger(local(sys.argv[1]))
ledger.record(proposed(0))
put, name = remote_ledger.write, sys.argv[2]

def asleep(path, data, over):
    if name == "unanswered":
        remote_ledger.write = unanswered
        raise StorageError(put(path, data, over))
    if path.name.startswith(name) or not name:
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread does not go on before it is stopped
    return put(path, data, over)

def unanswered(path, data, over):
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    return put(path, data, over)

remote_ledger.write = asleep
try:
    if not name.startswith("0"):
        ledger.record(proposed(1))
finally:
    ledger.close()
"""


@pytest.mark.parametrize(
    ("name", "then"),
    [("", "opens"), ("", "closes"), ("unanswered", "closes"), ("0" * 15, "records"), ("0" * 15, "closes")],
    ids=lambda value: {"": "a new piece", "unanswered": "a piece again", "0" * 15: "the one piece of the end"}.get(
        value, value
    ),
)
def test_a_machine_that_slept_at_the_moment_of_its_write_changes_no_ledger(
    place: str, name: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parent.parent.parent
    sleeper = subprocess.Popen([sys.executable, "-c", ASLEEP, place, name], cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        assert os.WIFSTOPPED(os.waitpid(sleeper.pid, os.WUNTRACED)[1])
        become(monkeypatch, tmp_path / "second")
        second = Ledger(local(place))
        assert list(second.state.trials) == ["0000", "0001"][: 2 if name == "unanswered" else 1]
        if then != "opens":
            second.record(proposed(2))
        if then == "closes":
            second.close()
        there = pieces_of(place)
        sleeper.send_signal(signal.SIGCONT)
        _, told = sleeper.communicate(timeout=60)
        if name.startswith("0"):
            assert told == ""
            assert then != "closes" or pieces_of(place) == there
        else:
            assert "another machine has taken this search over" in told
            assert pieces_of(place) == there
        if then != "closes":
            second.record(proposed(3))
            second.close()
        become(monkeypatch, tmp_path / "third")
        refresh(local(place).parent)
        assert read_state(local(place)).trials == second.state.trials
    finally:
        sleeper.kill()


def pieces_of(place: str) -> dict[str, str]:
    folder = local(place).with_suffix("")
    fetch(folder)
    return {path.name: path.read_text() for path in folder.glob("*.jsonl")}
