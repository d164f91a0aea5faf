"""Leases: which machine owns a folder in remote storage, where file locks do not work.

A lease is an object that names its owner. Writes of it are conditional: the storage accepts one only if the writer has seen the
current version. So only one of several machines gets the lease, and an owner that was suspended while another took over learns
of it at its next renewal. Other writes have their own conditions where that matters, see `searches/running/remote_ledger.py`.
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

RENEWAL = 5.0  # seconds between two renewals
LEASE = 30.0  # seconds without a renewal after which an owner is considered dead
PAUSE = 1.0  # seconds between two reads
LARGEST = 2**16  # bytes of the object
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """An object in the storage that names the owner. `lock` is a local file that this process has locked."""

    def __init__(self, path: Path, lock: IO[Any], place: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.id = uuid4().hex  # of this process
        self.me = {"id": self.id, "machine": f"{socket.gethostname()}, {place}", "file": _identity(lock)}
        self.tag: Tag = None  # of the version last read or written
        self.renewed = 0.0

    def claim(self, refused: str) -> bool:
        """Get the lease; raise UserError, `refused` formatted with the owner's name, if another machine renews it.

        An owner of the same lock file is dead, since this process has locked it. Any other owner gets time for a renewal.
        Returns whether an owner did not release the lease, so that its pending writes may still arrive. Raises StorageError, also
        if the storage lacks conditional writes.
        """
        seen, since = None, time.monotonic()
        while True:
            owner, self.tag = self._read_owner()
            if owner is None or owner.get("file") == self.me["file"]:
                break
            if seen is None:
                seen = self.tag
                self.say(f"Another machine was here ({owner['machine']}); waiting {LEASE:g} s for a sign of it")
            if seen != self.tag:
                raise UserError(refused.format(owner["machine"]))
            if time.monotonic() - since > LEASE:
                break
            time.sleep(PAUSE)
        if not self.renew():
            winner, _ = self._read_owner()
            raise UserError(refused.format((winner or {"machine": "it has gone again"})["machine"]))
        check_conditions(self.path)
        return owner is not None

    def is_ours(self) -> bool:
        """Return whether the storage still names this process. Raises StorageError."""
        owner, tag = self._read_owner()
        if owner is None or owner["id"] != self.id:
            return False
        self.tag = tag
        return True

    def keep(self) -> bool:
        """Renew the lease if that is due; return False if another process owns it. Raises StorageError."""
        return time.monotonic() - self.renewed < RENEWAL or self.renew()

    def renew(self) -> bool:
        """Renew the lease; return whether this process owns it. Raises StorageError."""
        try:
            self._write(self.me)
        except OvertakenError:
            return self.is_ours()  # the answer to an earlier renewal may have been lost
        self.renewed = time.monotonic()
        return True

    def release(self) -> None:
        """Mark the lease as released if this process owns it; storages have no conditional deletes. Raises StorageError."""
        with suppress(OvertakenError):
            self._write({**self.me, "released": True})

    def _write(self, owner: dict[str, Any]) -> None:
        self.tag = write(self.path, json.dumps({**owner, "time": time.time()}).encode(), self.tag)

    def _read_owner(self) -> tuple[dict[str, Any] | None, Tag]:
        """Return the owner, None if there is none, and the tag of the object. An unreadable object has an unknown owner."""
        stored = read(self.path)
        if stored is None:
            return None, None
        try:
            owner = json_object(stored[0], LARGEST)
            owner = {**owner, "id": str(owner["id"]), "machine": str(owner["machine"])[:200]}
        except (DataError, KeyError):
            owner = {"id": "", "machine": "its name cannot be read"}
        return (None if owner.get("released") is True else owner), stored[1]


class LeaseKeeper:
    """A thread that renews a lease until it is closed or lost."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.lost, self.over = lease, False, threading.Event()
        self.thread = threading.Thread(target=self._work, name="lease", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.lost and not self.over.wait(RENEWAL):
            with suppress(StorageError):  # it may answer again in time
                self.lost = not self.lease.keep()

    def close(self) -> None:
        """Release the lease; if the storage does not answer, it expires."""
        self.over.set()
        self.thread.join()
        with suppress(StorageError):
            self.lease.release()


def _identity(lock: IO[Any]) -> str:
    """Return an identifier of a local file that is unique over machines and their restarts."""
    status = os.fstat(lock.fileno())
    try:
        boot = BOOT.read_text().strip()
    except OSError:
        boot = uuid4().hex  # then no owner is recognised
    return f"{boot}:{status.st_dev}:{status.st_ino}"
