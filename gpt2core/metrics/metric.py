"""The shape of a metric: its direction and unit, how it is shown, and the counts that it is computed from."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.direction import Direction

#: Summed counts (..., S) -> scores (...). It must be a module-level function, so that it can be pickled.
Score = Callable[[np.ndarray], np.ndarray]

NOT_NEGATIVE = (0.0, math.inf)  # bounds
#: Ends the names of a metric and its counts of texts decoded with the run's own setting, if the others are at the best setting.
OWN_SETTING = "_fixed"
WITHOUT_TEXTS = ("loss", "log_score")  # counts that need no generated texts


@dataclass(frozen=True)
class Metric:
    """A number by which the runs of a task can be compared.

    `score` computes it from the entry `counts` of `Evaluation.statistics`. Without these, it has no interval.
    """

    name: str
    direction: Direction
    unit: str  # of a difference
    margin: float  # smaller differences are practically irrelevant
    digits: int = 2  # decimals to show
    counts: str | None = None
    score: Score | None = None
    bounds: tuple[float, float] | None = None  # intervals are clipped to these

    def on(self, split: str) -> str:
        """Return the metric's name in `Evaluation.metrics` for a split: `dev_loss` is `test_loss` on the test split."""
        task, slash, name = self.name.rpartition("/")  # of several tasks
        return f"{task}{slash}{split}_{name.removeprefix('dev_')}" if name.startswith("dev_") else self.name

    @property
    def needs_texts(self) -> bool:
        """Whether it may be a score of generated texts, rather than of losses alone."""
        return self.counts not in WITHOUT_TEXTS


def share(counts: np.ndarray) -> np.ndarray:
    """Return the share (...), 0 to 1, from counts (..., 2) of items with a property and of all items; 0 if there are none."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))


def percent(counts: np.ndarray) -> np.ndarray:
    """Return the share (...) in percent, see `share`."""
    return 100.0 * share(counts)


def named(*metrics: Metric) -> dict[str, Metric]:
    """Return metrics by name."""
    return {metric.name: metric for metric in metrics}
