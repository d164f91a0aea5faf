"""The confidence interval of one run's score: a jackknife over examples (Tukey 1958) with Student's t.

It accounts for the choice of texts, not for the training seed: another run of the same configuration may well score outside.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from gpt2core.metrics.metric import Score


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its confidence interval, None if unknown."""

    estimate: float
    low: float | None = None
    high: float | None = None


def interval(counts: np.ndarray, score: Score, level: float = 0.95) -> Interval:
    """Return a run's score and its interval over texts, from counts (outputs, N, S), which are summed over outputs.

    The standard error comes from the scores without each text in turn, the bounds from Student's t with N - 1 degrees of
    freedom; for a plain mean this is the t interval. There are no bounds for a single text or if a number is not finite.
    """
    examples = counts.sum(axis=0, dtype=np.float64)
    total, number = examples.sum(axis=0), len(examples)
    reach = np.nan
    with np.errstate(all="ignore"):  # non-finite numbers are handled below
        estimate = float(score(total))
        if number > 1:
            without = np.asarray(score(total - examples))
            error = np.sqrt((number - 1) * np.mean((without - without.mean()) ** 2))
            reach = float(stdtrit(number - 1, (1 + level) / 2) * error)
    if not np.isfinite([estimate - reach, estimate + reach]).all():
        return Interval(estimate=estimate)
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach)
