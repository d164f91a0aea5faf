"""How long a search has run and what it has held, from the times of the ledger's events alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass
class Clock:
    """Sums over all processes that drove a search. What lies between the last event of one and the start of the next
    counts nothing, so a kill loses no more than the time since the last event."""

    wall: float = 0.0  # seconds
    gpu: float = 0.0  # seconds of trials, times the GPUs of each
    cpu: float = 0.0
    trials: dict[str, float] = field(default_factory=dict)  # seconds that each has run
    running: set[str] = field(default_factory=set)
    gpus: float = 0.0  # of one trial, in the process that drives now
    cpus: float = 0.0
    concurrent: int = 1
    shared: bool = False  # whether the process that drives now has trials that run
    last: float | None = None  # time of the last event

    def tick(self, event: Mapping[str, Any]) -> None:
        """Take one event in."""
        if event["event"] == "started":
            self.shared, self.last = False, event.get("time")
        elif "time" in event:
            self.until(event["time"])
        match event["event"]:
            case "share":
                self.gpus, self.cpus, self.concurrent = event["gpus"], event["cpus"], event["concurrent"]
                self.shared = True
            case "proposed":
                self.running.add(event["trial"]["name"])
            case "reopened":
                self.running.add(event["trial"])
            case "ended":
                self.running.discard(event["trial"])

    def until(self, now: float) -> None:
        """Let time pass; a clock of the machine that was put back counts nothing."""
        seconds = max(0.0, now - self.last) if self.last is not None else 0.0
        self.wall += seconds
        for name in self.running if self.shared else ():
            self.trials[name] = self.trials.get(name, 0.0) + seconds
            self.gpu += seconds * self.gpus
            self.cpu += seconds * self.cpus
        self.last = now

    def at(self, now: float) -> "Clock":
        """This clock at a later time, while the process that drives goes on."""
        later = replace(self, trials=dict(self.trials), running=set(self.running))
        later.until(now)
        return later
