"""How long a search has run and what resources it has used, from the times of its ledger's events alone."""

from bisect import bisect_left, insort
from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import Literal

from searches.running import events
from searches.running.events import Event, ProposedTrial

Kind = Literal["search", "clone", "replicate"]


@dataclass
class Ended:
    """How many trials have ended, and the seconds that they ran in total."""

    count: int = 0
    seconds: float = 0.0


@dataclass
class Clock:
    """Sums over all driver processes of a search, updated event by event, so that reading them costs the same for any number of
    trials.

    The time between the last event of one driver and the start of the next does not count, so a killed driver loses only the
    time since its last event.
    """

    wall: float = 0.0  # seconds
    gpu: float = 0.0  # seconds of trials, times the GPUs of each
    cpu: float = 0.0
    trials: MutableMapping[str, float] = field(default_factory=dict)  # seconds that each trial has run
    kinds: dict[str, Kind] = field(default_factory=dict)  # of all trials
    running: dict[str, None] = field(default_factory=dict)  # names in order of their start
    ended: dict[Kind, Ended] = field(
        default_factory=lambda: {"search": Ended(), "clone": Ended(), "replicate": Ended()}
    )
    last_epochs: dict[str, int] = field(default_factory=dict)  # of each trial, if nothing stops it
    parts: dict[str, float] = field(default_factory=dict)  # share of all epochs that a trial with a parent trains
    whole: dict[str, float] = field(default_factory=dict)  # seconds for all epochs, of completed trials
    lengths: list[float] = field(default_factory=list)  # the same, sorted
    gpus: float = 0.0  # of one trial of the present driver
    cpus: float = 0.0
    concurrent: int = 1
    trials_run: bool = False  # whether the present driver has started to run trials
    last: float | None = None  # time of the last event

    def tick(self, event: Event) -> None:
        """Update the sums by one event."""
        if isinstance(event, events.Started):
            self.trials_run, self.last = False, event.time
        elif event.time is not None:
            self.until(event.time)
        match event:
            case events.Share():
                self.gpus, self.cpus, self.concurrent = event.gpus, event.cpus, event.concurrent
                self.trials_run = True
            case events.Proposed():
                trial = event.trial
                self.kinds[trial.name] = _kind(trial)
                self._set_part(trial)
                self.running[trial.name] = None
            case events.Reopened():
                self._reopen(event.trial)
            case events.Stopped():
                self._forget_length(event.trial)
            case events.Ended():
                self._end(event.trial, completed=event.status == "completed")

    @property
    def longest(self) -> float | None:
        """Most seconds that a completed trial took for all epochs; None before the first has completed."""
        return self.lengths[-1] if self.lengths else None

    def until(self, now: float) -> None:
        """Let time pass until `now`; if the machine's clock was set back, no time passes."""
        seconds = max(0.0, now - self.last) if self.last is not None else 0.0
        self.wall += seconds
        for name in self.running if self.trials_run else ():
            self.trials[name] = self.trials.get(name, 0.0) + seconds
            self.gpu += seconds * self.gpus
            self.cpu += seconds * self.cpus
        self.last = now

    def at(self, now: float) -> "Clock":
        """Return a copy at a later time, as if the driver had run until then."""
        later = replace(self, trials=ChainMap({}, self.trials), running=dict(self.running))
        later.until(now)
        return later

    def _end(self, name: str, *, completed: bool) -> None:
        seconds = self.trials.get(name, 0.0)
        if name in self.running:
            del self.running[name]
            self._count_ended(name, 1)
        self._forget_length(name)
        if completed:
            self.whole[name] = seconds / self.parts.get(name, 1.0)
            insort(self.lengths, self.whole[name])

    def _reopen(self, name: str) -> None:
        if name not in self.running:
            self.running[name] = None
            self._count_ended(name, -1)
        self._forget_length(name)

    def _count_ended(self, name: str, sign: int) -> None:
        ended = self.ended[self.kinds[name]]
        ended.count, ended.seconds = ended.count + sign, ended.seconds + sign * self.trials.get(name, 0.0)

    def _set_part(self, trial: ProposedTrial) -> None:
        """Set the share of all epochs that a trial trains; in a population, it continues another trial's checkpoint."""
        epochs = trial.run["epochs"]
        self.last_epochs[trial.name] = until = trial.until or epochs
        done = self.last_epochs.get(trial.parent or "", 0)
        if 0 < until - done < epochs:
            self.parts[trial.name] = (until - done) / epochs

    def _forget_length(self, name: str) -> None:
        seconds = self.whole.pop(name, None)
        if seconds is not None:
            del self.lengths[bisect_left(self.lengths, seconds)]


def _kind(trial: ProposedTrial) -> Kind:
    if trial.of is not None:
        return "replicate"
    return "clone" if trial.origin == "clone" else "search"
