"""Why a trial failed that could not tell itself. Tune keeps it from the searcher, but shows the trial to the scheduler before."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from gpt2core.errors import UserError
from gpt2core.memory import NO_MEMORY
from searches.running.ledger import FAILED, OUT_OF_MEMORY, Ledger
from trainables.failures import NO_ROOM, kernel_kills
from trainables.heartbeat import Heartbeat
from trainables.trial import RESTARTS

UNKNOWN = (FAILED, "its process died, or it raised an error that is no fault of its configuration: see Tune's log")
DIED = "its process died"
DEATHS = ("ActorDiedError", "actor died", "actor is dead", "The actor is unavailable")

_kills_before = kernel_kills()
_noted: dict[str, tuple[str, str]] = {}  # by Tune's id of the trial
_given_up: set[str] = set()  # those that Tune gave up before their process had died too often


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
def explained(ledger: Ledger) -> Iterator[None]:
    """Raise what a user can act on in place of Tune's account of it; UserError where the ledger or a disk was the reason."""
    try:
        yield
    except Exception as error:
        if ledger.failure is not None:
            raise ledger.failure from None
        full = next((os.strerror(number) for number in NO_ROOM if os.strerror(number) in str(error)), None)
        if full:
            raise UserError(
                f"{ledger.path.parent}: cannot be written to ({full}); all before is kept, and when there is room the same "
                "command goes on"
            ) from None
        raise


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
    return described(text.rpartition("Failure # ")[2], killed=kernel_kills() > _kills_before)


def described(text: str, *, killed: bool) -> tuple[str, str]:
    """Status and reason that an error's text comes to. `killed`: the kernel has killed something for want of memory."""
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
