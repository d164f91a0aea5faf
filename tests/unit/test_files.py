"""The cache does not grow without end, and who waits for a part of it gets a whole one."""

import fcntl
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from gpt2core.files import lock, locked, mark_used, trim


def entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        part = tmp_path / name if name in "ab" else tmp_path / name / "best" / "weights"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(bytes(50_000))
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "a.lock").touch()
    (tmp_path / ".a.part").write_bytes(bytes(10**6))
    mark_used(tmp_path / "a")
    trim(tmp_path, 10**6)
    assert entries(tmp_path) == {"a", "b", "c", "d", "a.lock", ".a.part"}
    with locked(tmp_path / "c" / ".lock"):
        os.utime(tmp_path / "c", (2, 2))
        trim(tmp_path, 120_000)
        assert entries(tmp_path) == {"a", "c", "d", "a.lock", ".a.part"}, "one of them is in use"
    os.utime(tmp_path / "c", (2, 2))
    trim(tmp_path, 120_000)
    assert entries(tmp_path) == {"a", "d", "a.lock", ".a.part"}
    trim(tmp_path, 10)
    assert entries(tmp_path) == {"a", "a.lock", ".a.part"}, "the last one stays"


def test_a_lock_on_a_removed_folder_is_taken_on_its_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, flock, opened = tmp_path / "entry" / ".lock", fcntl.flock, Event()

    def told(handle: int, how: int) -> None:
        opened.set()
        flock(handle, how)

    def second() -> bool:
        with locked(lock), pytest.raises(BlockingIOError), locked(lock, wait=False):
            pass
        return lock.exists()

    with ThreadPoolExecutor(1) as pool:
        with locked(lock):
            monkeypatch.setattr(fcntl, "flock", told)
            waiting = pool.submit(second)
            assert opened.wait(30)
            shutil.rmtree(lock.parent)
        assert waiting.result()


def test_readers_ask_together_whether_a_file_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.touch(mode=0o444)
    with path.open("rb") as one, path.open("rb") as other:
        lock(one, shared=True)
        lock(other, shared=True)
        with path.open("rb") as writer, pytest.raises(BlockingIOError):
            lock(writer)
