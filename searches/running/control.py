"""Control a search that runs, from another terminal or machine: `python -m searches control NAME stop|clone|pause|resume`.

A command is a file in the search's folder; the search carries it out between two steps, notes it in its ledger and writes its
answer beside it. So it needs no port and no address, but the folder that search and person share.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from gpt2core.cli import settings
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError, StorageError, UserError
from gpt2core.files import write_json
from gpt2core.lookup import lookup
from gpt2core.storage import fetch, is_copy, send
from searches.options import search_folder
from searches.running.ledger import BY_HAND, RUNNING, Trial
from searches.running.searcher import StrategyScheduler

MAILBOX = "control"  # the folder of commands, among the results of a search
EVERY, FAR = 0.5, 3.0  # seconds between two looks into the folder, and into one of a storage that answers slowly
PATIENCE = 20.0  # seconds that a person waits for an answer

Command = dict[str, Any]


@dataclass(frozen=True)
class Mailbox:
    """The commands of a search, in the order in which they were given."""

    folder: Path

    def send(self, command: Command) -> Path:
        """Give a command; return the file that its answer will be in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.json"
        write_json(path, command)
        send(path)
        return path.with_suffix(".answer")

    def waiting(self) -> Iterator[tuple[Path, Command]]:
        """Commands that have no answer, the oldest first."""
        fetch(self.folder)
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield path, dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                self.answer(path, f"error: it cannot be read ({error})")

    def answer(self, path: Path, text: str) -> None:
        """Write an answer, and remove the command."""
        write_json(path.with_suffix(".answer"), {"text": text})
        path.unlink(missing_ok=True)
        send(self.folder)


def ask(mailbox: Mailbox, command: Command) -> str:
    """Give a command and wait for its answer; raise UserError where there is none, or it is an error."""
    place = mailbox.send(command)
    deadline = time.monotonic() + PATIENCE
    while not _there(place):
        if time.monotonic() > deadline:
            raise UserError(
                f"The search has not answered within {PATIENCE:g} s: it does not run, or is busy. The command waits in "
                f"{mailbox.folder} and is carried out as soon as it looks"
            )
        time.sleep(0.1)  # between two looks; what counts is the answer
    text = str(json.loads(place.read_text(encoding="utf-8"))["text"])
    place.unlink()
    send(place)
    if text.startswith("error: "):
        raise UserError(text.removeprefix("error: "))
    return text


def _there(place: Path) -> bool:
    fetch(place)
    return place.exists()


def control(options: argparse.Namespace) -> int:
    """Give a running search a command and print its answer; raise UserError."""
    folder = search_folder(options.storage, options.name)
    needs_trial = options.action in ("stop", "clone")
    if needs_trial != (options.trial is not None):
        rule = f"needs a trial: {options.action} TRIAL" if needs_trial else "takes no trial"
        raise ConfigError(f"The command `{options.action}` {rule}")
    print(
        ask(
            Mailbox(folder / MAILBOX), {"command": options.action, "trial": options.trial, "set": settings(options.set)}
        )
    )
    return 0


class Control(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Carries commands out, between the steps of Tune."""

    def __init__(self, mailbox: Mailbox, scheduler: StrategyScheduler, say: Callable[[str], None]) -> None:
        self.mailbox, self.scheduler, self.say = mailbox, scheduler, say
        self.next = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look for commands, every now and then."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + (FAR if is_copy(self.mailbox.folder) else EVERY)
        try:
            commands = list(self.mailbox.waiting())
        except StorageError:
            return  # the next look may find it back
        for path, command in commands:
            try:
                text = lookup(COMMANDS, str(command.get("command")), "command")(self.scheduler, command)
                self.scheduler.searcher.strategy.ledger.record({"event": "control", **command})
            except UserError as error:
                text = f"error: {error}"
            self.say(text)
            self.mailbox.answer(path, text)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see StrategyScheduler


def stop(scheduler: StrategyScheduler, command: Command) -> str:
    """End a trial at the last epoch that it reported."""
    trial = _trial(scheduler, command)
    if trial.status != RUNNING:
        raise ConfigError(f"Trial {trial.name} does not run: it is {trial.status}")
    scheduler.searcher.strategy.stop(trial, max(trial.reports, default=0), BY_HAND)
    if trial in scheduler.searcher.unfinished:
        scheduler.searcher.unfinished.remove(trial)
        scheduler.searcher.strategy.end(trial, "stopped", None)
    scheduler.end({trial.name})
    return f"trial {trial.name} is stopped"


def clone(scheduler: StrategyScheduler, command: Command) -> str:
    """Start a trial from the last checkpoint of another, with some of its settings changed."""
    original, changes = _trial(scheduler, command), dict(command.get("set", {}))
    if not original.reports:
        raise ConfigError(f"Trial {original.name} has no checkpoint yet to start from: wait for its first epoch")
    run = RunConfig.of({**original.run, **changes})
    made = scheduler.searcher.strategy.clone(original, run, {key: getattr(run, key) for key in changes})
    scheduler.searcher.unfinished.append(made)
    return f"trial {made.name} starts from trial {original.name}"


def pause(scheduler: StrategyScheduler, command: Command) -> str:
    """Start nothing more, and take running trials from their workers; they go on from their last epoch later."""
    scheduler.searcher.paused = True
    running = {trial.name for trial in scheduler.searcher.trials.values() if trial.status == RUNNING}
    scheduler.end(running)
    return "the search is paused; no trial runs, and what was running goes on from its last epoch with `resume`"


def resume(scheduler: StrategyScheduler, command: Command) -> str:
    """Go on."""
    if not scheduler.searcher.paused:
        raise ConfigError("The search is not paused")
    scheduler.searcher.paused = False
    return "the search goes on"


#: Name -> what it does; returns an answer, raises UserError.
COMMANDS: dict[str, Callable[[StrategyScheduler, Command], str]] = {
    "stop": stop,
    "clone": clone,
    "pause": pause,
    "resume": resume,
}


def _trial(scheduler: StrategyScheduler, command: Command) -> Trial:
    return lookup(scheduler.searcher.trials, str(command.get("trial")), "trial")
