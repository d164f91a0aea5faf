"""A ledger in storage behind an address, for the day on which its machine is gone.

An object cannot be appended to. So what is new of the ledger goes into an object of its own, named by the place of its first
byte, within a second; a proposal waits for that, so no trial runs that only this machine knows of. What else is lost with a
machine, the trials report again. Who writes is in `owner.json`, renewed every few seconds (`gpt2core.lease`).
"""

import fcntl
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gpt2core.errors import StorageError, UserError
from gpt2core.files import atomic_path
from gpt2core.lease import RENEWAL, Lease
from gpt2core.storage import address, fetch, is_copy, send

PATIENCE = 120.0  # seconds that a proposal waits for a storage that does not answer
PAUSE = 1.0  # seconds between two tries
PIECE = re.compile(r"\d{15}\.jsonl")  # named by the byte of the ledger that it begins at
LAST = 20.0  # seconds that the end of a search waits for it


class RemoteLedger:
    """Sends a ledger's events while its process holds it. `say` is told what a person waits for."""

    def __init__(self, ledger: Path, say: Callable[[str], None]) -> None:
        self.ledger, self.folder, self.say = ledger, ledger.with_suffix(""), say
        self.owner = self.folder / "owner.json"
        self.lease: Lease
        self.written = self.sent = 0
        self.lost = self.closing = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="remote ledger", daemon=True)

    def open(self, file: IO[bytes]) -> None:
        """Own the ledger, and bring the locked `file` up to date; raise UserError where another machine is at work on it."""
        self.lease = Lease(self.owner, file, self.ledger, self.say)
        self.lease.claim(
            f"{address(self.ledger.parent)}: a search of this name runs on another machine ({{}}); choose another --name"
        )
        self.sent = bring(self.ledger, file)
        self.thread.start()

    def tell(self, size: int, *, wait: bool) -> None:
        """Say that the ledger has `size` bytes now, and with `wait` return when the storage has them too.

        Raises StorageError where it does not take them, or another machine has taken the search over.
        """
        with self.changed:
            self.written = size
            self.changed.notify_all()
            there = not wait or self.changed.wait_for(lambda: self.sent >= size or self.lost, PATIENCE)
            if self.lost:
                raise StorageError(f"{address(self.ledger)}: another machine has taken this search over")
            if not there:
                raise StorageError(
                    f"{address(self.folder)}: took nothing for {PATIENCE:g} s; nothing is lost, and when it answers the same "
                    "command goes on"
                )

    def close(self, seconds: float = LAST) -> None:
        """Send the rest as one object, and own the ledger no more; nothing where it could not be opened."""
        if self.thread.ident is None:
            return
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.thread.join(seconds)
        try:
            if self.thread.is_alive():
                raise StorageError(f"{address(self.folder)}: does not answer")
            if not self.lost:
                self._join()
        except StorageError as error:
            self.say(f"{error}; the end of the ledger is on this machine alone, and the same command here sends it")

    def _work(self) -> None:
        while not self.lost:
            with self.changed:
                self.changed.wait_for(lambda: self.closing or self.written > self.sent, RENEWAL)
                done = self.closing and self.written == self.sent
            if done:
                return
            try:
                self._keep()
                self._send()
            except StorageError:
                with self.changed:
                    self.changed.wait(PAUSE)

    def _keep(self) -> None:
        """Give a sign of life when one is due; where the storage names another owner, be none."""
        if not self.lease.keep():
            with self.changed:
                self.lost = True
                self.changed.notify_all()

    def _send(self) -> None:
        written = self.written
        if written == self.sent or self.lost:
            return
        with self.ledger.open("rb") as file:
            file.seek(self.sent)
            self._put(self.sent, file.read(written - self.sent))
        with self.changed:
            self.sent = written
            self.changed.notify_all()

    def _put(self, place: int, events: bytes) -> None:
        path = self.folder / f"{place:015d}.jsonl"
        with atomic_path(path) as part:
            part.write_bytes(events)
        send(path)

    def _join(self) -> None:
        """Make one object of all, then remove the others, and the sign of life."""
        self._put(0, self.ledger.read_bytes()[: self.written])
        for path in _pieces(self.folder)[1:]:
            path.unlink()
        self.owner.unlink(missing_ok=True)
        send(self.folder)


def bring(ledger: Path, file: IO[bytes]) -> int:
    """Make a ledger's open and locked `file` what the storage has, unless it has more than that; return the bytes of that.

    Raises UserError where a piece is missing.
    """
    folder = ledger.with_suffix("")
    fetch(folder)
    there = b""
    for path in _pieces(folder):
        place = int(path.stem)
        if place > len(there):
            raise UserError(
                f"{address(folder)}: the ledger's bytes {len(there)} to {place} are missing; choose another --name"
            )
        there = there[:place] + path.read_bytes()
    if not ledger.read_bytes().startswith(there):
        file.truncate(0)
        file.write(there)
        file.flush()
    return len(there)


def refresh(folder: Path) -> None:
    """Bring the ledger and the summary of a search from the storage to this machine, unless it runs here."""
    ledger = folder / "ledger.jsonl"
    if not is_copy(ledger):
        return
    if not ledger.exists():
        fetch(ledger.with_suffix(""))
        if not _pieces(ledger.with_suffix("")):
            return
    with ledger.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        bring(ledger, file)
        fetch(folder / "summary.json")


def _pieces(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if PIECE.fullmatch(path.name))
