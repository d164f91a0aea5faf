"""A copy of the ledger in remote storage, which survives the loss of the driver's machine.

Objects cannot be appended to, so new events go into a segment: an object of its own, named after the offset of its first byte in
the ledger. Segments follow within a second. A proposal waits until its segment is stored, so no trial runs that only this
machine knows of; trials report other lost events again. `owner.json` names the driver that writes, and is renewed every few
seconds (`gpt2core.lease`).

Two machines never write one ledger, even if one was suspended for any time. Segments have no gaps, and each is created on the
condition that none of its name exists. A driver that takes over a ledger therefore writes a fence, a line that is not an event,
into the two segments to which the previous owner may still be writing: its last one and the next one. A write that the previous
owner had begun either arrived before, and is read, or is refused. Fenced segments are never removed. At its end, an owner joins
all segments into the first one, on the condition that it holds nothing but a beginning of the ledger, so an owner that was
suspended until then changes no byte.
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
from searches.result_files import LEDGER, OWNER, SUMMARY

PATIENCE = 120.0  # seconds that a proposal waits for storage
PAUSE = 1.0  # seconds between two attempts
SEGMENT = re.compile(r"\d{15}\.jsonl")
LAST = 20.0  # seconds that the end of a search waits for storage
FENCE = b"#"  # first byte of a fence line


class RemoteLedger:
    """Sends a ledger's events to storage in a thread, while this process owns the ledger. `say` prints to the user."""

    def __init__(self, ledger: Path, say: Callable[[str], None]) -> None:
        self.ledger, self.folder, self.say = ledger, ledger.with_suffix(""), say
        self.lease: Lease
        self.fence = b""  # this owner's fence line, if it took the ledger over
        self.fenced: dict[int, Tag] = {}  # offset of each segment that begins with it -> version of the object
        self.removable: set[int]  # offsets of segments without a fence
        self.written = self.sent = 0  # bytes of the ledger, here and in storage
        self.lost = self.closing = False  # lost: another machine has taken over
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="remote ledger", daemon=True)

    def open(self, file: IO[bytes]) -> None:
        """Take ownership and update the locked `file` from storage. Raises UserError if another machine runs the search."""
        self.lease = Lease(self.folder / OWNER, file, self.ledger, self.say)
        has_previous_owner = self.lease.claim(
            f"{address(self.ledger.parent)}: a search of this name runs on another machine ({{}}); choose another --name"
        )
        self.sent = download(self.ledger, file)
        while has_previous_owner and not self._fence_off():
            self.sent = download(self.ledger, file)
        self.removable = {int(path.stem) for path in _segments(self.folder) if not _is_fenced(path)} - set(self.fenced)
        self.thread.start()

    def _fence_off(self) -> bool:
        """Fence the segments to which the previous owner may be writing; return False if it has just written more."""
        self.fence = FENCE + f" {self.lease.id}\n".encode()
        offsets = [int(path.stem) for path in _segments(self.folder)]
        last = max((offset for offset in offsets if offset < self.sent), default=0)
        for offset in {last, self.sent} - ({0} if self.sent else set()):  # the first segment is never removed
            stored = read(self._segment(offset))
            events = _events(stored[0]) if stored else b""
            if offset == self.sent and events:
                return False
            try:
                self.fenced[offset] = write(self._segment(offset), self.fence + events, stored and stored[1])
            except OvertakenError:
                return False
        return True

    def update(self, size: int, *, wait: bool) -> None:
        """Send the ledger's first `size` bytes; with `wait`, return when they are stored.

        Raises StorageError if they are not stored in time, or if another machine has taken over.
        """
        with self.changed:
            self.written = size
            self.changed.notify_all()
            in_time = not wait or self.changed.wait_for(lambda: self.sent >= size or self.lost, PATIENCE)
            if self.lost:
                raise StorageError(f"{address(self.ledger)}: another machine has taken this search over")
            if not in_time:
                raise StorageError(
                    f"{address(self.folder)}: stored nothing for {PATIENCE:g} s; nothing is lost: run the same command again "
                    "when the storage answers"
                )

    def close(self, seconds: float = LAST) -> None:
        """Send the rest, join all segments and release the ledger; do nothing if `open` failed."""
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
            self.say(f"{error}; only this machine has the end of the ledger: run the same command here to send it")

    def _work(self) -> None:
        while not self.lost:
            with self.changed:
                self.changed.wait_for(lambda: self.closing or self.written > self.sent, RENEWAL)
                if self.closing and self.written == self.sent:
                    return
            try:
                if not self.lease.keep():
                    self._lose()
                self._send()
            except StorageError:
                with self.changed:
                    self.changed.wait(PAUSE)

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
            sent = self.sent + self._create(self.sent, events)
        except OvertakenError:
            self._lose()
            return
        with self.changed:
            self.sent = sent
            self.changed.notify_all()

    def _create(self, offset: int, events: bytes) -> int:
        """Create a segment; return how many bytes of `events` it holds. Raises OvertakenError if another owner created it."""
        path, fence = self._segment(offset), self.fence if offset in self.fenced else b""
        try:
            write(path, fence + events, self.fenced.get(offset))
        except OvertakenError:
            stored = read(path)
            if stored is None or not (fence + events).startswith(stored[0]) or len(stored[0]) <= len(fence):
                raise
            events = stored[0][len(fence) :]  # an earlier attempt was stored, but its answer was lost
        if not fence:
            self.removable.add(offset)
        return len(events)

    def _join(self) -> None:
        """Write the whole ledger into the first segment, unless another owner has; remove the others and release the lease."""
        events, stored = self.ledger.read_bytes()[: self.written], read(self._segment(0))
        if events and (stored is None or events.startswith(_events(stored[0]))):
            with suppress(OvertakenError):
                write(self._segment(0), events, stored and stored[1])
                for offset in sorted(self.removable - {0}):
                    remove(self._segment(offset))
        self.lease.release()

    def _segment(self, offset: int) -> Path:
        return self.folder / f"{offset:015d}.jsonl"


def download(ledger: Path, file: IO[bytes]) -> int:
    """Update a ledger's open and locked `file` from storage, unless it already has more; return the stored size in bytes.

    Raises UserError if a segment is missing.
    """
    folder = ledger.with_suffix("")
    fetch(folder)
    stored = b""
    for path in _segments(folder):
        offset = int(path.stem)
        if offset > len(stored):
            raise UserError(
                f"{address(folder)}: the ledger's bytes {len(stored)} to {offset} are missing; choose another --name"
            )
        events = _events(path.read_bytes())
        if offset + len(events) > len(stored):  # else a killed process had joined it, but not yet removed it
            stored = stored[:offset] + events
    if not ledger.read_bytes().startswith(stored):
        file.truncate(0)
        file.write(stored)
        file.flush()
    return len(stored)


def refresh(folder: Path) -> None:
    """Update this machine's copy of a search's ledger and summary from storage, unless the search runs here."""
    ledger = folder / LEDGER
    if not is_copy(ledger):
        return
    if not ledger.exists():
        fetch(ledger.with_suffix(""))
        if not _segments(ledger.with_suffix("")):
            return
    with ledger.open("a+b") as file:
        try:
            lock(file)
        except OSError:
            return
        download(ledger, file)
        fetch(folder / SUMMARY)


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if SEGMENT.fullmatch(path.name))


def _is_fenced(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(FENCE)) == FENCE


def _events(segment: bytes) -> bytes:
    """Return the events of a segment, without a fence."""
    return segment.partition(b"\n")[2] if segment.startswith(FENCE) else segment
