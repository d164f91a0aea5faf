"""A ledger in storage behind an address, for the day on which its machine is gone.

An object cannot be appended to. So what is new of the ledger goes into an object of its own, named by the place of its first
byte, within a second; a proposal waits for that, so no trial runs that only this machine knows of. What else is lost with a
machine, the trials report again. Who writes is in `owner.json`, renewed every few seconds (`gpt2core.lease`).

No two machines write one ledger, however long one of them slept. The objects follow each other without a gap, and each is
created on condition that there is none of its name. So who takes a ledger over writes a line of its own, no event, at the two
places that the owner before may be writing to: its last object, and the next one. What that owner had begun is there before, and
read, or it is refused; and an object with such a line is never removed. At its end an owner makes one object of all, over a
first one that holds nothing else: one that slept until then changes no byte of the ledger.
"""

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from gpt2core.errors import StorageError, UserError
from gpt2core.files import lock
from gpt2core.lease import RENEWAL, Lease
from gpt2core.storage import OvertakenError, Tag, address, fetch, is_copy, read, remove, write

PATIENCE = 120.0  # seconds that a proposal waits for a storage that does not answer
PAUSE = 1.0  # seconds between two tries
PIECE = re.compile(r"\d{15}\.jsonl")  # named by the byte of the ledger that it begins at
LAST = 20.0  # seconds that the end of a search waits for it
MARK = b"#"  # begins the line of an owner that has taken the ledger over


class RemoteLedger:
    """Sends a ledger's events while its process holds it. `say` is told what a person waits for."""

    def __init__(self, ledger: Path, say: Callable[[str], None]) -> None:
        self.ledger, self.folder, self.say = ledger, ledger.with_suffix(""), say
        self.owner = self.folder / "owner.json"
        self.lease: Lease
        self.mark = b""  # of an owner that has taken the ledger over
        self.marked: dict[int, Tag] = {}  # places of pieces that begin with it
        self.pieces: set[int]  # places of those that may be removed at the end
        self.written = self.sent = 0
        self.lost = self.closing = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="remote ledger", daemon=True)

    def open(self, file: IO[bytes]) -> None:
        """Own the ledger, and bring the locked `file` up to date; raise UserError where another machine is at work on it."""
        self.lease = Lease(self.owner, file, self.ledger, self.say)
        is_taken_over = self.lease.claim(
            f"{address(self.ledger.parent)}: a search of this name runs on another machine ({{}}); choose another --name"
        )
        self.sent = bring(self.ledger, file)
        while is_taken_over and not self._shut_out():
            self.sent = bring(self.ledger, file)
        self.pieces = {int(path.stem) for path in _pieces(self.folder) if not _is_marked(path)} - set(self.marked)
        self.thread.start()

    def _shut_out(self) -> bool:
        """Mark what the owner before may be writing to; return False where it has written something meanwhile."""
        self.mark = MARK + f" {self.lease.id}\n".encode()
        last = max((place for path in _pieces(self.folder) if (place := int(path.stem)) < self.sent), default=0)
        for place in {last, self.sent} - ({0} if self.sent else set()):  # the first one is never removed
            there = read(self._piece(place))
            events = _events(there[0]) if there else b""
            if place == self.sent and events:
                return False
            try:
                self.marked[place] = write(self._piece(place), self.mark + events, there and there[1])
            except OvertakenError:
                return False
        return True

    def update(self, size: int, *, wait: bool) -> None:
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
            self._lose()

    def _lose(self) -> None:
        with self.changed:
            self.lost = True
            self.changed.notify_all()

    def _send(self) -> None:
        written = self.written
        if written == self.sent or self.lost:
            return
        with self.ledger.open("rb") as file:
            file.seek(self.sent)
            events = file.read(written - self.sent)
        try:
            sent = self.sent + self._put(self.sent, events)
        except OvertakenError:
            self._lose()
            return
        with self.changed:
            self.sent = sent
            self.changed.notify_all()

    def _put(self, place: int, events: bytes) -> int:
        """Make a piece of events; return how many bytes of them it has. Raises OvertakenError where it is another owner's."""
        path, mark = self._piece(place), self.mark if place in self.marked else b""
        try:
            write(path, mark + events, self.marked.get(place))
        except OvertakenError:
            there = read(path)
            if there is None or not (mark + events).startswith(there[0]) or len(there[0]) <= len(mark):
                raise
            events = there[0][len(mark) :]  # of an earlier try, whose answer was lost
        if not mark:
            self.pieces.add(place)
        return len(events)

    def _join(self) -> None:
        """Make one object of all, unless another owner has; remove the others, and own the ledger no more."""
        events, there = self.ledger.read_bytes()[: self.written], read(self._piece(0))
        if events and (there is None or events.startswith(_events(there[0]))):
            with suppress(OvertakenError):
                write(self._piece(0), events, there and there[1])
                for place in sorted(self.pieces - {0}):
                    remove(self._piece(place))
        self.lease.release()

    def _piece(self, place: int) -> Path:
        return self.folder / f"{place:015d}.jsonl"


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
        piece = _events(path.read_bytes())
        if place + len(piece) > len(there):  # else it is left of those of which one object was made
            there = there[:place] + piece
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
            lock(file)
        except OSError:
            return
        bring(ledger, file)
        fetch(folder / "summary.json")


def _pieces(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if PIECE.fullmatch(path.name))


def _is_marked(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK


def _events(piece: bytes) -> bytes:
    """What a piece has of the ledger."""
    return piece.partition(b"\n")[2] if piece.startswith(MARK) else piece
