"""How long a search has run and what it has held, from the times of the ledger's events alone."""

from bisect import bisect_left, insort
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["search", "clone", "replicate"]


@dataclass
class Ended:
    """How many trials have ended, and what they took together."""

    count: int = 0
    seconds: float = 0.0


@dataclass
class Clock:
    """Sums over all processes that drove a search. What lies between the last event of one and the start of the next
    counts nothing, so a kill loses no more than the time since the last event.

    What is asked at each step of a search is counted event by event: it costs no more after ten thousand trials.
    """

    wall: float = 0.0  # seconds
    gpu: float = 0.0  # seconds of trials, times the GPUs of each
    cpu: float = 0.0
    trials: MutableMapping[str, float] = field(default_factory=dict)  # seconds that each has run
    kinds: dict[str, Kind] = field(default_factory=dict)  # of all trials
    running: dict[str, None] = field(default_factory=dict)  # names in the order in which they began
    ended: dict[Kind, Ended] = field(
        default_factory=lambda: {"search": Ended(), "clone": Ended(), "replicate": Ended()}
    )
    ends: dict[str, int] = field(default_factory=dict)  # the epoch that each trial ends after, where it is known
    parts: dict[str, float] = field(default_factory=dict)  # of all epochs, what each trains that starts from another's
    whole: dict[str, float] = field(default_factory=dict)  # seconds of the trials that nothing stopped, for all epochs
    lengths: list[float] = field(default_factory=list)  # the same, sorted
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
                trial = event["trial"]
                self.kinds[trial["name"]] = _kind(trial)
                self._note_part(trial)
                self.running[trial["name"]] = None
            case "reopened":
                self._began_again(event["trial"])
            case "stopped":
                self._not_whole(event["trial"])
            case "ended":
                self._ended(event["trial"], completed=event["status"] == "completed")

    @property
    def longest(self) -> float | None:
        """Seconds that all epochs took at most, of the trials that nothing stopped; None before the first has ended."""
        return self.lengths[-1] if self.lengths else None

    def _ended(self, name: str, *, completed: bool) -> None:
        seconds = self.trials.get(name, 0.0)
        if name in self.running:
            del self.running[name]
            of_kind = self.ended[self.kinds[name]]
            of_kind.count, of_kind.seconds = of_kind.count + 1, of_kind.seconds + seconds
        self._not_whole(name)
        if completed:
            self.whole[name] = seconds / self.parts.get(name, 1.0)
            insort(self.lengths, self.whole[name])

    def _note_part(self, trial: Mapping[str, Any]) -> None:
        """Note how much of a run a trial is: one of a population goes on from another's checkpoint, to an epoch of its own."""
        epochs = trial.get("run", {}).get("epochs")
        if not epochs:
            return
        self.ends[trial["name"]] = until = trial.get("until") or epochs
        begins = self.ends.get(trial.get("parent") or "", 0)
        if 0 < until - begins < epochs:
            self.parts[trial["name"]] = (until - begins) / epochs

    def _began_again(self, name: str) -> None:
        if name not in self.running:
            self.running[name] = None
            of_kind = self.ended[self.kinds[name]]
            of_kind.count, of_kind.seconds = of_kind.count - 1, of_kind.seconds - self.trials.get(name, 0.0)
        self._not_whole(name)

    def _not_whole(self, name: str) -> None:
        seconds = self.whole.pop(name, None)
        if seconds is not None:
            del self.lengths[bisect_left(self.lengths, seconds)]

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
        later = replace(self, trials=ChainMap({}, self.trials), running=dict(self.running))
        later.until(now)
        return later


def _kind(trial: Mapping[str, Any]) -> Kind:
    if trial.get("of") is not None:
        return "replicate"
    return "clone" if trial.get("origin") == "clone" else "search"
