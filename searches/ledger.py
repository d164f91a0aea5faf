"""The ledger: one append-only file of JSON lines from which everything else about a search can be rebuilt."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gpt2core.errors import UserError
from searches.clock import Clock

Event = dict[str, Any]
RUNNING, COMPLETED, STOPPED, FAILED, DIVERGED = "running", "completed", "stopped", "failed", "diverged"


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
    trials: dict[str, Trial] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)  # MLflow run of each trial; "" is the search itself
    duplicates: int = 0
    seconds: float = 0.0
    floors: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)  # what was predicted, see planning.py
    clock: Clock = field(default_factory=Clock)

    def apply(self, event: Event) -> None:
        """Take one event in."""
        self.clock.tick(event)
        match event["event"]:
            case "search":
                self.digest = event["digest"]
            case "data":
                self.data, self.floors = event["data"], event["floors"]
            case "proposed":
                self.trials[event["trial"]["name"]] = Trial(**event["trial"])
            case "report":
                self.trials[event["trial"]].reports.setdefault(event["epoch"], event)
            case "ended":
                trial = self.trials[event["trial"]]
                trial.status, trial.reason = event["status"], event.get("reason")
            case "reopened":
                trial = self.trials[event["trial"]]
                trial.status, trial.reason = RUNNING, None
            case "plan":
                self.plan = event["plan"]
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

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.now = path, now
        self.file = _locked(path)
        self.state = State()
        self.listeners: list[Callable[[Event, State], None]] = []
        try:
            for event in _whole_events(self.file):
                self.state.apply(event)
        except UserError:
            self.close()
            raise

    def record(self, event: Event) -> None:
        """Append an event, flush it to the disk, then tell the listeners."""
        event = {**event, "time": self.now()}
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.state.apply(event)
        for listener in self.listeners:
            listener(event, self.state)

    def close(self) -> None:
        """Release the file."""
        self.file.close()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles all it is given into a snapshot that is never read here: the ledger is the memory.
        return {}


def _locked(path: Path) -> IO[str]:
    file = path.open("a+", encoding="utf-8")
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
