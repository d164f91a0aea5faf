"""The ledger: one append-only file of JSON lines from which everything else about a search can be rebuilt."""

import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from gpt2core.data.origin import DataOrigin
from gpt2core.errors import StorageError, UserError
from gpt2core.files import lock
from gpt2core.metrics.direction import Direction
from gpt2core.storage import is_copy
from searches.running.clock import Clock
from searches.running.events import LONGEST_LINE, SCHEMA, EventError, parse
from searches.running.events import Event as Event
from searches.running.quantities import Forecast
from searches.running.remote_ledger import RemoteLedger
from trainables.failures import DIVERGED as DIVERGED
from trainables.failures import FAILED as FAILED
from trainables.failures import OUT_OF_MEMORY as OUT_OF_MEMORY

RUNNING, COMPLETED, STOPPED = "running", "completed", "stopped"
BAD = (FAILED, DIVERGED, OUT_OF_MEMORY)  # how a trial ends that has nothing to show
BY_HAND = "stopped by hand"  # the reason of a trial that a person has ended
CLONE = "clone"  # the origin of a trial that a person made


class LedgerError(UserError):
    """The ledger cannot be written: its disk is full, for instance."""


@dataclass
class Trial:
    """One trial as the ledger tells it. `of` names the trial that a replicate repeats with a fresh seed.

    `parent` names the trial from whose last checkpoint it starts, `until` the epoch that it ends after. `stopped_at` is the
    epoch at which a rule of the search, or a person, ended it; what it reported behind that does not count.
    """

    name: str
    point: dict[str, Any]
    run: dict[str, Any]
    origin: str  # reference, study, sampler, population, clone or replicate
    of: str | None = None
    optuna: int | None = None  # which ledgers of earlier versions have
    parent: str | None = None
    until: int | None = None
    status: str = RUNNING
    reason: str | None = None
    stopped_at: int | None = None
    reports: dict[int, Event] = field(default_factory=dict)  # by epoch
    proposed: float | None = None  # time at which it was

    @property
    def counted(self) -> dict[int, Event]:
        """The reports that count, in order."""
        last = math.inf if self.stopped_at is None else self.stopped_at
        return {epoch: report for epoch, report in sorted(self.reports.items()) if epoch <= last}

    @property
    def epochs(self) -> int:
        """How many epochs it is to train in all, if nothing stops it."""
        return int(self.until or self.run["epochs"])

    def best(self, objective: str, direction: Direction, until: float = math.inf) -> Event | None:
        """Return the report of the best epoch, up to `until`, or None before the first."""
        reports = [report for epoch, report in self.counted.items() if epoch <= until]
        scored = [r for r in reports if math.isfinite(r["metrics"].get(objective, math.nan))]
        return direction.best(scored, key=lambda r: float(r["metrics"][objective]))

    def score(self, objective: str, direction: Direction, until: float = math.inf) -> float | None:
        """Return the objective at the best epoch, up to `until`."""
        best = self.best(objective, direction, until)
        return None if best is None else float(best["metrics"][objective])


