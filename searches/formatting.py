"""Small phrases that screen, answer and report share."""

from collections.abc import Mapping
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


def setting_text(key: str, value: Any) -> str:
    """A key with its value, such as `rank 8`."""
    return f"{key.replace('_', ' ')} {value_text(value)}"
