"""A trial that runs a program: its reports, and how it resumes after an interruption."""

import json
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from gpt2core.errors import DataError, DivergedError, UserError
from gpt2core.files import lock, read_json, write_json
from gpt2core.storage import fetch, local, send
from trainables.failures import DIVERGED, FAILED, OUT_OF_MEMORY, Failure
from trainables.programs.process import Process, last_lines
from trainables.programs.readings import Reading, readings
from trainables.programs.run import ProgramRun

LOOK = 0.1  # seconds between two looks at the program
SIGNALS = 128  # exit statuses above it are signals
LOG, PROGRESS, LOCK = "output.log", "progress.json", ".lock"
#: Of a trial that runs a program, next to the program's own files: name -> content.
FILES = {
    LOG: "what the program printed",
    PROGRESS: "the values of the metric that were read",
    LOCK: "held while the program runs",
}
Payload = dict[str, Any]


@dataclass
class Progress:
    """What is read of a run, kept in its folder: the value of each epoch, the number of the first one, and the bytes of the log.

    A process that resumes the run begins there: an earlier one may have gone on for a while after its reader had died.
    """

    values: dict[int, float] = field(default_factory=dict)
    first: int | None = None
    read: int = 0
    ended: bool = False

    @classmethod
    def of(cls, path: Path) -> "Progress":
        """Return the progress in a file; a new one without the file."""
        try:
            known = read_json(path)
        except (OSError, DataError):
            return cls()
        values = {int(epoch): value for epoch, value in known["values"].items()}
        return cls(values=values, first=known["first"], read=known["read"], ended=known["ended"])

    def new(self, found: list[Reading]) -> Iterator[tuple[int, float]]:
        """Add readings, and yield the epoch and value of each new one."""
        for reading in found:
            self.first = reading.epoch if self.first is None else self.first
            epoch = reading.epoch + (1 if self.first == 0 else 0)
            if epoch not in self.values:
                self.values[epoch], self.read = reading.value, reading.end
                yield epoch, reading.value


def payloads(run: ProgramRun, folder: str, cpus: int, stopped: Event) -> Generator[Payload]:
    """Run the program and yield the report of each epoch, or a failure; end early once `stopped`.

    The program stops when this generator is closed. A run of one epoch has one report, at its end: its best value.
    """
    out = local(folder)
    fetch(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with (out / LOCK).open("w") as held:
            lock(held, wait=True)  # the program of an earlier process may run for some more seconds
            attempt = _Attempt(run, out, cpus, held.fileno())
            with closing(attempt.reports(stopped)) as reports:
                for epoch, value in reports:
                    send(out)
                    yield attempt.payload(epoch, value)
    except DivergedError as error:
        yield _failure(DIVERGED, str(error))
    except UserError as error:
        yield _failure(OUT_OF_MEMORY if "out of memory" in str(error).lower() else FAILED, str(error))
    send(out)


class _Attempt:
    """One process of a run: the first one, or one that resumes it."""

    def __init__(self, run: ProgramRun, out: Path, cpus: int, held: int) -> None:
        self.run, self.out, self.cpus, self.held = run, out, cpus, held
        self.began = self.last = time.time()

    def reports(self, stopped: Event) -> Generator[tuple[int, float]]:
        """Yield epochs and values, those of an earlier process again. Raises DivergedError, UserError."""
        progress, checkpoint = Progress.of(self.out / PROGRESS), self._checkpoint()
        if not progress.ended and checkpoint is None:
            progress = Progress(read=_size(self.out / LOG))
            if self.run.metrics_file is not None:
                (self.out / self.run.metrics_file).unlink(missing_ok=True)
        if progress.ended or self.run.epochs > 1:
            yield from self._counted(progress)
        if not progress.ended:
            yield from self._run(progress, checkpoint, stopped)

    def _run(self, progress: Progress, checkpoint: Path | None, stopped: Event) -> Iterator[tuple[int, float]]:
        log = self.out / LOG
        self._link()
        source = readings(self.run, log, self.out, progress.read, len(progress.values))
        process = Process(self.run.argv(self.out, checkpoint), self.out, log, self.cpus, held=self.held)
        try:
            status = None
            while status is None:
                if stopped.wait(LOOK):
                    return
                status = process.status()  # before the output is read, so that nothing is missed
                for epoch, value in progress.new(source.read(ended=status is not None)):
                    if not math.isfinite(value):
                        raise DivergedError(f"The value of {self.run.metric} is {value} at epoch {epoch}")
                    write_json(self.out / PROGRESS, asdict(progress))
                    if 1 < self.run.epochs >= epoch:
                        yield epoch, value
        finally:
            process.stop()
        if status:
            how = f"exit status {status}" if status < SIGNALS else f"killed by signal {status - SIGNALS}"
            raise UserError(f"{how}: {last_lines(log)} (see {log})")
        if not progress.values:
            raise UserError(f"{self._missing()}; its last lines: {last_lines(log)} (see {log})")
        progress.ended = True
        write_json(self.out / PROGRESS, asdict(progress))
        if self.run.epochs == 1:
            yield from self._counted(progress)

    def _counted(self, progress: Progress) -> Iterator[tuple[int, float]]:
        """Yield the values that count: those of the planned epochs; of a run of one epoch, the best."""
        if self.run.epochs > 1:
            yield from ((epoch, value) for epoch, value in progress.values.items() if epoch <= self.run.epochs)
            return
        best = self.run.direction.best(progress.values.values(), key=float)
        if best is not None:
            yield 1, best

    def _missing(self) -> str:
        if self.run.metrics_file is not None:
            return f"`{self.run.metric}` is not in {self.out / self.run.metrics_file}"
        how = "a line that matches --pattern" if self.run.pattern else f"a line such as {self.run.metric}=0.5"
        return f"`{self.run.metric}` never appeared in the output, which must have {how}"

    def _checkpoint(self) -> Path | None:
        """Return the newest checkpoint of an earlier process, if the program can resume from one."""
        if self.run.resume_flag is None:
            return None
        return max(self.out.glob(self.run.checkpoint), key=lambda path: path.stat().st_mtime, default=None)

    def _link(self) -> None:
        for name in self.run.links:
            link = self.out / Path(name).name
            if not link.is_symlink():
                link.symlink_to(Path(self.run.folder, name))

    def payload(self, epoch: int, value: float) -> Payload:
        """Return the report of an epoch, as `trainables.trial` describes it."""
        now = time.time()
        seconds, self.last = now - self.last, now
        return {
            "epoch": epoch,
            "objective": value,
            "metrics": {self.run.metric: value, "train_seconds": seconds},
            "statistics": json.dumps(None),
            "judged": None,
            "samples": [],
            "tables": {},
            "data": {},
            "notes": [],
            "seconds": {"train": seconds},
            "began": self.began,
        }


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _failure(kind: str, reason: str) -> Payload:
    return {"epoch": 0, "objective": float("nan"), "failure": Failure(kind, reason).to_dict()}
