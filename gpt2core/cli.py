"""Shared by all command lines: flags with one-line errors, KEY=VALUE settings, and one way to exit."""

import argparse
import atexit
import gc
import json
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from gpt2core.component import lookup, nearest, unknown_key
from gpt2core.config import known_keys
from gpt2core.errors import ConfigError, UnknownNameError, UserError, first_line, visible, without_password
from gpt2core.files import home
from gpt2core.output import steady_output
from gpt2core.storage import is_address

os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # our own errors replace the warnings of the hub's library

Group = argparse._ArgumentGroup

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, preemption, a closed terminal
PATIENCE = 60.0  # seconds for a clean exit, after which another signal exits at once
_signal_times: list[float] = []
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the nearest flag, command or value.

    `forwards`: flags that it does not know are for another parser (argparse.REMAINDER).
    """

    def __init__(self, *, forwards: bool = False, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.forwards = forwards
        self.commands: dict[str, Parser] = {}
        self.subparsers: Any = None

    def add_command(self, name: str, **options: Any) -> "Parser":
        """Add a command, which will be `command` among the options, and return its parser, which `help` describes."""
        self.subparsers = self.subparsers or self.add_subparsers(dest="command", metavar="COMMAND")
        self.commands[name] = self.subparsers.add_parser(name, **{"description": options.get("help"), **options})
        return self.commands[name]

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of printing the usage."""
        raise ConfigError(message)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string and action.option_strings:  # as with "$NAME" of a variable that is not set
            raise ConfigError(f"The value of `{action.option_strings[-1]}` is '', but must not be empty")
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            needed = "a whole number" if action.type is int else "a number"
            name = action.option_strings[-1]
            raise ConfigError(f"The value of `{name}` is {arg_string!r}, but must be {needed}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            flags = action.option_strings
            name = f"value of `{flags[-1]}`" if flags else str(action.metavar or action.dest).lower()
            lookup({choice: choice for choice in action.choices}, value, name)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Check for unknown flags first, so that a misspelt required flag is not reported as missing."""
        words = list(sys.argv[1:] if args is None else args)
        for place, word in enumerate(takewhile(lambda word: word != "--", [] if self.forwards else words)):
            if self.commands and not word.startswith("-"):
                lookup(self.commands, word, "command")
                break  # the parser of the command checks the rest
            name, _, value = word.partition("=")
            is_flag = word.startswith("--") and " " not in name  # with a space it is text
            if is_flag and name not in self._option_string_actions:
                self._refuse(name, value or "".join(words[place + 1 : place + 2]), words)
        return super().parse_known_args(words, namespace)

    def _refuse(self, flag: str, value: str, words: Sequence[str]) -> NoReturn:
        """Raise ConfigError for an unknown flag; `value` is what follows it."""
        command = next((word for word in words if word in self.commands), "")
        p = self.commands.get(command, self)
        if p.forwards or (command and flag in p._option_string_actions):
            before, after = words[: words.index(command)], words[words.index(command) + 1 :]
            text = command_text([*self.prog.split(), command, *after, *before])
            raise ConfigError(f"The flag `{flag}` must follow the command: {text}")
        raise UnknownNameError(f"Unknown flag `{visible(flag, 60)}`: {self.hint(flag, value)}")

    def hint(self, flag: str, value: str) -> str:
        """Return what to write in place of an unknown flag; `value` is what follows it."""
        return nearest(flag, self._option_string_actions)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse all of `argv`; raise ConfigError for an unknown flag or a missing command."""
        options: argparse.Namespace
        options, unknown = self.parse_known_args(argv)
        if unknown:
            word = unknown[0]
            kind = "Unknown flag" if word.startswith("-") else "Unexpected word"
            flags = self.commands.get(getattr(options, "command", ""), self)._option_string_actions
            raise ConfigError(f"{kind} `{word}`: {nearest('--' + word.lstrip('-'), flags)}")
        if self.commands and options.command is None:
            raise ConfigError(f"A command is missing; valid: {', '.join(self.commands)}")
        return options


def add_checkpoint_minutes(p: Parser | Group) -> None:
    """Add the flag that says how often optimizer state is saved."""
    words = (
        "save optimizer state, two thirds of a checkpoint, only after the first epoch that ends M minutes after the last save; a "
        "resumed run trains the epochs since then again, with the same results (default: 0, after each epoch)"
    )
    p.add_argument("--checkpoint-minutes", type=float, default=0.0, metavar="M", help=words)


def add_import(p: Parser | Group) -> None:
    """Add the flag that imports modules with own parts (`gpt2core.parts`)."""
    words = "import a module that registers own parts, from this folder or installed; may be repeated"
    p.add_argument("--import", action="append", default=[], dest="imports", metavar="MODULE", help=words)


def import_flags(modules: Iterable[str]) -> list[str]:
    """Return the flags that import these modules."""
    return [word for name in modules for word in ("--import", name)]


def settings(pairs: Sequence[str], known: Collection[str] | None = None) -> dict[str, Any]:
    """Return the values of repeated `--set KEY=VALUE` flags; raise ConfigError for a key not in `known` (default: of runs)."""
    given = key_values("--set", "KEY=VALUE", pairs, known_keys() if known is None else known)
    return {key: None if value == "none" else value for key, value in given.items()}


def key_values(flag: str, form: str, pairs: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Return the texts of a repeated flag of the form KEY=...; raise ConfigError for another form or a key not in `known`."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"The value of `{flag}` is {pair!r}, but must be {form}")
        if key not in known:
            raise ConfigError(unknown_key(key, known))
        if key in values:
            raise ConfigError(f"The key `{key}` is given twice by `{flag}`, but must be given once")
        values[key] = value
    return values


def at_least(options: argparse.Namespace, least: float, *names: str) -> None:
    """Raise ConfigError if the value of a numeric flag is below `least`."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"The value of `--{name.replace('_', '-')}` is {value:g}, but must be >= {least:g}")


def absolute(path: str) -> str:
    """Return an absolute path, for workers that run in other folders; addresses are returned unchanged."""
    return path if is_address(path) else str(Path(path).expanduser().resolve())


def absolute_model(name: str) -> str:
    """Return the name of a model, or if it is a folder its absolute path."""
    return absolute(name) if Path(name).expanduser().is_dir() else name


def command_text(argv: Sequence[str]) -> str:
    """Return the quoted flags, without passwords."""
    return shlex.join(map(without_password, argv))


def interrupt_on_signals() -> None:
    """Let the first of the signals ENDING raise KeyboardInterrupt. Call it again after Ray, which replaces handlers, connects."""

    def interrupt(number: int, frame: object) -> None:
        _signal_times.append(time.monotonic())
        if len(_signal_times) == 1:
            raise KeyboardInterrupt
        if _signal_times[-1] - _signal_times[0] > PATIENCE:  # earlier ones must not disturb a clean exit
            os._exit(130)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)


@contextmanager
def keeping_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers of this process at the end, for work that a program only calls."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _signal_times.clear()


def interrupted() -> bool:
    """Return whether a signal has asked this command to end."""
    return bool(_signal_times)


def bypass_proxies(variables: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to `no_proxy` if any proxy is configured, also for child processes."""
    if not any(re.fullmatch(r"\w+_proxy", name, re.IGNORECASE) for name in variables):
        return
    values = [value for name, value in sorted(variables.items()) if name.lower() == "no_proxy"]
    hosts = [host.strip() for value in values for host in value.split(",") if host.strip()]
    for name in ("no_proxy", "NO_PROXY"):
        variables[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that JSON lacks (NaN, infinite) become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_or_explain(command: Callable[[], int], resume: str, *, as_json: bool = False) -> NoReturn:
    """Run a command and exit with its status.

    Bad input and unusable files are one line and status 2. An interruption prints the command that resumes, with status 130.
    With `as_json`, both are a JSON object with the key `error` on stdout.
    Garbage collection is rarer than by default, and skipped at exit, since imported modules make it take seconds.
    """
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    with steady_output():
        try:
            interrupt_on_signals()
            bypass_proxies()
            home()  # MLflow and Ray need one when imported
            sys.exit(command())
        except UserError as error:
            _explain(visible(" ".join(str(error).splitlines())), as_json)
            sys.exit(2)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _explain(visible(f"{place}{error.strerror or first_line(error)}"), as_json)
            sys.exit(2)
        except KeyboardInterrupt:
            text = f"Interrupted. What is finished is kept; to go on: {resume}".rstrip()
            print_json({"error": text}) if as_json else print(f"\n{text}", file=sys.stderr, flush=True)
            if _signal_times:
                sys.stdout.flush()
                os._exit(130)  # during Ray's own exit a second signal could interfere; its processes end with this one
            sys.exit(130)


def _explain(text: str, as_json: bool) -> None:
    print_json({"error": text}) if as_json else print(f"error: {text}", file=sys.stderr)
