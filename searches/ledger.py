"""The ledger: one append-only file of JSON lines from which everything else about a search can be rebuilt."""

import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gpt2core.errors import UserError

Event = dict[str, Any]
RUNNING, COMPLETED, STOPPED = "running", "completed", "stopped"
FAILED, DIVERGED, OUT_OF_MEMORY = "failed", "diverged", "out_of_memory"


class LedgerError(UserError):
    """The ledger cannot be written: its disk is full, for instance."""


@dataclass
class Trial:
    """One trial as the ledger tells it. `of` names the trial that a replicate repeats with a fresh seed."""

    name: str
    point: dict[str, Any]
    run: dict[str, Any]
    origin: str  # baseline, study, sampler or replicate
    of: str | None = None
    optuna: int | None = None
    status: str = RUNNING
    reason: str | None = None
    reports: dict[int, Event] = field(default_factory=dict)  # by epoch

    def best(self, objective: str, direction: str) -> Event | None:
        """Return the report of the best epoch so far, or None before the first."""
        sign = 1 if direction == "max" else -1
        scored = [r for r in self.reports.values() if math.isfinite(r["metrics"].get(objective, math.nan))]
        return max(scored, key=lambda r: sign * r["metrics"][objective], default=None)

    def score(self, objective: str, direction: str) -> float | None:
        """Return the objective at the best epoch so far."""
        best = self.best(objective, direction)
        return None if best is None else float(best["metrics"][objective])


@dataclass
class State:
    """What a ledger's events add up to. `apply` is the only way to change it, live and on resume alike."""

    digest: str | None = None
    id: str = ""  # of the search, by which its run in MLflow is found
    trials: dict[str, Trial] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)  # MLflow run of each trial; "" is the search itself
    duplicates: int = 0
    seconds: float = 0.0
    floors: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        """Take one event in."""
        match event["event"]:
            case "search":
                self.digest, self.id = event["digest"], event.get("id", "")
            case "data":
                self.data, self.floors = event["data"], event["floors"]
            case "proposed":
                self.trials[event["trial"]["name"]] = Trial(**event["trial"])
            case "report":
                self.trials[event["trial"]].reports.setdefault(event["epoch"], event)
            case "ended":
                trial = self.trials[event["trial"]]
                trial.status, trial.reason = event["status"], event.get("reason")
            case "duplicate":
                self.duplicates += 1
            case "run":
                self.runs[event["trial"]] = event["run_id"]
            case "time":
                self.seconds += event["seconds"]

    def of_search(self) -> list[Trial]:
        """The trials of the search itself, without replicates."""
        return [trial for trial in self.trials.values() if trial.of is None]

    def replicates(self, name: str) -> list[Trial]:
        """The repeats of a trial with fresh seeds."""
        return [trial for trial in self.trials.values() if trial.of == name]


class Ledger:
    """A search's ledger file and its state. Held by one process at a time; each event is on disk before it counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _locked(path)
        self.failure: LedgerError | None = None
        self.state = State()
        self.lock = threading.RLock()  # events come from the search and from whoever delivers them
        self.listeners: list[Callable[[Event, State], None]] = []
        try:
            for event in _whole_events(self.file):
                self.state.apply(event)
            self.size = os.fstat(self.file.fileno()).st_size
        except (OSError, UserError):
            self.close()
            raise

    def record(self, event: Event) -> None:
        """Append an event with the time at which it happened, flush it to the disk, then tell the listeners.

        Raises LedgerError where it cannot be written; then nothing of it is on the disk or in the state, and nothing more is
        written.
        """
        with self.lock:
            event = {"at": round(time.time(), 3), **event}
            self._append((json.dumps(event) + "\n").encode())
            self.state.apply(event)
            for listener in self.listeners:
                listener(event, self.state)

    def _append(self, line: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        left, handle = line, self.file.fileno()
        try:
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except BaseException as error:
            with suppress(OSError):  # what stays is cut off when the ledger is opened again
                os.ftruncate(handle, self.size)
            if not isinstance(error, OSError):
                raise
            self.failure = LedgerError(
                f"{self.path}: cannot be written ({error.strerror}); all before is kept, and when there is room the same "
                "command goes on"
            )
            raise self.failure from None
        self.size += len(line)

    def close(self) -> None:
        """Release the file."""
        self.file.close()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles all it is given into a snapshot that is never read here: the ledger is the memory.
        return {}


def _locked(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror}); choose another --storage") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UserError(f"{path.parent}: another search is running under this name; choose another --name") from None
    return file


def _whole_events(file: IO[str]) -> Iterator[Event]:
    """Yield all events; cut off a last line that a kill left half written."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file.name}, line {number}: is no JSON ({error.msg}); choose another --name") from None
    if len(whole) < len(text):
        file.truncate(len(whole.encode()))
