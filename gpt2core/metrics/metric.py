"""What a metric is: its direction and unit, how a person reads it, and the counts that it is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.direction import Direction

#: Summed counts (..., S) -> scores (...). A function of a module, so that it can be pickled.
Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number by which runs of a task can be judged.

    A difference is in `unit`; one below `margin` is called practically none. `digits` stand behind the point where it is
    shown. `counts` names the counts of `Evaluation.statistics` that `score` makes it of; without them it is known of a run
    as a whole alone. No value lies outside of `bounds`, which intervals are cut to.
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
        """What `Evaluation.metrics` calls it on a split: `dev_loss` is `test_loss` on the test split."""
        return f"{split}_{self.name.removeprefix('dev_')}" if self.name.startswith("dev_") else self.name


def share(counts: np.ndarray) -> np.ndarray:
    """Share (...) from 0 to 1 of counts (..., 2): how many have a property, and how many there are; 0 where there is none."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))


def named(*metrics: Metric) -> dict[str, Metric]:
    """Metrics by their names."""
    return {metric.name: metric for metric in metrics}