@dataclass
class State:
    """What a ledger's events add up to. `apply` is the only way to change it, live and on resume alike."""

    digest: str | None = None
    gpu_part: float = 0.0  # of a trial, at least: what was seen to be too little is not given again
    lag: int = 0  # trials before a new one that it does not wait for
    id: str = ""  # of the search, by which its run in MLflow is found
    script: str = ""  # the search's module
    argv: list[str] = field(default_factory=list)  # the flags of its last start
    folder: str = ""  # where it was then
    environment: dict[str, str] = field(default_factory=dict)  # the machine of its last start
    trials: dict[str, Trial] = field(default_factory=dict)
    searched: list[Trial] = field(
        default_factory=list
    )  # those of the search itself, in order: no replicates, no clones
    runs: dict[str, str] = field(default_factory=dict)  # MLflow run of each trial; "" is the search itself
    testing: list[str] = field(default_factory=list)  # the trials that the test split is touched for
    tests: dict[str, Event] = field(default_factory=dict)  # scores on the test split, by trial
    duplicates: int = 0
    baselines: dict[str, Any] = field(default_factory=dict)
    judges: dict[str, Any] = field(default_factory=dict)  # the texts that judge what is compared, see comparing.py
    design: dict[str, Any] = field(default_factory=dict)  # how it is compared, fixed before the first look
    finalists: list[str] = field(default_factory=list)  # what is compared, fixed with the first fresh seed
    data: dict[str, str] = field(default_factory=dict)
    origin: DataOrigin | None = None  # of the data; None before it is read
    pairs: dict[str, Any] = field(default_factory=dict)  # what was generated, by the name of the set
    forecast: Forecast = field(default_factory=Forecast)
    clock: Clock = field(default_factory=Clock)

    def apply(self, event: Event) -> None:
        """Take one event in."""
        self.clock.tick(event)
        match event["event"]:
            case "search":
                self.digest, self.id, self.script = event["digest"], event.get("id", ""), event.get("name", "")
                self.runs = {}  # those of the search that this is a copy of are not its own
            case "started":
                self.argv, self.environment = event.get("argv", []), event.get("environment", {})
                self.folder = event.get("folder", "")
            case "cluster":
                self.environment = self.environment | event["cluster"]
            case "lag":
                self.lag = event["trials"]
            case "gpu_part":
                self.gpu_part = event["part"]
            case "data":
                self.data, self.baselines = event["data"], event["baselines"]
                self.judges = event.get("judges") or {}
                self.origin = DataOrigin.model_validate(event["origin"]) if event.get("origin") else None
            case "design":
                self.design = event["design"]
            case "finalists":
                self.finalists = event["trials"]
            case "candidates":
                self.pairs[event["name"]] = event["made"]
            case "proposed":
                trial = Trial(**{**event["trial"], "proposed": event.get("time")})
                self.trials[trial.name] = trial
                if trial.of is None and trial.origin != CLONE:
                    self.searched.append(trial)
            case "report":
                self.trials[event["trial"]].reports.setdefault(event["epoch"], event)
            case "stopped":
                trial = self.trials[event["trial"]]
                trial.stopped_at = event["epoch"]
                trial.reason = event["reason"]
                if trial.status == COMPLETED:  # the rule knew only later
                    trial.status = STOPPED
            case "ended":
                trial = self.trials[event["trial"]]
                trial.status, trial.reason = event["status"], event.get("reason") or trial.reason
            case "testing":
                self.testing = event["trials"]
            case "test":
                self.tests[event["trial"]] = event
            case "reopened":
                trial = self.trials[event["trial"]]
                trial.status, trial.reason = RUNNING, None
            case "plan":
                self.forecast = Forecast.model_validate(event["plan"])
            case "duplicate":
                self.duplicates += 1
            case "run":
                self.runs[event["trial"]] = event["run_id"]

    @property
    def clones(self) -> list[Trial]:
        """The trials that a person made of others."""
        return [trial for trial in self.trials.values() if trial.origin == CLONE]

    def replicates(self, name: str) -> list[Trial]:
        """The repeats of a trial with fresh seeds."""
        return [trial for trial in self.trials.values() if trial.of == name]


