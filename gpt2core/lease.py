"""Who is at work on a place of a storage behind an address, where no lock of a file reaches.

A lease is an object that names its owner. Each write of it is conditional: the storage takes it only over the version that the
writer has read or written last. So of machines that come at once one owns the place, and an owner that slept while another
took the place over learns of it at its next sign of life. What it writes in between is kept out by conditions of its own, where
that matters: see `searches/running/remote_ledger.py`.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from gpt2core.errors import DataError, StorageError, UserError
from gpt2core.files import json_object
from gpt2core.storage import OvertakenError, Tag, check_conditions, read, write

RENEWAL = 5.0  # seconds between two signs of life
LEASE = 30.0  # seconds without one after which an owner is taken for dead
PAUSE = 1.0  # seconds between two looks
LARGEST = 2**16  # bytes of a name
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """The name of an owner in an object of the storage. `lock` is a file of this machine that this process has locked."""

    def __init__(self, path: Path, lock: IO[Any], place: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.id = uuid4().hex  # of this start
        self.me = {"id": self.id, "machine": f"{socket.gethostname()}, {place}", "file": _identity(lock)}
        self.tag: Tag = None  # of the version that this start has read or written last
        self.renewed = 0.0

    def claim(self, refused: str) -> bool:
        """Own the place; raise UserError, which `refused` and the owner's name make, where another machine is at work there.

        An owner that had the file that is locked now is dead. Another is waited for, as long as it may take to give a sign.
        Returns whether there was one that did not release the place: what it has begun to write may still come.
        Raises StorageError, also where the storage does not know conditional writes.
        """
        seen, since = None, time.monotonic()
        while True:
            owner, self.tag = self._look()
            if owner is None or owner.get("file") == self.me["file"]:
                break
            if seen is None:
                seen = self.tag
                self.say(f"Another machine was here ({owner['machine']}); waiting {LEASE:g} s for a sign of it")
            if seen != self.tag:
                raise UserError(refused.format(owner["machine"]))
            if time.monotonic() - since > LEASE:
                break
            time.sleep(PAUSE)  # between two looks; what counts is what is there
        if not self.renew():
            winner, _ = self._look()
            raise UserError(refused.format((winner or {"machine": "it has gone again"})["machine"]))
        check_conditions(self.path)
        return owner is not None

    def is_ours(self) -> bool:
        """Whether the storage still names this start. Raises StorageError."""
        owner, tag = self._look()
        if owner is None or owner["id"] != self.id:
            return False
        self.tag = tag
        return True

    def keep(self) -> bool:
        """Give a sign of life if one is due; return False where the place is known to be another's. Raises StorageError."""
        return time.monotonic() - self.renewed < RENEWAL or self.renew()

    def renew(self) -> bool:
        """Give a sign of life; return whether the place is ours. Raises StorageError."""
        try:
            self._write(self.me)
        except OvertakenError:
            return self.is_ours()  # the storage may have taken an earlier sign whose answer was lost
        self.renewed = time.monotonic()
        return True

    def release(self) -> None:
        """Own the place no more, if it is ours. Raises StorageError.

        The object stays: no storage removes one on a condition alone, and it may be another's by then.
        """
        with suppress(OvertakenError):
            self._write({**self.me, "released": True})

    def _write(self, sign: dict[str, Any]) -> None:
        self.tag = write(self.path, json.dumps({**sign, "time": time.time()}).encode(), self.tag)

    def _look(self) -> tuple[dict[str, Any] | None, Tag]:
        """What the storage says of the owner, None where there is none, and the tag of that. An unreadable name is somebody."""
        there = read(self.path)
        if there is None:
            return None, None
        try:
            owner = json_object(there[0], LARGEST)
            owner = {**owner, "id": str(owner["id"]), "machine": str(owner["machine"])[:200]}
        except (DataError, KeyError):
            owner = {"id": "", "machine": "its name cannot be read"}
        return (None if owner.get("released") is True else owner), there[1]


class Kept:
    """A lease that a thread keeps alive, until it is closed or lost."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.lost, self.over = lease, False, threading.Event()
        self.thread = threading.Thread(target=self._work, name="lease", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.lost and not self.over.wait(RENEWAL):
            with suppress(StorageError):  # it may answer again in time
                self.lost = not self.lease.keep()

    def close(self) -> None:
        """Give the place back, if the storage answers; else others take it after a while."""
        self.over.set()
        self.thread.join()
        with suppress(StorageError):
            self.lease.release()


def _identity(lock: IO[Any]) -> str:
    """What names a file of this machine, since its start, and no other: who has locked it is alone with it."""
    status = os.fstat(lock.fileno())
    try:
        boot = BOOT.read_text().strip()
    except OSError:
        boot = uuid4().hex  # then nobody is known again
    return f"{boot}:{status.st_dev}:{status.st_ino}"
