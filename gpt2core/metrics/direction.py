"""Which way a metric is better: the one place that knows its sign."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Direction(StrEnum):
    """Whether a metric is to be large or small; what is written to files is its value."""

    MAX = "max"
    MIN = "min"

    @property
    def sign(self) -> int:
        """What a score is multiplied by, so that larger is better."""
        return 1 if self is Direction.MAX else -1

    @property
    def wanted(self) -> str:
        """What is better, in words."""
        return "higher" if self is Direction.MAX else "lower"

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`; never where one of them is NaN."""
        return a > b if self is Direction.MAX else a < b

    def best(self, items: Iterable[T], key: Callable[[T], float]) -> T | None:
        """The item with the best score, the first of several; None where there is no item."""
        return max(items, key=lambda item: self.sign * key(item), default=None)

    def ranked(self, items: Iterable[T], key: Callable[[T], float]) -> list[T]:
        """The items, the best first; in their own order where they have the same score."""
        return sorted(items, key=lambda item: -self.sign * key(item))
