"""Estimates with lower and upper bounds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Range:
    """An estimate with its lower and upper bound."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(value=self.value + other.value, low=self.low + other.low, high=self.high + other.high)

    def __mul__(self, times: float) -> "Range":
        return Range(value=self.value * times, low=self.low * times, high=self.high * times)


def exactly(value: float) -> Range:
    """Return a known value as a range."""
    return Range(value=value, low=value, high=value)
