"""Values that are not sure, each between what it is at least and at most."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Range:
    """A value with what it is at least and at most."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(value=self.value + other.value, low=self.low + other.low, high=self.high + other.high)

    def __mul__(self, times: float) -> "Range":
        return Range(value=self.value * times, low=self.low * times, high=self.high * times)


def exactly(value: float) -> Range:
    """A value that is sure."""
    return Range(value=value, low=value, high=value)
