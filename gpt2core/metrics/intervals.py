"""The interval of one run's score: a jackknife over examples (Tukey 1958) with Student's t.

It covers the texts that the run was scored on, not the chance of another training seed: other texts of their kind would
give a score within it, another run of the same configuration need not.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from gpt2core.metrics.metric import Score


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its confidence interval, which are None where there is nothing to know them from."""

    estimate: float
    low: float | None
    high: float | None


def interval(counts: np.ndarray, score: Score, level: float = 0.95) -> Interval:
    """Return a run's score and its interval from its counts (outputs, N, S), over the N texts that it was scored on.

    The interval says nothing of the chance of another training seed. All outputs of a text belong to the run and are
    summed. The score without each text in turn gives the standard error, and Student's t with N - 1 degrees of freedom the
    bounds: for a plain mean that is the t interval. There are no bounds for one text, or where a number is not finite.
    """
    examples = counts.sum(axis=0, dtype=np.float64)
    total, number = examples.sum(axis=0), len(examples)
    reach = np.nan
    with np.errstate(all="ignore"):  # what is not finite is seen below
        estimate = float(score(total))
        if number > 1:
            without = np.asarray(score(total - examples))
            error = np.sqrt((number - 1) * np.mean((without - without.mean()) ** 2))
            reach = float(stdtrit(number - 1, (1 + level) / 2) * error)
    if not np.isfinite([estimate - reach, estimate + reach]).all():
        return Interval(estimate=estimate, low=None, high=None)
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach)
