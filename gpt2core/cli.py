"""What all command lines share: flags whose errors are one line, KEY=VALUE settings, and the one way to fail."""

import argparse
import atexit
import gc
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from gpt2core.component import lookup, nearest
from gpt2core.config import known_keys
from gpt2core.errors import ConfigError, UserError, first_line, visible, without_password
from gpt2core.files import home
from gpt2core.network import pass_by_proxies
from gpt2core.output import steady_output
from gpt2core.storage import is_address

os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what the hub's library warns of, our errors say in one line


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, whoever preempts, a terminal that is closed
PATIENCE = 60.0  # seconds that an end may take, after which another signal ends at once
_interrupted: list[
    float
] = []  # when a signal came: whoever sent it waits for the end of this process, and not for long


class Parser(argparse.ArgumentParser):
    """A parser of flags whose errors are one line that names the nearest flag, command or value."""

    def __init__(self, **how: Any) -> None:
        self.flags: set[str] = set()
        self.commands: dict[str, Parser] = {}
        self.subparsers: Any = None
        super().__init__(allow_abbrev=False, **how)

    def add_argument(self, *names: str, **how: Any) -> argparse.Action:
        """Add a flag or a word."""
        return super().add_argument(*names, **self.noted(names, how))

    def add_part(self, title: str) -> "Part":
        """Flags that the help shows under a title."""
        return Part(self, self.add_argument_group(title).add_argument)

    def add_alternatives(self) -> "Part":
        """Flags of which exactly one is to be given."""
        return Part(self, self.add_mutually_exclusive_group(required=True).add_argument)

    def add_command(self, name: str, **how: Any) -> "Parser":
        """The parser of a command, whose name will be `command`; a top parser has no other words."""
        self.subparsers = self.subparsers or self.add_subparsers(dest="command", metavar="COMMAND")
        self.commands[name] = self.subparsers.add_parser(name, **how)
        return self.commands[name]

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError in place of printing the usage."""
        raise ConfigError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Look for unknown flags first: one that is misspelt is not to be called a required one that is missing."""
        words = list(sys.argv[1:] if args is None else args)
        for word in takewhile(lambda word: word != "--", words):
            if self.commands and not word.startswith("-"):
                lookup(self.commands, word, "command")
                break  # what follows is its own parser's
            name = word.split("=")[0]
            if word.startswith("--") and " " not in name:  # one with a space is text
                lookup(dict.fromkeys(self.flags), name, "flag")
        return super().parse_known_args(words, namespace)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse all of `argv`; raise ConfigError for a flag that there is not, and where a command is missing."""
        options: argparse.Namespace
        options, unknown = self.parse_known_args(argv)
        if unknown:
            word = unknown[0]
            kind = "Unknown flag" if word.startswith("-") else "Unexpected word"
            flags = self.commands.get(getattr(options, "command", ""), self).flags
            raise ConfigError(f"{kind} `{word}`: {nearest('--' + word.lstrip('-'), flags)}")
        if self.commands and options.command is None:
            raise ConfigError(f"A command is missing; valid: {', '.join(self.commands)}")
        return options

    def noted(self, names: Sequence[str], how: dict[str, Any]) -> dict[str, Any]:
        """Note the names of a flag; give one of several `choices` a type that says which is nearest."""
        is_flag = names[-1].startswith("-")
        self.flags |= set(names if is_flag else ())
        choices = how.pop("choices", None)
        if choices is None:
            return how
        kind = f"value of `{names[-1]}`" if is_flag else how.get("metavar", names[-1]).lower()
        valid = {choice: choice for choice in choices}
        return {"metavar": f"{{{','.join(valid)}}}", "type": partial(lookup, valid, kind=kind), **how}


class Part:
    """Some of a parser's flags."""

    def __init__(self, parser: Parser, add: Callable[..., argparse.Action]) -> None:
        self.parser, self.add = parser, add

    def add_argument(self, *names: str, **how: Any) -> None:
        """Add a flag."""
        self.add(*names, **self.parser.noted(names, how))


def settings(pairs: Sequence[str], known: Collection[str] | None = None) -> dict[str, Any]:
    """Return the values of repeated `--set KEY=VALUE` flags; raise ConfigError for a key that is not `known`: none of a run."""
    known = known_keys() if known is None else known
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"The value of `--set` is {pair!r}, but must be KEY=VALUE")
        if key not in known:
            raise ConfigError(f"Unknown key `{key}`: {nearest(key, known)}")
        values[key] = None if value == "none" else value
    return values


def at_least(options: argparse.Namespace, least: float, *names: str) -> None:
    """Raise ConfigError where a flag of a number was given and is below `least`."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"The value of `--{name.replace('_', '-')}` is {value:g}, but must be >= {least:g}")


def absolute(path: str) -> str:
    """A path that means the same in every folder, for workers run in others; an address does so as it is."""
    return path if is_address(path) else str(Path(path).expanduser().resolve())


def absolute_model(name: str) -> str:
    """A model's name, or where it is a folder its absolute path."""
    return absolute(name) if Path(name).expanduser().is_dir() else name


def command_text(argv: Sequence[str]) -> str:
    """Flags as a shell reads them, without passwords."""
    return shlex.join(map(without_password, argv))


def interrupt_on_signals() -> None:
    """Let a command that is to end do so, once, as Ctrl-C ends it. Ray has a way of its own: call it after connecting too."""

    def interrupt(number: int, frame: object) -> None:
        first = not _interrupted
        _interrupted.append(time.monotonic())
        if first:
            raise KeyboardInterrupt
        if _interrupted[-1] - _interrupted[0] > PATIENCE:  # else it must not break the end that the first one begins
            os._exit(130)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)


def interrupted() -> bool:
    """Whether a signal has come that ends this command."""
    return bool(_interrupted)


def run_or_explain(command: Callable[[], int], resume: str) -> NoReturn:
    """Run a command and exit with its status; bad input, and a file that cannot be used, is one line and 2, an interruption says
    how to go on and is 130.

    What a command imports is there to its end. Python looks through it for garbage some thousand times meanwhile, and a few
    times more as it ends, which together takes seconds; here, it looks less often, and not at the end.
    """
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    with steady_output():
        try:
            interrupt_on_signals()
            pass_by_proxies()
            home()  # MLflow and Ray ask for one as they are imported
            sys.exit(command())
        except UserError as error:
            print(f"error: {visible(' '.join(str(error).splitlines()))}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            print(f"error: {visible(f'{place}{error.strerror or first_line(error)}')}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"\nInterrupted. What is finished is kept; to go on: {resume}".rstrip(), file=sys.stderr, flush=True)
            if _interrupted:
                sys.stdout.flush()
                os._exit(130)  # Ray's own end lets a second signal in; its processes end with this one
            sys.exit(130)
