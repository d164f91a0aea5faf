"""Short texts that the screen, the answer and the report share."""

from collections.abc import Mapping
from typing import Any


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 trial, 2 trials."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def point_text(point: Mapping[str, Any]) -> str:
    """Return a point of the search space, such as `rank 8, lr 0.001`."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in point.items())


def value_text(value: Any) -> str:
    """Return a value as tables show it."""
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def setting_text(key: str, value: Any) -> str:
    """Return a key with its value, such as `batch size 8`."""
    return f"{key.replace('_', ' ')} {value_text(value)}"
