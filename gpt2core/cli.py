"""What all command lines share: flags whose errors are one line, KEY=VALUE settings, and the one way to fail."""

import argparse
import atexit
import gc
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from gpt2core.config import known_keys
from gpt2core.errors import ConfigError, UserError, first_line, visible, without_password
from gpt2core.files import home
from gpt2core.network import pass_by_proxies
from gpt2core.output import steady_output
from gpt2core.registry import nearest
from gpt2core.storage import is_address

os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what the hub's library warns of, our errors say in one line


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, whoever preempts, a terminal that is closed
PATIENCE = 60.0  # seconds that an end may take, after which another signal ends at once
_interrupted: list[
    float
] = []  # when a signal came: whoever sent it waits for the end of this process, and not for long


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the nearest flag, command or value."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError in place of printing the usage."""
        wrong = re.search(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            flag, name, valid = wrong[1], wrong[2], [word.strip(" '") for word in wrong[3].split(",")]
            kind = flag.lstrip("-").lower() if flag.isupper() else f"value of `{flag}`"
            raise ConfigError(f"Unknown {kind} `{name}`: {nearest(name, valid)}")
        raise ConfigError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Look for unknown flags first: one that is misspelt is not to be called a required one that is missing."""
        words = list(sys.argv[1:] if args is None else args)
        # A word with a space is text, `--` ends the flags, and what follows a command is its own parser's.
        for word in takewhile(lambda w: w != "--" and (w.startswith("-") or not self._commands()), words):
            name = word.split("=")[0]
            if word.startswith("--") and " " not in name and name not in self._option_string_actions:
                raise ConfigError(f"Unknown flag `{name}`: {nearest(name, self._option_string_actions)}")
        return super().parse_known_args(words, namespace)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse all of `argv`; raise ConfigError for a flag that there is not."""
        options: argparse.Namespace
        options, unknown = self.parse_known_args(argv)
        if unknown:
            word = unknown[0]
            kind = "Unknown flag" if word.startswith("-") else "Unexpected word"
            flags = self._commands().get(getattr(options, "command", ""), self)._option_string_actions
            raise ConfigError(f"{kind} `{word}`: {nearest('--' + word.lstrip('-'), flags)}")
        return options

    def _commands(self) -> dict[str, "Parser"]:
        """The parser of each command, where there are commands."""
        subparsers = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(subparsers[0].choices) if subparsers else {}


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
