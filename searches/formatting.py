"""Numbers, values and names as text, for screen, answer and report."""

from collections.abc import Collection, Container, Mapping
from typing import Any

from gpt2core.naming import words


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 trial, 2 trials."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def value_text(value: Any) -> str:
    """Return the value of a key, floats with three significant digits."""
    if isinstance(value, tuple | list):
        return ", ".join(map(value_text, value))
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def setting_text(key: str, value: Any) -> str:
    """Return a key with its value, such as `rank 8`."""
    return f"{words(key)} {value_text(value)}"


def point_text(point: Mapping[str, Any]) -> str:
    """Return a point of the search space in one line."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in point.items())


def brief_keys(keys: Collection[str], compared: Container[str]) -> list[str]:
    """Return the searched keys that tell trials apart in a narrow space: the compared ones and `lr`, or all if there are none."""
    return [key for key in keys if key in compared or key == "lr"] or list(keys)


def trial_title(name: str, point: Mapping[str, Any], keys: Collection[str]) -> str:
    """Return the name of a trial with its values of these keys: `0006 rank 16 lr 0.00084`."""
    return " ".join([name, *(f"{key} {value_text(point[key])}" for key in keys if key in point)])


def number(value: float | None, digits: int) -> str:
    """Return the value of a metric with so many decimals; an empty string for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def with_interval(value: float, low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    """Return a value with its interval, if it has one; `sign` is "+" for differences."""
    ends = "" if low is None or high is None else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{value:{sign}.{digits}f}{ends}"


def p_text(p: float) -> str:
    """Return a p-value in a sentence, never as 0: `p = 0.040` or `p < 0.001`."""
    return f"p = {p:.3f}" if p >= 0.001 else f"p {p_value_text(p)}"


def p_value_text(p: float) -> str:
    """Return a p-value next to its label, never as 0: `0.040` or `< 0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def percent(share: float) -> str:
    """Return a share as a percentage, such as 95% or 98.3%."""
    return f"{100 * share:.3g}%"
