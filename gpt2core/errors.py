"""Errors that a user can act on: one line each, naming the value, the rule and the way out.

Every class takes the message alone, so that Ray can pickle it between processes.
"""

import re


class UserError(Exception):
    """Bad input. Entry points print it as one line and exit with status 2."""


class UnknownNameError(UserError):
    """A name that is in no table; the message names the nearest one."""


class ConfigError(UserError):
    """A configuration value that breaks a rule."""


class DataError(UserError):
    """A data file that is missing or malformed; the message holds its path, line and rule."""


class WeightsError(UserError):
    """A model folder whose files are missing, truncated or of the wrong shape."""


class HubError(UserError):
    """The model hub could not be reached; the message says what was tried and how to run offline."""


class CheckpointError(UserError):
    """A training checkpoint that cannot be resumed from."""


class StorageError(UserError):
    """The storage behind an address did not answer or refused; another attempt may find it back."""


class DivergedError(Exception):
    """The training loss is not finite: this run ends, others go on."""


def without_passwords(text: str) -> str:
    """A text with the passwords of addresses left out, for whatever is printed, stored or handed around."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]+@", r"\1:PASSWORD@", text)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shown(value: object) -> str:
    """A value of a foreign file, in a few words."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
