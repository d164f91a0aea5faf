"""Control a running search from another terminal or machine: `gpt2-search control NAME stop|clone|pause|resume`.

A command is a file in the search's folder. The search carries it out between two steps, records it in its ledger and writes an
answer file. This needs no port and no address, only a folder that search and user share. A command names one start of the search
and is never carried out by a later one.
"""

import argparse
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from ray import tune

from gpt2core.cli import settings
from gpt2core.component import lookup
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError, StorageError, UserError, first_line, visible
from gpt2core.files import read_json, write_json
from gpt2core.storage import LONGEST, fetch, is_copy, send
from searches.places import search_folder
from searches.result_files import LEDGER, MAILBOX
from searches.running.events import Scalar, first_problem
from searches.running.ledger import BY_HAND, RUNNING, STOPPED, NotPickled, Trial, is_held
from searches.running.ray_tune import StrategyScheduler

Action = Literal["stop", "clone", "pause", "resume"]  # what a user can command
OPEN = "open.json"  # names the start of the search that takes commands
COMMAND = re.compile(r"\d{1,20}-\d{1,10}\.json")  # time in nanoseconds, process id of the sender
LARGEST = 2**16  # bytes of a command
EVERY, EVERY_REMOTE = 0.5, 3.0  # seconds between two looks into the folder, on disk and in remote storage
PATIENCE = 20.0  # seconds that a user waits for an answer


class Command(BaseModel):
    """A user's command."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    command: Action
    trial: Annotated[str, StringConstraints(max_length=LONGEST)] | None = None
    set: dict[str, Scalar] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Command":
        """Return a validated command; raise ConfigError if it is invalid."""
        try:
            parsed = cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"Invalid command: {first_problem(error)}") from None
        needs_trial = parsed.command in ("stop", "clone")
        if needs_trial != (parsed.trial is not None):
            rule = f"needs a trial: {parsed.command} TRIAL" if needs_trial else "takes no trial"
            raise ConfigError(f"The command `{parsed.command}` {rule}")
        if parsed.set and parsed.command != "clone":
            raise ConfigError(f"The command `{parsed.command}` takes no --set, because it changes no value")
        return parsed


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of a command; if it was `refused`, nothing was done and the text says why."""

    text: str
    refused: bool = False


