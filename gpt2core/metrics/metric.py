"""The shape of a metric: its direction and unit, how it is shown, and the counts that it is computed from."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.direction import Direction

#: Summed counts (..., S) -> scores (...). It must be a module-level function, so that it can be pickled.
Score = Callable[[np.ndarray], np.ndarray]

NOT_NEGATIVE = (0.0, math.inf)  # bounds


@dataclass(frozen=True)
class Metric:
    """A number by which the runs of a task can be compared.

    `unit` is the unit of a difference; differences below `margin` are practically irrelevant. `digits` are the decimals to
    show. `counts` names an entry of `Evaluation.statistics`, from which `score` computes the metric; without them, only the
    value of a whole run is known, and it has no interval. Intervals are clipped to `bounds`.
    """

    name: str
    direction: Direction
    unit: str
    margin: float
    digits: int = 2
    counts: str | None = None
    score: Score | None = None
    bounds: tuple[float, float] | None = None

    def on(self, split: str) -> str:
        """Return the metric's name in `Evaluation.metrics` for a split: `dev_loss` is `test_loss` on the test split."""
        return f"{split}_{self.name.removeprefix('dev_')}" if self.name.startswith("dev_") else self.name


def share(counts: np.ndarray) -> np.ndarray:
    """Return the share (...), 0 to 1, from counts (..., 2) of items with a property and of all items; 0 if there are none."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))


def named(*metrics: Metric) -> dict[str, Metric]:
    """Return metrics by name."""
    return {metric.name: metric for metric in metrics}
