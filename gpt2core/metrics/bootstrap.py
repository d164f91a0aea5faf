"""How sure one can be: bootstrap intervals (Efron 1979) and the paired bootstrap test (Koehn 2004).

Both work on counts (seeds, examples, S) from which a score is made after summing over examples: chrF from n-gram counts,
accuracy from right answers, a mean loss from sums. Seeds and examples are both resampled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 100  # resamples that are weighed at once: a thousand of 20,000 examples would fill a gigabyte

#: Summed counts (..., S) -> scores (...).
Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PairedResult(Interval):
    """A difference a - b over the same examples, its interval, and the two-sided p-value of no difference."""

    p_value: float


def interval(
    statistics: np.ndarray, score: Score, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of one system's score, the mean over seeds, from its counts (seeds, examples, S)."""
    random = np.random.default_rng(seed)
    (per_seed,) = _resampled([statistics], score, resamples, seed)
    low, high = _bounds(_mean_of_drawn(per_seed, random), level)
    return Interval(estimate=_mean_score(statistics, score), low=low, high=high)


def paired(
    a: np.ndarray, b: np.ndarray, score: Score, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> PairedResult:
    """Compare two systems from their counts (seeds, examples, S) on the same examples.

    Examples are resampled in pairs; seeds on each side alone, for seed i of one system has nothing to do with seed i of
    the other. Swapping the systems turns the sign and nothing else. Raises ValueError where the numbers of examples differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"There are {a.shape[1]} and {b.shape[1]} examples, but a paired test needs the same ones")
    if np.array_equal(a, b):
        return PairedResult(estimate=0.0, low=0.0, high=0.0, p_value=1.0)
    if a.tobytes() > b.tobytes():  # which system is called `a` must not decide what is drawn for it
        swapped = paired(b, a, score, resamples=resamples, level=level, seed=seed)
        return PairedResult(estimate=-swapped.estimate, low=-swapped.high, high=-swapped.low, p_value=swapped.p_value)
    random = np.random.default_rng((seed, 1))
    of_a, of_b = _resampled([a, b], score, resamples, seed)
    differences = _mean_of_drawn(of_a, random) - _mean_of_drawn(of_b, random)
    low, high = _bounds(differences, level)
    against = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    # The +1 keeps p above zero: a finite number of resamples never proves it.
    p = min(1.0, 2 * (against + 1) / (len(differences) + 1))
    return PairedResult(estimate=_mean_score(a, score) - _mean_score(b, score), low=low, high=high, p_value=p)


def _mean_score(statistics: np.ndarray, score: Score) -> float:
    return float(score(statistics.sum(axis=1)).mean())


def _resampled(systems: Sequence[np.ndarray], score: Score, resamples: int, seed: int) -> list[np.ndarray]:
    """Score the same resampled examples of each system, for each of its seeds: (R, seeds)."""
    examples = systems[0].shape[1]
    if examples < 1 or resamples < 1:
        raise ValueError(f"There are {examples} examples and {resamples} resamples, but both must be >= 1")
    random = np.random.default_rng(seed)
    scores: list[list[np.ndarray]] = [[] for _ in systems]
    for start in range(0, resamples, CHUNK):
        index = random.integers(0, examples, size=(min(CHUNK, resamples - start), examples))
        weights = np.stack([np.bincount(row, minlength=examples) for row in index]).astype(np.float64)
        for found, statistics in zip(scores, systems, strict=True):
            found.append(score(np.tensordot(weights, statistics, axes=(1, 1))))
    return [np.concatenate(found) for found in scores]


def _mean_of_drawn(per_seed: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mean over resampled seeds: (R,)."""
    resamples, seeds = per_seed.shape
    drawn = random.integers(0, seeds, size=(resamples, seeds))
    return np.asarray(np.take_along_axis(per_seed, drawn, axis=1).mean(axis=1))


def _bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