@dataclass
class Mailbox:
    """The folder of commands. `say` reports what is ignored."""

    folder: Path
    say: Callable[[str], None] = lambda text: None
    ignored: set[str] = field(default_factory=set)  # names of handled files that stay, and errors that were reported
    start: str = ""  # id of this start of the search

    # for the sender

    def open_start(self) -> str | None:
        """Return the start that takes commands, or None if none does at the moment. Raises UserError if none ever will."""
        if not is_copy(self.folder) and not is_held(self.folder.parent / LEDGER):
            raise UserError(f"The search in {self.folder.parent} is not running: there is nothing to control")
        fetch(self.folder / OPEN)
        with suppress(OSError, UserError, KeyError):
            return str(read_json(self.folder / OPEN, LARGEST)["start"])
        if is_copy(self.folder):
            raise UserError(f"The search in {self.folder.parent} takes no commands: it is not running any trials")
        return None

    def send(self, command: Command, start: str) -> Path:
        """Send a command to a start of the search; return its file."""
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.json"
        try:
            write_json(path, {**command.model_dump(), "start": start})
        except OSError as error:
            raise UserError(f"{self.folder}: a command cannot be written there ({error.strerror})") from None
        send(path)
        return path

    def receive(self, path: Path) -> Answer | None:
        """Return the answer to a command and delete its file, or None if there is no answer yet."""
        place = path.with_suffix(".answer")
        fetch(place)
        if not place.exists():
            return None
        values = read_json(place)
        place.unlink()
        send(place)
        return Answer(text=str(values.get("text")), refused=bool(values.get("refused")))

    # for the search

    def open(self) -> None:
        """Take commands from now on; drop earlier ones."""
        self.start = uuid4().hex
        self._try(self._clear)
        self._try(lambda: write_json(self.folder / OPEN, {"start": self.start}))
        self._try(lambda: send(self.folder))

    def close(self) -> None:
        """Take no more commands; refuse those that are waiting."""
        self._try((self.folder / OPEN).unlink)
        self._try(lambda: send(self.folder))
        for path, _ in self.waiting():
            self.answer(path, Answer(text="The search runs no more trials", refused=True))

    def waiting(self) -> Iterator[tuple[Path, Command]]:
        """Yield the waiting commands, oldest first. Invalid ones are refused and reported once."""
        if not self._try(lambda: fetch(self.folder)):
            return
        for path in self._files():
            try:
                values = read_json(path, LARGEST)
                if values.pop("start", None) != self.start:
                    raise ConfigError("It was sent to another start of the search")
                command = Command.of(values)
            except FileNotFoundError:  # withdrawn
                continue
            except (OSError, UserError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
                self.say(f"{path.name} is not a valid command and is ignored: {why}")
                self.answer(path, Answer(text=why, refused=True))
            else:
                yield path, command

    def answer(self, path: Path, answer: Answer) -> None:
        """Write an answer and delete the command. It is not carried out again, even if it cannot be deleted."""
        self.ignored.add(path.name)
        self._try(lambda: write_json(path.with_suffix(".answer"), asdict(answer)))
        self._try(lambda: path.unlink(missing_ok=True))
        self._try(lambda: send(self.folder))

    def _files(self) -> list[Path]:
        """Return the files of new commands; other files are reported once and left alone."""
        paths: list[Path] = []
        self._try(lambda: paths.extend(sorted(self.folder.iterdir()) if self.folder.exists() else []))
        commands = []
        for path in paths:
            if path.name in self.ignored or path.name.startswith("."):
                continue
            if COMMAND.fullmatch(path.name) and _is_file(path):
                commands.append(path)
            elif path.name != OPEN and path.suffix != ".answer":
                self.ignored.add(path.name)
                self.say(f"{path.name} in {self.folder.name}/ is not a command and is ignored")
        return commands

    def _clear(self) -> None:
        """Delete commands and answers of earlier starts."""
        fetch(self.folder)
        for path in self._files():
            self.say(f"the command {path.name} was sent to an earlier start of the search and is dropped")
            path.unlink(missing_ok=True)
        for path in filter(_is_file, self.folder.glob("*.answer")):
            path.unlink(missing_ok=True)

    def _try(self, act: Callable[[], object]) -> bool:
        """Return whether `act` succeeded; report each error of the storage once, since none may end the search."""
        try:
            act()
        except FileNotFoundError:
            return False
        except (OSError, StorageError) as error:
            if str(error) not in self.ignored:
                self.ignored.add(str(error))
                self.say(f"commands may not reach this search: {first_line(error)}")
            return False
        return True


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def ask(mailbox: Mailbox, command: Mapping[str, Any]) -> str:
    """Send a command and return the answer; raise UserError if it is refused or does not come in time."""
    checked, deadline = Command.of(command), time.monotonic() + PATIENCE
    while (start := mailbox.open_start()) is None:
        if time.monotonic() > deadline:
            raise UserError(
                f"The search in {mailbox.folder.parent} is starting or finishing and runs no trials; try again later"
            )
        time.sleep(0.1)
    path = mailbox.send(checked, start)
    while (answer := mailbox.receive(path)) is None and time.monotonic() <= deadline:
        time.sleep(0.1)
    if answer is None:
        path.unlink(missing_ok=True)
        send(path)
        answer = mailbox.receive(path)  # it may have come meanwhile
    if answer is None:
        raise UserError(
            f"The search has not answered within {PATIENCE:g} s: it has ended or is busy. The command was withdrawn and has no "
            "effect"
        )
    if answer.refused:
        raise UserError(answer.text)
    return answer.text


def control(options: argparse.Namespace) -> int:
    """Send a command to a running search and print the answer. Raises UserError."""
    import gpt2core.identity  # noqa: F401  # the tables, whose entries declare keys: not for --help

    command = Command.of({"command": options.action, "trial": options.trial, "set": settings(options.set)})
    mailbox = Mailbox(search_folder(options.storage, options.name) / MAILBOX)
    print(visible(ask(mailbox, command.model_dump())))
    return 0


class Control(NotPickled, tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Carries out commands between the steps of Tune or, while no trial runs, when Tune asks for a trial."""

    def __init__(self, mailbox: Mailbox, scheduler: StrategyScheduler, say: Callable[[str], None]) -> None:
        self.mailbox, self.scheduler, self.say = mailbox, scheduler, say
        self.next = 0.0
        scheduler.searcher.before_suggestion = self.look

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Carry out new commands."""
        self.look()

    def look(self) -> None:
        """Carry out new commands, unless the last look was a moment ago."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + (EVERY_REMOTE if is_copy(self.mailbox.folder) else EVERY)
        for path, command in self.mailbox.waiting():
            try:
                answer = Answer(text=COMMANDS[command.command](self.scheduler, command))
                self.scheduler.searcher.strategy.ledger.record({"event": "control", **command.model_dump()})
            except UserError as error:
                answer = Answer(text=str(error), refused=True)
            self.say(f"error: {answer.text}" if answer.refused else answer.text)
            self.mailbox.answer(path, answer)


def stop(scheduler: StrategyScheduler, command: Command) -> str:
    """End a trial at the last epoch that it reported."""
    trial = _trial(scheduler, command)
    if trial.status != RUNNING:
        raise ConfigError(f"Trial {trial.name} is not running: it is {trial.status}")
    strategy = scheduler.searcher.strategy
    strategy.stop(trial, max(trial.reports, default=0), BY_HAND)
    if trial in strategy.unfinished:
        strategy.unfinished.remove(trial)
        strategy.end(trial, STOPPED, None)
    scheduler.end({trial.name})
    return f"trial {trial.name} is stopped"


def clone(scheduler: StrategyScheduler, command: Command) -> str:
    """Start a trial from the last checkpoint of another, with some settings changed."""
    original, changes = _trial(scheduler, command), command.set
    if not original.reports:
        raise ConfigError(f"Trial {original.name} has no checkpoint to start from yet: wait for its first epoch")
    if scheduler.searcher.spec.is_program:
        raise ConfigError("A trial of a program cannot be cloned: the program would not know the other settings")
    run = RunConfig.of({**original.run, **changes})
    copy = scheduler.searcher.strategy.clone(original, run, {key: getattr(run, key) for key in changes})
    return f"trial {copy.name} starts from trial {original.name}"


def pause(scheduler: StrategyScheduler, command: Command) -> str:
    """Start no more trials and take running ones off their workers; `resume` continues them from their last epoch."""
    scheduler.searcher.paused = True
    running = {trial.name for trial in scheduler.searcher.trials.values() if trial.status == RUNNING}
    scheduler.end(running)
    return "the search is paused and no trial runs; `resume` continues the trials from their last epochs"


def resume(scheduler: StrategyScheduler, command: Command) -> str:
    """Continue a paused search."""
    if not scheduler.searcher.paused:
        raise ConfigError("The search is not paused")
    scheduler.searcher.paused = False
    return "the search continues"


#: Command -> function that carries it out and returns the answer. Raises UserError.
COMMANDS: dict[str, Callable[[StrategyScheduler, Command], str]] = {
    "stop": stop,
    "clone": clone,
    "pause": pause,
    "resume": resume,
}


def _trial(scheduler: StrategyScheduler, command: Command) -> Trial:
    return lookup(scheduler.searcher.trials, str(command.trial), "trial")
