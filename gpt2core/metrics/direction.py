"""The direction in which a metric is better; no other file knows its sign."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Direction(StrEnum):
    """Whether a metric is maximised or minimised; files store the value."""

    MAX = "max"
    MIN = "min"

    @property
    def sign(self) -> int:
        """The factor that turns a score into one where larger is better."""
        return 1 if self is Direction.MAX else -1

    @property
    def wanted(self) -> str:
        """`higher` or `lower`, whichever is better."""
        return "higher" if self is Direction.MAX else "lower"

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`; False if either is NaN."""
        return a > b if self is Direction.MAX else a < b

    def best(self, items: Iterable[T], key: Callable[[T], float]) -> T | None:
        """Return the item with the best score, the first of equals; None if there are no items."""
        return max(items, key=lambda item: self.sign * key(item), default=None)

    def ranked(self, items: Iterable[T], key: Callable[[T], float]) -> list[T]:
        """Return the items sorted from best to worst; equals keep their order."""
        return sorted(items, key=lambda item: -self.sign * key(item))
