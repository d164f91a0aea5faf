"""Why a trial failed without reporting it, for instance because its process died.

Tune does not tell the searcher; it shows the trial to the scheduler first, which notes the reason here.
"""

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
from gpt2core.machine import NO_MEMORY
from searches.running.ledger import FAILED, FREE_SPACE, OUT_OF_MEMORY, Ledger, NotPickled
from trainables.failures import disk_full_message, kernel_kills
from trainables.heartbeat import Heartbeat
from trainables.trial import RESTARTS

DIED = "its process died"
UNKNOWN = (FAILED, "its process died, or it raised an error that its configuration did not cause: see Tune's log")
LOOK, RECENT = (
    1.0,
    30.0,
)  # seconds between two reads of the kernel's counter; between a kill and Tune's report of the death
DEATHS = ("ActorDiedError", "actor died", "actor is dead", "The actor is unavailable")

# How Ray names the process and machine of a dead actor.
PROCESS, MACHINE = re.compile(r"^\s*pid: (\d+)$", re.MULTILINE), re.compile(r"^\s*ip: (\S+)$", re.MULTILINE)

_outcomes: dict[str, tuple[str, str]] = {}  # Tune's trial id -> status and reason
_given_up: set[str] = set()  # trials that Tune ended although they may be restarted


class Kills:
    """The kernel's out-of-memory kills on this machine. Each explains the death of one process."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.count = now, kernel_kills()
        self.looked = self.now()
        self.times: list[float] = []  # when each kill that explains no death yet was noticed
        self.explained: dict[str, bool] = {}  # death -> whether a kill explains it

    def look(self) -> None:
        """Notice new kills; to be called regularly."""
        if self.now() - self.looked < LOOK:
            return
        self.looked, count = self.now(), kernel_kills()
        self.times += [self.looked] * (count - self.count)
        self.count = count

    def explain(self, text: str) -> bool:
        """Whether the death that Ray describes in `text` was a recent kill on this machine."""
        process, machine = PROCESS.search(text), MACHINE.search(text)
        if machine and machine[1] not in own_addresses():
            return False
        death = f"{process[1]} {machine and machine[1]}" if process else text
        if death not in self.explained:
            self.looked = -math.inf
            self.look()
            self.times = [time for time in self.times if self.now() - time < RECENT]
            self.explained[death] = bool(self.times)
            self.times = self.times[1:]
        return self.explained[death]


@functools.cache
def own_addresses() -> tuple[str, ...]:
    """Return this machine's IP addresses, as Ray writes them."""
    return "127.0.0.1", ray.util.get_node_ip_address()


_kills = Kills()


class NotesFailures(NotPickled):
    """Mix-in for schedulers that notes why a trial failed, for `outcome`."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note the reason; Tune calls this before the searcher."""
        _outcomes[trial.trial_id] = status, reason = _read(trial.error_file)
        # Tune does not restart a trial whose process dies while it takes over another trial's process.
        if (status, reason) == (FAILED, DIED) and trial.num_failures <= RESTARTS:
            _given_up.add(trial.trial_id)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class Faults(NotPickled, tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Prints the notes of trials, and keeps Tune from mistaking the end of Ray for failures of trials."""

    def __init__(self, heart: Heartbeat, say: Callable[[str], None]) -> None:
        self.heart, self.say = heart, say

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Notice the kernel's kills when they happen."""
        _kills.look()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Print a trial's notes about the time before this report."""
        for note in result.get("notes") or []:
            self.say(f"trial {trial}: {note}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print that a trial is restarted; raise RayEndedError if its process died because Ray ended."""
        self.heart.check_node()
        _, reason = _read(trial.error_file)
        self.say(f"trial {trial}: {reason}; it continues from its last checkpoint")


@contextmanager
def translate_errors(ledger: Ledger) -> Iterator[None]:
    """Replace Tune's error by a UserError if the ledger or a full disk caused it."""
    try:
        yield
    except Exception as error:
        if ledger.failure is None:
            problem = disk_full_message(str(error))
            if problem is None:
                raise
            raise UserError(f"{ledger.path.parent}: cannot be written ({problem}); {FREE_SPACE}") from None
    if ledger.failure is not None:
        raise ledger.failure


def outcome(trial_id: str) -> tuple[str, str]:
    """Return status and reason of a trial that ended with an error."""
    return _outcomes.get(trial_id, UNKNOWN)


def may_restart(trial_id: str) -> bool:
    """Whether a trial that ended with an error is to be run again."""
    return trial_id in _given_up


def _read(error_file: str | None) -> tuple[str, str]:
    """Return status and reason from the last error in Tune's file."""
    try:
        text = Path(error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNKNOWN
    last = text.rpartition("Failure # ")[2]
    return classify(last, killed=any(words in last for words in DEATHS) and _kills.explain(last))


def classify(text: str, *, killed: bool) -> tuple[str, str]:
    """Return status and reason for an error's text; `killed`: the kernel has just killed a process out of memory."""
    if "OutOfMemoryError" in text or any(words in text for words in NO_MEMORY):
        return OUT_OF_MEMORY, "out of memory: its node had none left, and Ray killed its process"
    if any(words in text for words in DEATHS):
        reason = "its process died while the kernel killed processes of this machine because memory ran out"
        return (OUT_OF_MEMORY, reason) if killed else (FAILED, DIED)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (FAILED, f"it raised an error: {lines[-1]}") if lines else UNKNOWN
