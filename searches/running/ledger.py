"""The ledger: one append-only file of JSON lines from which everything else about a search can be rebuilt."""

import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
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
from searches.result_files import LEDGER
from searches.running import events
from searches.running.clock import Clock
from searches.running.events import LONGEST_LINE, SCHEMA, EventError, parse
from searches.running.events import Event as Event
from searches.running.events import RawEvent as RawEvent
from searches.running.events import Report as Report
from searches.running.quantities import Forecast
from searches.running.remote_ledger import RemoteLedger
from trainables.failures import DIVERGED as DIVERGED
from trainables.failures import FAILED as FAILED
from trainables.failures import OUT_OF_MEMORY as OUT_OF_MEMORY

RUNNING, COMPLETED, STOPPED = "running", "completed", "stopped"
BAD = (FAILED, DIVERGED, OUT_OF_MEMORY)  # final statuses without a usable result
BY_HAND = "stopped by hand"  # reason of a trial that a user stopped
FREE_SPACE = "nothing recorded is lost: free some space, then run the same command again"
CLONE = "clone"  # origin of a trial that a user cloned


class NoTrialYetError(UserError):
    """A search that has just begun."""


class LedgerError(UserError):
    """The ledger cannot be written, for instance because the disk is full."""


@dataclass
class Trial:
    """One trial, as its events describe it.

    `of` names the trial that a replicate repeats with a fresh seed, `parent` the trial whose last checkpoint this one starts
    from, and `until` the epoch after which it ends. Reports after epoch `stopped_at`, at which a rule or a user stopped the
    trial, do not count.
    """

    name: str
    point: dict[str, Any]
    run: dict[str, Any]
    origin: str  # reference, default, warm-start, study, sampler, population, clone or replicate
    of: str | None = None
    optuna: int | None = None  # in ledgers of earlier versions
    parent: str | None = None
    until: int | None = None
    status: str = RUNNING
    reason: str | None = None
    stopped_at: int | None = None
    reports: dict[int, Report] = field(default_factory=dict)  # by epoch
    proposed: float | None = None  # time of the proposal
    ended: float | None = None  # time of the last end

    def add(self, report: Report) -> None:
        """Add a report; of several on one epoch, the first counts. Scores of the best epoch complete its own report."""
        self.reports.setdefault(report.epoch, report)
        best = report.best
        if best is not None and (known := self.reports.get(best.epoch)) is not None:
            scores = dict(best) | {"metrics": known.metrics | best.metrics}
            self.reports[best.epoch] = known.model_copy(update=scores)

    @property
    def counted(self) -> dict[int, Report]:
        """The reports that count, by epoch in ascending order."""
        last = math.inf if self.stopped_at is None else self.stopped_at
        return {epoch: report for epoch, report in sorted(self.reports.items()) if epoch <= last}

    @property
    def epochs(self) -> int:
        """The last epoch, unless the trial is stopped early."""
        return int(self.until or self.run["epochs"])

    def best(self, objective: str, direction: Direction, until: float = math.inf) -> Report | None:
        """Return the report of the best epoch up to `until`, or None if no epoch has a finite objective."""
        reports = [report for epoch, report in self.counted.items() if epoch <= until]
        scored = [report for report in reports if math.isfinite(report.metrics.get(objective, math.nan))]
        return direction.best(scored, key=lambda report: float(report.metrics[objective]))

    def score(self, objective: str, direction: Direction, until: float = math.inf) -> float | None:
        """Return the objective at the best epoch up to `until`."""
        best = self.best(objective, direction, until)
        return None if best is None else float(best.metrics[objective])


