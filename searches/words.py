"""Small phrases that screen, verdict and report share."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 trial, 2 trials."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def point_text(point: Mapping[str, Any]) -> str:
    """A point of the space in one line."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in point.items())


def value_text(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def command_text(argv: Sequence[str]) -> str:
    """Flags as a shell reads them; the password of an address stays out of what is handed around."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]+@", r"\1:PASSWORD@", shlex.join(argv))
