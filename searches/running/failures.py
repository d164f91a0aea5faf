"""Why a trial failed that could not tell itself. Tune keeps it from the searcher, but shows the trial to the scheduler before."""

import functools
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from gpt2core.errors import UserError
from gpt2core.memory import NO_MEMORY
from searches.running.ledger import FAILED, OUT_OF_MEMORY, Ledger
from trainables.failures import full, kernel_kills
from trainables.heartbeat import Heartbeat
from trainables.trial import RESTARTS

UNKNOWN = (FAILED, "its process died, or it raised an error that is no fault of its configuration: see Tune's log")
DIED = "its process died"
LOOK, RECENT = 1.0, 30.0  # seconds between two looks at the kernel's count; from a kill until Tune tells of the death
DEATHS = ("ActorDiedError", "actor died", "actor is dead", "The actor is unavailable")

#: What Ray tells of a process that died.
PROCESS, MACHINE = re.compile(r"^\s*pid: (\d+)$", re.MULTILINE), re.compile(r"^\s*ip: (\S+)$", re.MULTILINE)

_noted: dict[str, tuple[str, str]] = {}  # by Tune's id of the trial
_given_up: set[str] = set()  # those that Tune gave up before their process had died too often


class Kills:
    """The kernel's kills for want of memory on this machine, each for the one death that it explains."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.count = now, kernel_kills()
        self.looked = self.now()
        self.seen: list[float] = []  # the time of each, as far as somebody looked
        self.explained: dict[str, bool] = {}  # the deaths that were asked about

    def look(self) -> None:
        """Note whether there were any since the last look; to be called again and again."""
        if self.now() - self.looked < LOOK:
            return
        self.looked, count = self.now(), kernel_kills()
        self.seen += [self.looked] * (count - self.count)
        self.count = count

    def explain(self, text: str) -> bool:
        """Whether a death, as Ray tells of it, was one of them: on this machine, and just now."""
        process, machine = PROCESS.search(text), MACHINE.search(text)
        if machine and machine[1] not in here():
            return False
        death = f"{process[1]} {machine and machine[1]}" if process else text
        if death not in self.explained:
            self.looked = -math.inf
            self.look()
            self.seen = [one for one in self.seen if self.now() - one < RECENT]
            self.explained[death] = bool(self.seen)
            self.seen = self.seen[1:]
        return self.explained[death]


@functools.cache
def here() -> tuple[str, ...]:
    """The addresses of this machine, as Ray names it."""
    return "127.0.0.1", ray.util.get_node_ip_address()


_kills = Kills()


class NotesFailures:
    """A mix-in for schedulers: notes why a trial failed, for `outcome`."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Take note, before the searcher is asked to."""
        _noted[trial.trial_id] = status, reason = _read(trial.error_file)
        # Tune does not let a trial go on whose process dies while it takes over another trial's.
        if (status, reason) == (FAILED, DIED) and trial.num_failures <= RESTARTS:
            _given_up.add(trial.trial_id)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class Faults(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Tells what a trial noted, and keeps Tune from taking the end of Ray for failures of its trials."""

    def __init__(self, heart: Heartbeat, say: Callable[[str], None]) -> None:
        self.heart, self.say = heart, say

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look for processes that the kernel kills, so that it is known when."""
        _kills.look()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say what happened before an epoch."""
        for note in result.get("notes") or []:
            self.say(f"trial {trial}: {note}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial goes on; raise RayEndedError where that is why its process died."""
        self.heart.check_node()
        _, reason = _read(trial.error_file)
        self.say(f"trial {trial}: {reason}; it goes on from its last checkpoint")

    def __getstate__(self) -> dict[str, Any]:
        return {}


@contextmanager
def translate_errors(ledger: Ledger) -> Iterator[None]:
    """Raise what a user can act on in place of Tune's account of it; UserError where the ledger or a disk was the reason."""
    try:
        yield
    except Exception as error:
        if ledger.failure is None:
            said = full(str(error))
            if said is None:
                raise
            raise UserError(
                f"{ledger.path.parent}: cannot be written to ({said}); all before is kept, and when there is room the same "
                "command goes on"
            ) from None
    if ledger.failure is not None:
        raise ledger.failure


def outcome(trial_id: str) -> tuple[str, str]:
    """Status and reason of a trial that ended with an error."""
    return _noted.get(trial_id, UNKNOWN)


def goes_on(trial_id: str) -> bool:
    """Whether a trial that ended with an error is to be handed out again."""
    return trial_id in _given_up


def _read(error_file: str | None) -> tuple[str, str]:
    """What the last error says that Tune wrote to a file."""
    try:
        text = Path(error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNKNOWN
    last = text.rpartition("Failure # ")[2]
    return described(last, killed=any(words in last for words in DEATHS) and _kills.explain(last))


def described(text: str, *, killed: bool) -> tuple[str, str]:
    """Status and reason that an error's text comes to. `killed`: the kernel has just killed it for want of memory."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "OutOfMemoryError" in text or any(words in text for words in NO_MEMORY):
        return OUT_OF_MEMORY, "out of memory: its node had none left, and Ray killed its process"
    if any(words in text for words in DEATHS):
        if killed:
            return (
                OUT_OF_MEMORY,
                "its process died while the kernel killed processes of this machine for want of memory",
            )
        return FAILED, DIED
    return (FAILED, f"it raised an error: {lines[-1]}") if lines else UNKNOWN