@dataclass
class State:
    """The state of a search. Only `apply` changes it, both live and when a ledger is read."""

    digest: str | None = None
    gpu_part: float = 0.0  # least part of a GPU for a trial; smaller parts ran out of memory
    lag: int = 0  # how many earlier trials a proposal does not wait for
    id: str = ""  # of the search; finds its run in MLflow
    script: str = ""  # the search's module
    argv: list[str] = field(default_factory=list)  # flags of the last start
    folder: str = ""  # results folder at the last start
    file: str = ""  # the script or TOML file of the last start
    definition: dict[str, Any] = field(default_factory=dict)  # the search that it states, as the content of a TOML file
    environment: dict[str, str] = field(default_factory=dict)  # machine of the last start
    warm_start: list[events.WarmStart] = field(default_factory=list)  # points of earlier searches
    trials: dict[str, Trial] = field(default_factory=dict)
    searched: list[Trial] = field(default_factory=list)  # in order, without replicates and clones
    runs: dict[str, str] = field(default_factory=dict)  # MLflow run of each trial; "" is the search itself
    testing: list[str] = field(default_factory=list)  # trials that are scored on the test split
    tests: dict[str, events.Test] = field(default_factory=dict)  # scores on the test split, by trial
    duplicates: int = 0
    baselines: dict[str, Any] = field(default_factory=dict)
    judges: dict[str, Any] = field(default_factory=dict)  # arguments of `comparing.Judges`
    design: dict[str, Any] = field(default_factory=dict)  # of the comparison, fixed before the first look
    finalists: list[str] = field(default_factory=list)  # compared trials, fixed with the first fresh seed
    data: dict[str, str] = field(default_factory=dict)
    origin: DataOrigin | None = None  # of the data; None before it is read
    pairs: dict[str, Any] = field(default_factory=dict)  # statistics of the generated pairs, by name of the set
    forecast: Forecast = field(default_factory=Forecast)
    clock: Clock = field(default_factory=Clock)
    left: str | None = (
        None  # how the last driver ended, as `events.Left.status`; None if it runs or was killed outright
    )

    @property
    def flags(self) -> list[str]:
        """The flags that plan the search again: those of its last start, and the classes of own data, which are then not read."""
        classes = next((trial.run.get("class_names") for trial in self.trials.values()), None)
        return [*self.argv, *(["--set", f"class_names={json.dumps(classes)}"] if classes else [])]

    def apply(self, event: Event) -> None:
        """Update the state by one event."""
        self.clock.tick(event)
        match event:
            case events.Search():
                self.digest, self.id, self.script = event.digest, event.id, event.name
                self.runs = {}  # a copied ledger holds the runs of the original search
            case events.Started():
                self.argv, self.environment, self.folder = event.argv, event.environment, event.folder
                self.file, self.definition, self.left = event.file, event.definition, None
                self.warm_start = event.warm_start
            case events.Left():
                self.left = event.status
            case events.Cluster():
                self.environment = self.environment | event.cluster
            case events.Lag():
                self.lag = event.trials
            case events.GpuPart():
                self.gpu_part = event.part
            case events.Data():
                self.data, self.origin, self.baselines = event.data, event.origin, event.baselines
                self.judges = event.judges or {}
            case events.Design():
                self.design = event.design
            case events.Finalists():
                self.finalists = event.trials
            case events.Candidates():
                self.pairs[event.name] = event.made
            case events.Proposed():
                trial = Trial(**vars(event.trial), proposed=event.time)
                self.trials[trial.name] = trial
                if trial.of is None and trial.origin != CLONE:
                    self.searched.append(trial)
            case Report():
                self.trials[event.trial].add(event)
            case events.Stopped():
                trial = self.trials[event.trial]
                trial.stopped_at, trial.reason = event.epoch, event.reason
                if trial.status == COMPLETED:  # pruned retroactively
                    trial.status = STOPPED
            case events.Ended():
                trial = self.trials[event.trial]
                trial.status, trial.reason = event.status, event.reason or trial.reason
                trial.ended = event.time
            case events.Testing():
                self.testing = event.trials
            case events.Test():
                self.tests[event.trial] = event
            case events.Reopened():
                trial = self.trials[event.trial]
                trial.status, trial.reason = RUNNING, None
            case events.Predicted():
                self.forecast = event.plan
            case events.Duplicate():
                self.duplicates += 1
            case events.MlflowRun():
                self.runs[event.trial] = event.run_id

    @property
    def clones(self) -> list[Trial]:
        """The trials that a user cloned."""
        return [trial for trial in self.trials.values() if trial.origin == CLONE]

    def replicates(self, name: str) -> list[Trial]:
        """Return the trials that repeat trial `name` with a fresh seed."""
        return [trial for trial in self.trials.values() if trial.of == name]


Listener = Callable[[Event, State], None]  # called with an event and the state after it