class Ledger:
    """A search's ledger file and its state. Held by one process at a time; each event is on disk before it counts.

    Of a folder in storage behind an address, the storage has it too. `say` is told what a person waits for.
    """

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path, self.now = path, now
        self.file = _locked(path)
        self.remote: RemoteLedger | None = None
        self.failure: LedgerError | None = None
        self.state = State()
        self.lock = threading.RLock()  # events come from the search and from whoever delivers them
        self.listeners: list[Callable[[Event, State], None]] = []
        try:
            if is_copy(path):
                self.remote = RemoteLedger(path, say)
                self.remote.open(self.file)
            self.file.seek(0)
            self.size = _replay(self.file, path, self.state)
            self.file.truncate(self.size)
            self._tell_remote(wait=False)
        except (OSError, UserError):
            self.close()
            raise

    def record(self, event: Event) -> None:
        """Append an event with the time at which it happened, flush it to the disk, then tell the listeners.

        Raises LedgerError where it cannot be written; then nothing of it is on the disk or in the state, and nothing more is
        written.
        """
        with self.lock:
            event = {**event, "time": self.now()}
            line = (json.dumps(event) + "\n").encode()
            try:  # what could not be read again is not written
                parse(line, self.state.trials)
            except EventError as error:
                raise EventError(f"{self.path}: an event is refused, for it {error}") from None
            self._append(line)
            self._tell_remote(wait=event["event"] == "proposed")
            self.state.apply(event)
            for listener in self.listeners:
                listener(event, self.state)

    def begin(self, digest: str | None, script: str, seed: int) -> None:
        """Record the first event: which search this is, under an id of its own, and the schema of what follows."""
        event = {"event": "search", "schema_version": SCHEMA, "digest": digest, "name": script, "seed": seed}
        self.record(event | {"id": uuid4().hex})

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
            raise self.give_up(f"{self.path}: cannot be written ({error.strerror})") from None
        self.size += len(line)

    def give_up(self, why: str) -> LedgerError:
        """Write nothing more, for there is no room in the search's folder; return the error that says so."""
        self.failure = LedgerError(f"{why}; all before is kept, and when there is room the same command goes on")
        return self.failure

    def is_kept(self, size: int) -> bool:
        """Whether the first `size` bytes outlive this machine, where its folder is a copy; those of another are on its disk."""
        return self.remote is None or self.remote.lost or self.remote.sent >= size

    def _tell_remote(self, *, wait: bool) -> None:
        if self.remote is None:
            return
        try:
            self.remote.tell(self.size, wait=wait)
        except StorageError as error:
            self.failure = LedgerError(str(error))
            raise self.failure from None

    def close(self) -> None:
        """Release the file."""
        if self.remote is not None:
            self.remote.close()
        self.file.close()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles all it is given into a snapshot that is never read here: the ledger is the memory.
        return {}


def read_state(path: Path) -> State:
    """Return what a ledger's events add up to, without locking it; a last line that is still being written is passed over."""
    state = State()
    try:
        with path.open("rb") as file:
            _replay(file, path, state)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return state


def is_held(path: Path) -> bool:
    """Whether a search is at work on a ledger of this machine, or of a folder that machines share."""
    try:
        with path.open("rb") as file:
            lock(file, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_search(folder: Path) -> State:
    """Return how the search of a folder stands, whether it runs or not; raise UserError where it has no trial yet."""
    state = read_state(folder / "ledger.jsonl")
    if not state.trials:
        raise UserError(f"{folder}: the search has no trial yet")
    return state


def read_asked(folder: Path) -> State:
    """The same of a search whose question is to be asked again; raise UserError too where nothing says which that is."""
    state = read_search(folder)
    if not state.script:
        path = folder / "ledger.jsonl"
        raise UserError(f"{path}: no `search` line names the script; mend the file, or choose another --name")
    return state


def _locked(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror}); choose another --storage") from None
    try:
        lock(file)
    except OSError:
        file.close()
        raise UserError(f"{path.parent}: another search is running under this name; choose another --name") from None
    return file


def _replay(file: IO[bytes], path: Path, state: State) -> int:
    """Take in all events of a file; return the bytes of its whole lines. Behind them is what a kill left half written.

    Raises UserError for the first line that is no event.
    """
    whole = 0
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE + 1)
        try:
            if not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
                return whole
            state.apply(parse(line, state.trials))
        except EventError as error:
            raise UserError(f"{path}, line {number}: {error}; mend the line, or choose another --name") from None
        whole += len(line)
    return whole
