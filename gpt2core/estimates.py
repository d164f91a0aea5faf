"""Estimates with lower and upper bounds, and the predicted GPU memory of a run."""

from dataclasses import dataclass

FORMULA = "4 * total + 12 * trainable bytes + 0.25 GB"


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


def predicted_gpu_memory_gb(total: int, trainable: int) -> float:
    """Return the study's estimate, see FORMULA; activations of larger batches need more.

    A float32 weight takes 4 bytes; the gradient and AdamW moments of a trainable one take 12.
    """
    return (4 * total + 12 * trainable) / 1e9 + 0.25
