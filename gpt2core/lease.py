"""Who is at work on a place of a storage behind an address, where no lock of a file reaches.

What holds. The storage cannot compare and swap. So whoever wants a place writes its name there, waits, and reads it again;
whoever has it reads it again before it writes anything else. Of two that come at once, the one whose name was overwritten goes
away. Only a machine that sleeps between its last look and its write can for that one write be a second owner; both learn of
it at their next look, and the one whose name is not there ends.
"""

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
from gpt2core.files import read_json, write_json
from gpt2core.storage import fetch, send

RENEWAL = 5.0  # seconds between two signs of life
LEASE = 30.0  # seconds without one after which an owner is taken for dead
PAUSE = 1.0  # seconds between two looks
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """The name of an owner in a file that the storage has. `lock` is a file of this machine that this process has locked."""

    def __init__(self, path: Path, lock: IO[Any], place: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.id = uuid4().hex  # of this start
        self.me = {"id": self.id, "machine": f"{socket.gethostname()}, {place}", "file": _identity(lock)}
        self.renewed = 0.0

    def claim(self, refused: str) -> None:
        """Own the place; raise UserError, which `refused` and the owner's name make, where another machine is at work there.

        An owner that had the file that is locked now is dead. Another is waited for, as long as it may take to give a sign.
        """
        seen, since = None, time.monotonic()
        while (found := self._read()) is not None and found.get("file") != self.me["file"]:
            if seen is None:
                seen = found
                self.say(f"Another machine was here ({found['machine']}); waiting {LEASE:g} s for a sign of it")
            if found != seen:
                raise UserError(refused.format(found["machine"]))
            if time.monotonic() - since > LEASE:
                break
            time.sleep(PAUSE)  # between two looks; what counts is what is there
        self.renew()
        time.sleep(PAUSE)  # whoever came at the same moment has written its name by then
        if not self.is_ours():
            raise UserError(refused.format((self._read() or {"machine": "it has gone again"})["machine"]))

    def is_ours(self) -> bool:
        """Whether the storage still names this start. Raises StorageError."""
        found = self._read()
        return found is not None and found["id"] == self.id

    def keep(self) -> bool:
        """Give a sign of life if one is due; return whether the place is still ours. Raises StorageError."""
        if not self.is_ours():
            return False
        if time.monotonic() - self.renewed >= RENEWAL:
            self.renew()
        return True

    def renew(self) -> None:
        """Give a sign of life. Raises StorageError."""
        write_json(self.path, {**self.me, "time": time.time()})
        send(self.path)
        self.renewed = time.monotonic()

    def release(self) -> None:
        """Own the place no more. Raises StorageError."""
        if self.is_ours():
            self.path.unlink()
            send(self.path)

    def _read(self) -> dict[str, Any] | None:
        """What the storage says of the owner; None where there is none. One that cannot be read is somebody."""
        fetch(self.path)
        try:
            found = read_json(self.path)
            return {**found, "id": str(found["id"]), "machine": str(found["machine"])[:200]}
        except FileNotFoundError:
            return None
        except (OSError, DataError, KeyError):
            return {"id": "", "machine": "its name cannot be read"}


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
