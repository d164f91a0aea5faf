"""The domain of a searched key: a choice between values, or numbers between two bounds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gpt2core.errors import ConfigError, shown

LARGEST = 2**53  # whole number; floats have no larger ones in steps of 1


@dataclass(frozen=True, init=False)
class Choice:
    """A choice between two or more values; raise ConfigError unless all differ."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        check_values("A Choice", values, "2 or more values; what does not vary belongs in `fixed`")
        object.__setattr__(self, "values", values)

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join("none" if value is None else str(value) for value in self.values)

    def nearest(self, value: Any) -> Any:
        """Return a value if it is one of the choices, else the nearest number, else the first choice."""
        if value in self.values or not all(isinstance(number, int | float) for number in (value, *self.values)):
            return value if value in self.values else self.values[0]
        return min(self.values, key=lambda choice: abs(choice - value))


@dataclass(frozen=True)
class Numbers:
    """Base of the domains of numbers: from `low` to `high`, both included; raise ConfigError for wrong bounds."""

    low: float
    high: float

    is_log: ClassVar[bool] = False  # uniform on a log scale
    is_whole: ClassVar[bool] = False  # only whole numbers

    def __post_init__(self) -> None:
        if not all(map(is_number, (self.low, self.high))):
            raise ConfigError(f"The range is {shown(self)}, but must have two numbers as bounds")
        check_range(f"The range is {shown(self)}", self.low, self.high, is_log=self.is_log, is_whole=self.is_whole)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        notes = [*(["whole numbers"] if self.is_whole else []), *(["log-uniform"] if self.is_log else [])]
        return ", ".join([f"{self.low:g} to {self.high:g}", *notes])

    def nearest(self, value: Any) -> Any:
        """Return the number of this domain nearest to a value, or the lower bound if the value is no number."""
        return min(max(value, self.low), self.high) if isinstance(value, int | float) else self.low

    def at(self, share: float) -> float:
        """Return the number at a share of the way from `low` (0) to `high` (1), on the domain's own scale."""
        if share in (0, 1):
            return self.high if share else self.low
        number = (
            self.low * (self.high / self.low) ** share if self.is_log else self.low + (self.high - self.low) * share
        )
        return round(number) if self.is_whole else number

    def share(self, number: float) -> float:
        """Return how far a number is on the way from `low` (0) to `high` (1); the inverse of `at`."""
        if self.is_log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)


class Uniform(Numbers):
    """A number, uniform."""


class LogUniform(Numbers):
    """A number, uniform on a log scale."""

    is_log = True


class IntUniform(Numbers):
    """A whole number, uniform."""

    is_whole = True


class LogInt(Numbers):
    """A whole number, uniform on a log scale."""

    is_log = is_whole = True


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float, but no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_values(owner: str, values: Sequence[Any], needed: str) -> None:
    """Raise ConfigError unless a choice has two or more values, all different; `owner` and `needed` are for its message."""
    if len(values) < 2:
        given = f"only one value to search, {shown(values[0])}" if values else "no value to search"
        raise ConfigError(f"{owner} has {given}, but needs {needed}")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{owner} has the value {shown(value)} twice, but its values must differ")


def check_range(stated: str, low: float, high: float, *, is_log: bool, is_whole: bool) -> None:
    """Raise ConfigError for bounds that break a rule; `stated` begins its message."""
    rules = {
        "go from a lower to a higher number": low < high,
        "have finite bounds": math.isfinite(low) and math.isfinite(high),
        "start above 0 on a log scale": low > 0 or not is_log,
        f"have bounds of at most {LARGEST:,}": high <= LARGEST or not is_whole,
        "have whole numbers as bounds": (low % 1 == 0 and high % 1 == 0) or not is_whole,
    }
    for rule, holds in rules.items():
        if not holds:
            raise ConfigError(f"{stated}, but must {rule}")


Domain = Choice | Numbers
Space = Mapping[str, Domain]
