"""Numbers of metrics as a person reads them: each metric has its own number of digits behind the point."""

from collections.abc import Mapping
from typing import Any

DIGITS = 2  # of what no task counts among its metrics


def digits_of(summary: Mapping[str, Any]) -> dict[str, int]:
    """Digits by metric."""
    found = {name: int(of["digits"]) for name, of in (summary.get("metrics") or {}).items()}
    metric = (summary.get("answer") or {}).get("metric")
    return found | ({metric["name"]: int(metric["digits"])} if metric else {})


def number(value: float | None, name: str, digits: Mapping[str, int], fallback: int = DIGITS) -> str:
    """A metric's value; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:,.{digits.get(name, 0 if name.endswith('parameters') else fallback)}f}"


def with_interval(value: float, low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    """A value and its interval, where it has one; `sign` is "+" for differences."""
    ends = "" if low is None or high is None else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{value:{sign}.{digits}f}{ends}"


def p_text(p: float) -> str:
    """A p-value, which is never 0."""
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"


def words(name: str) -> str:
    """A metric's or a key's name in words."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """A share, such as 95% or 98.3%."""
    return f"{100 * share:.3g}%"
