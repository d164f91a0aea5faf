"""Estimates: a value with the range that it lies in, and the GPU memory of a run."""

from dataclasses import dataclass

FORMULA = "4 * total + 12 * trainable bytes + 0.25 GB"


@dataclass(frozen=True, kw_only=True)
class Range:
    """An uncertain value with its lower and upper bound."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(value=self.value + other.value, low=self.low + other.low, high=self.high + other.high)

    def __mul__(self, times: float) -> "Range":
        return Range(value=self.value * times, low=self.low * times, high=self.high * times)


def exactly(value: float) -> Range:
    """Return a certain value as a range."""
    return Range(value=value, low=value, high=value)


def predicted_gpu_memory_gb(total: int, trainable: int) -> float:
    """Return 4 bytes for each weight in float32 and 12 for each trainable one's gradient and AdamW moments, in gigabytes.

    The quarter of a gigabyte is the study's; activations of larger batches come on top.
    """
    return (4 * total + 12 * trainable) / 1e9 + 0.25