class NotPickled:
    """Mix-in for what Tune pickles into a snapshot that we never read."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Ledger(NotPickled):
    """A search's ledger file and its state. One process at a time holds the file; each event is on disk before it counts.

    Remote storage gets a copy if the search's folder is there. `say` prints what the user is waiting for.
    """

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path, self.now = path, now
        self.file = _open_locked(path)
        self.remote: RemoteLedger | None = None
        self.failure: LedgerError | None = None
        self.state = State()
        self.lock = threading.RLock()  # the thread that sends to MLflow records events too
        self.listeners: list[Listener] = []
        try:
            if is_copy(path):
                self.remote = RemoteLedger(path, say)
                self.remote.open(self.file)
            self.file.seek(0)
            self.size = _replay(self.file, path, self.state)
            self.file.truncate(self.size)
            self._send_to_remote(wait=False)
        except (OSError, UserError):
            self.close()
            raise

    def record(self, raw: RawEvent) -> None:
        """Append an event with the current time, flush it to disk, then update the state and call the listeners.

        Raises LedgerError if it cannot be written. Then neither file nor state has any of it, and later calls fail too.
        """
        with self.lock:
            raw = {**raw, "time": self.now()}
            line = (json.dumps(raw) + "\n").encode()
            try:  # never write a line that could not be read again
                event = parse(line, self.state.trials)
            except EventError as error:
                raise EventError(f"{self.path}: an event is refused: it {error}") from None
            self._append(line)
            self._send_to_remote(wait=isinstance(event, events.Proposed))
            self.state.apply(event)
            for listener in self.listeners:
                listener(event, self.state)

    def begin(self, digest: str | None, script: str, seed: int) -> None:
        """Record the first event, which identifies the search and gives it a new id."""
        raw = {"event": "search", "schema_version": SCHEMA, "digest": digest, "name": script, "seed": seed}
        self.record(raw | {"id": uuid4().hex})

    def _append(self, line: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        rest, handle = line, self.file.fileno()
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except BaseException as error:
            with suppress(OSError):  # if this fails too, the next start cuts the half line off
                os.ftruncate(handle, self.size)
            if not isinstance(error, OSError):
                raise
            raise self.fail(f"{self.path}: cannot be written ({error.strerror})") from None
        self.size += len(line)

    def fail(self, why: str) -> LedgerError:
        """Write nothing from now on, because storage is full; return the error for the user."""
        self.failure = LedgerError(f"{why}; {FREE_SPACE}")
        return self.failure

    def is_durable(self, size: int) -> bool:
        """Whether the first `size` bytes survive the loss of this machine, or can only be on its disk."""
        return self.remote is None or self.remote.lost or self.remote.sent >= size

    def _send_to_remote(self, *, wait: bool) -> None:
        if self.remote is None:
            return
        try:
            self.remote.update(self.size, wait=wait)
        except StorageError as error:
            self.failure = LedgerError(str(error))
            raise self.failure from None

    def close(self) -> None:
        """Release the file."""
        if self.remote is not None:
            self.remote.close()
        self.file.close()


def read_state(path: Path, *listeners: Listener) -> State:
    """Return the state of a search without locking its ledger; an incomplete last line is ignored. Raises UserError.

    The listeners are called with each event and the state after it.
    """
    state = State()
    try:
        with path.open("rb") as file:
            _replay(file, path, state, listeners)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return state


def is_held(path: Path) -> bool:
    """Whether a process on this machine, or on one that shares the folder, holds the ledger."""
    try:
        with path.open("rb") as file:
            lock(file, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def status_of(path: Path, state: State) -> str:
    """Return `running`, or how the last driver of a search ended: `finished`, `killed`, `failed`, or `ended` in old ledgers.

    In remote storage, a search whose machine was lost counts as running until it is resumed.
    """
    if is_held(path) or (state.left is None and is_copy(path)):
        return RUNNING
    return state.left or "killed"


def read_search(folder: Path, *, needs_script: bool = False) -> State:
    """Return the state of the search in a folder, running or not.

    Raises NoTrialYetError or, with `needs_script`, UserError if its ledger does not name the search script.
    """
    path = folder / LEDGER
    state = read_state(path)
    if not state.trials:
        raise NoTrialYetError(f"{folder}: the search has no trial yet")
    if needs_script and not state.script:
        raise UserError(f"{path}: no `search` line names the script; mend the file, or choose another --name")
    return state


def in_use(path: Path) -> str:
    """Return in one line that another process writes a ledger."""
    return f"{path.parent}: another search is running under this name; choose another --name"


def _open_locked(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror}); choose another --storage") from None
    try:
        lock(file)
    except OSError:
        file.close()
        raise UserError(in_use(path)) from None
    return file


def _replay(file: IO[bytes], path: Path, state: State, listeners: Sequence[Listener] = ()) -> int:
    """Apply all complete lines to `state`; return their size in bytes. A killed process may leave half a line after them.

    Raises UserError for the first invalid line.
    """
    size = 0
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE + 1)
        try:
            if not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
                return size
            event = parse(line, state.trials)
        except EventError as error:
            raise UserError(f"{path}, line {number}: {error}; mend the line, or choose another --name") from None
        state.apply(event)
        for listener in listeners:
            listener(event, state)
        size += len(line)
    return size
