"""What all command lines share: flags whose errors are one line, KEY=VALUE settings, and the one way to fail."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError, UserError
from gpt2core.lookup import nearest


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the nearest flag or command."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError in place of printing the usage."""
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from ([^)]*)\)", message)
        if wrong:
            name, valid = wrong[1], [word.strip(" '") for word in wrong[2].split(",")]
            raise ConfigError(f"Unknown choice `{name}`: {nearest(name, valid)}")
        raise ConfigError(message)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse all of `argv`; raise ConfigError for a flag that there is not."""
        options, unknown = self.parse_known_args(argv)
        if unknown:
            raise ConfigError(f"Unknown flag `{unknown[0]}`: {nearest(unknown[0].split('=')[0], self._flags(options))}")
        return options

    def _flags(self, options: argparse.Namespace) -> list[str]:
        """All flags, those of the chosen command included."""
        flags: list[str] = []
        for action in self._actions:
            flags += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                flags += action.choices[options.command]._flags(options)
        return flags


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the values of repeated `--set KEY=VALUE` flags; raise ConfigError for a key that no run has."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"The value of `--set` is {pair!r}, but must be KEY=VALUE")
        if key not in RunConfig.model_fields:
            raise ConfigError(f"Unknown key `{key}`: {nearest(key, RunConfig.model_fields)}")
        values[key] = None if value == "none" else value
    return values


def run_or_explain(command: Callable[[], int], resume: str) -> NoReturn:
    """Run a command and exit with its status; bad input is one line and 2, an interruption says how to go on and is 130."""
    try:
        sys.exit(command())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What is finished is kept; to go on: {resume}".rstrip(), file=sys.stderr)
        sys.exit(130)
