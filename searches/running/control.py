"""Control a search that runs, from another terminal or machine: `python -m searches control NAME stop|clone|pause|resume`.

A command is a file in the search's folder; the search carries it out between two steps, notes it in its ledger and writes its
answer beside it. So it needs no port and no address, but the folder that search and person share. A command is for the start of
the search that it was given to: it names it, and one that was not taken is carried out by none that follows.
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
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from ray import tune

from gpt2core.cli import settings
from gpt2core.component import lookup
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError, StorageError, UserError, first_line, visible
from gpt2core.files import read_json, write_json
from gpt2core.storage import LONGEST, fetch, is_copy, send
from searches.options import search_folder
from searches.running.ledger import BY_HAND, RUNNING, STOPPED, Trial, is_held
from searches.running.ray_tune import StrategyScheduler

MAILBOX = "control"  # the folder of commands, among the results of a search
OPEN = "open.json"  # says which start of the search takes commands
COMMAND = re.compile(r"\d{1,20}-\d{1,10}\.json")  # when it was given, and the process that gave it
LARGEST = 2**16  # bytes of a command
EVERY, FAR = 0.5, 3.0  # seconds between two looks into the folder, and into one of a storage that answers slowly
PATIENCE = 20.0  # seconds that a person waits for an answer

Scalar = str | int | float | bool | None


class Command(BaseModel):
    """What a person wants of a search."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    command: Literal["stop", "clone", "pause", "resume"]
    trial: Annotated[str, StringConstraints(max_length=LONGEST)] | None = None
    set: dict[str, Scalar] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Command":
        """The command of these values; raise ConfigError where it is none."""
        try:
            made = cls(**values)
        except (ValidationError, TypeError) as error:
            raise ConfigError(f"The command is none: {_first_wrong(error)}") from None
        needs_trial = made.command in ("stop", "clone")
        if needs_trial != (made.trial is not None):
            rule = f"needs a trial: {made.command} TRIAL" if needs_trial else "takes no trial"
            raise ConfigError(f"The command `{made.command}` {rule}")
        if made.set and made.command != "clone":
            raise ConfigError(f"The command `{made.command}` takes no --set: it changes no value")
        return made


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a command; `refused`: nothing was done, and the text says why."""

    text: str
    refused: bool = False


@dataclass
class Mailbox:
    """The commands of a search, in the order in which they were given. `say` is told what is passed over."""

    folder: Path
    say: Callable[[str], None] = lambda text: None
    passed: set[str] = field(default_factory=set)  # names of files that were looked at, and stay
    start: str = ""  # the start of the search that takes commands here

    # for who gives commands

    def who_takes(self) -> str | None:
        """The start of the search that takes commands now; None where none does. Raises UserError where none ever will."""
        if not is_copy(self.folder) and not is_held(self.folder.parent / "ledger.jsonl"):
            raise UserError(f"The search in {self.folder.parent} does not run: there is nothing to control")
        fetch(self.folder / OPEN)
        with suppress(OSError, UserError, KeyError):
            return str(read_json(self.folder / OPEN, LARGEST)["start"])
        if is_copy(self.folder):
            raise UserError(
                f"The search in {self.folder.parent} takes no command: it does not run, or runs no trials now"
            )
        return None

    def send(self, command: Command, start: str) -> Path:
        """Give a command to a start of the search."""
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.json"
        try:
            write_json(path, {**command.model_dump(), "start": start})
        except OSError as error:
            raise UserError(f"{self.folder}: a command cannot be written there ({error.strerror})") from None
        send(path)
        return path

    def answered(self, path: Path) -> Answer | None:
        """The answer to a command, which is then removed; None where there is none yet."""
        place = path.with_suffix(".answer")
        fetch(place)
        if not place.exists():
            return None
        values = read_json(place)
        place.unlink()
        send(place)
        return Answer(text=str(values.get("text")), refused=bool(values.get("refused")))

    def take_back(self, path: Path) -> None:
        """Let nobody carry out a command that nobody has taken."""
        path.unlink(missing_ok=True)
        send(path)

    # for the search

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self) -> None:
        """Take commands from now on, and none that were given before."""
        self.start = uuid4().hex
        self._try(self._clear)
        self._try(lambda: write_json(self.folder / OPEN, {"start": self.start}))
        self._try(lambda: send(self.folder))

    def close(self) -> None:
        """Take commands no more; leave none behind."""
        self._try((self.folder / OPEN).unlink)
        self._try(lambda: send(self.folder))
        for path, _ in self.waiting():
            self.answer(path, Answer(text="The search runs no trials any more", refused=True))

    def waiting(self) -> Iterator[tuple[Path, Command]]:
        """Commands that were not taken yet, the oldest first. What is none is passed over, and said once."""
        if not self._try(lambda: fetch(self.folder)):
            return
        for path in self._files():
            try:
                values = read_json(path, LARGEST)
                if values.pop("start", None) != self.start:
                    raise ConfigError("It was given to another start of the search")
                command = Command.of(values)
            except FileNotFoundError:  # it was taken back
                continue
            except (OSError, UserError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
                self.say(f"{path.name} is no command, and is passed over: {why}")
                self.answer(path, Answer(text=why, refused=True))
            else:
                yield path, command

    def answer(self, path: Path, answer: Answer) -> None:
        """Write an answer, and remove the command: it is never taken twice, even where it cannot be removed."""
        self.passed.add(path.name)
        self._try(lambda: write_json(path.with_suffix(".answer"), asdict(answer)))
        self._try(lambda: path.unlink(missing_ok=True))
        self._try(lambda: send(self.folder))

    def _files(self) -> list[Path]:
        """Files of commands; whatever else is there stays, and is said once."""
        found: list[Path] = []
        self._try(lambda: found.extend(sorted(self.folder.iterdir()) if self.folder.exists() else []))
        known = [path for path in found if path.name not in self.passed and not path.name.startswith(".")]
        commands = []
        for path in known:
            if COMMAND.fullmatch(path.name) and _is_file(path):
                commands.append(path)
            elif path.name != OPEN and path.suffix != ".answer":
                self.passed.add(path.name)
                self.say(f"{path.name} in {self.folder.name}/ is no command, and is passed over")
        return commands

    def _clear(self) -> None:
        """Remove commands and answers of earlier starts."""
        fetch(self.folder)
        for path in self._files():
            self.say(f"the command {path.name} was given to an earlier start of the search, and is dropped")
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*.answer"):  # whose asker has gone
            if _is_file(path):
                path.unlink(missing_ok=True)

    def _try(self, act: Callable[[], object]) -> bool:
        """Whether it was done; what cannot be done is said once, and ends no search."""
        try:
            act()
        except FileNotFoundError:
            return False
        except (OSError, StorageError) as error:
            if str(error) not in self.passed:
                self.passed.add(str(error))
                self.say(f"commands may not reach this search: {first_line(error)}")
            return False
        return True


def _first_wrong(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):  # a key that is no name
        return str(error)
    wrong = error.errors(include_url=False, include_input=False)[0]
    return f"`{'.'.join(map(str, wrong['loc']))[:50]}`: {wrong['msg'].lower()}"


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def ask(mailbox: Mailbox, command: Mapping[str, Any]) -> str:
    """Give a command and wait for its answer; raise UserError where there is none, or it is an error."""
    checked, deadline = Command.of(command), time.monotonic() + PATIENCE
    while (start := mailbox.who_takes()) is None:
        if time.monotonic() > deadline:
            raise UserError(
                f"The search in {mailbox.folder.parent} runs no trials now: it prepares or sums up; try again"
            )
        time.sleep(0.1)  # between two looks; what counts is who is there
    path = mailbox.send(checked, start)
    while (answer := mailbox.answered(path)) is None and time.monotonic() <= deadline:
        time.sleep(0.1)  # as above
    if answer is None:
        mailbox.take_back(path)
        answer = mailbox.answered(path)  # which may have come meanwhile
    if answer is None:
        raise UserError(
            f"The search has not answered within {PATIENCE:g} s: it does not run any more, or is busy. The command was taken "
            "back, and nothing is done"
        )
    if answer.refused:
        raise UserError(answer.text)
    return answer.text


def control(options: argparse.Namespace) -> int:
    """Give a running search a command and print its answer; raise UserError."""
    import gpt2core.identity  # noqa: F401  # the tables, whose entries declare keys: not for --help

    command = {"command": options.action, "trial": options.trial, "set": settings(options.set)}
    checked = Command.of(command)
    folder = search_folder(options.storage, options.name)
    print(visible(ask(Mailbox(folder / MAILBOX), checked.model_dump())))
    return 0


class Control(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Carries commands out, between the steps of Tune; while no trial runs, whenever Tune asks for one."""

    def __init__(self, mailbox: Mailbox, scheduler: StrategyScheduler, say: Callable[[str], None]) -> None:
        self.mailbox, self.scheduler, self.say = mailbox, scheduler, say
        self.next = 0.0
        scheduler.searcher.before_suggestion = self.look

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look for commands, every now and then."""
        self.look()

    def look(self) -> None:
        """Carry out what was commanded since the last look, unless that was a moment ago."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + (FAR if is_copy(self.mailbox.folder) else EVERY)
        for path, command in self.mailbox.waiting():
            try:
                answer = Answer(text=COMMANDS[command.command](self.scheduler, command))
                self.scheduler.searcher.strategy.ledger.record({"event": "control", **command.model_dump()})
            except UserError as error:
                answer = Answer(text=str(error), refused=True)
            self.say(f"error: {answer.text}" if answer.refused else answer.text)
            self.mailbox.answer(path, answer)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see StrategyScheduler


def stop(scheduler: StrategyScheduler, command: Command) -> str:
    """End a trial at the last epoch that it reported."""
    trial = _trial(scheduler, command)
    if trial.status != RUNNING:
        raise ConfigError(f"Trial {trial.name} does not run: it is {trial.status}")
    strategy = scheduler.searcher.strategy
    strategy.stop(trial, max(trial.reports, default=0), BY_HAND)
    if trial in strategy.unfinished:
        strategy.unfinished.remove(trial)
        strategy.end(trial, STOPPED, None)
    scheduler.end({trial.name})
    return f"trial {trial.name} is stopped"


def clone(scheduler: StrategyScheduler, command: Command) -> str:
    """Start a trial from the last checkpoint of another, with some of its settings changed."""
    original, changes = _trial(scheduler, command), command.set
    if not original.reports:
        raise ConfigError(f"Trial {original.name} has no checkpoint yet to start from: wait for its first epoch")
    run = RunConfig.of({**original.run, **changes})
    made = scheduler.searcher.strategy.clone(original, run, {key: getattr(run, key) for key in changes})
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
    return lookup(scheduler.searcher.trials, str(command.trial), "trial")
