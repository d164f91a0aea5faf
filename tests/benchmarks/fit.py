"""How a cost grows: a power law, fitted by least squares on logarithms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Power:
    """The exponent that costs grow with, and its 95% interval."""

    exponent: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} [{self.low:.2f}, {self.high:.2f}]"


def power(sizes: Sequence[float], costs: Sequence[float]) -> Power:
    """Fit costs that are a constant times a power of the sizes; of two points the interval is unbounded.

    The interval takes what is left over as independent and normal on the logarithms. Raises ValueError for fewer points.
    """
    if len(sizes) < 2:
        raise ValueError("a power law takes two points")
    found = stats.linregress(np.log(sizes), np.log(costs))
    free = len(sizes) - 2
    half = float(stats.t.ppf(0.975, free) * found.stderr) if free else math.inf
    return Power(float(found.slope), float(found.slope) - half, float(found.slope) + half)
