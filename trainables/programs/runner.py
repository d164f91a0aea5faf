"""The actor that runs programs, one after another; it has the resources of a trial."""

import threading
from collections.abc import Generator
from typing import Any

from trainables.programs.run import ProgramRun
from trainables.programs.trial import payloads
from trainables.trial import Payload, TrialSpec


class Runner:
    """Runs one program at a time; a Ray actor. As in a pack, light processes under Tune forward its reports."""

    def __init__(self) -> None:
        self.turn = threading.Lock()  # held while a program is waited for or ended
        self.name = ""
        self.stopped = threading.Event()
        self.reports: Generator[Payload] | None = None

    def next(self, values: dict[str, Any], *, joins: bool) -> Payload | None:
        """Return the trial's next report, or None at its end. Starts the program first if the trial `joins` or is unknown."""
        with self.turn:
            if joins or self.reports is None or self.name != values["name"]:
                self._start(TrialSpec.from_dict(values))
            return next(self.reports, None) if self.reports is not None else None

    def leave(self, name: str) -> None:
        """End the program of a trial, without waiting for it."""
        if name == self.name and self.reports is not None:
            self.stopped.set()
            threading.Thread(target=self._end, args=[self.reports], daemon=True).start()

    def close(self) -> None:
        """End the program that runs; wait for that."""
        self.stopped.set()
        with self.turn:
            if self.reports is not None:
                self.reports.close()

    def _start(self, spec: TrialSpec) -> None:
        assert isinstance(spec.run, ProgramRun)
        if self.reports is not None:
            self.reports.close()
        self.name, self.stopped = spec.name, threading.Event()
        self.reports = payloads(spec.run, spec.folder, spec.cpus_per_worker, self.stopped)

    def _end(self, reports: Generator[Payload]) -> None:
        with self.turn:
            reports.close()
