"""How sure one can be: bootstrap intervals (Efron 1979) and the paired bootstrap test (Koehn 2004)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.chrf import chrf_from_statistics

#: Resampled example numbers (R, N) -> the statistic of each resample (R,).
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class PairedResult(Interval):
    """A difference a - b over the same examples, its interval, and the two-sided p-value of no difference."""

    p_value: float


def _resamples(n: int, resamples: int, seed: int) -> np.ndarray:
    if n < 1 or resamples < 1:
        raise ValueError(f"There are {n} examples and {resamples} resamples, but both must be >= 1")
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def bootstrap_interval(
    statistic: Statistic, n_examples: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of `statistic` over resampled examples."""
    values = statistic(_resamples(n_examples, resamples, seed))
    low, high = _bounds(values, level)
    return Interval(estimate=float(statistic(np.arange(n_examples)[None])[0]), low=low, high=high)


def paired_bootstrap(
    a: Statistic, b: Statistic, n_examples: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> PairedResult:
    """Compare two systems on the same resampled examples; p counts the resamples that contradict the sign."""
    index = _resamples(n_examples, resamples, seed)
    everything = np.arange(n_examples)[None]
    return _compare(a(index) - b(index), float((a(everything) - b(everything))[0]), level)


def chrf_interval(statistics: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the chrF of one system, from its counts (seeds, examples, 18).

    The score is the mean over decoding seeds of corpus chrF; seeds and examples are both resampled.
    """
    random = np.random.default_rng(seed)
    index = _resamples(statistics.shape[1], resamples, seed)
    low, high = _bounds(_resampled_chrf(statistics, index, random), level)
    return Interval(estimate=_chrf(statistics), low=low, high=high)


def paired_chrf(
    a: np.ndarray, b: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> PairedResult:
    """Compare the chrF of two systems from their counts (seeds, examples, 18) on the same examples.

    Examples are resampled in pairs; seeds on each side alone, for seed i of one system has nothing to do with seed i of
    the other. Swapping the systems turns the sign and nothing else. Raises ValueError where the numbers of examples differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"There are {a.shape[1]} and {b.shape[1]} examples, but a paired test needs the same ones")
    if np.array_equal(a, b):
        return PairedResult(estimate=0.0, low=0.0, high=0.0, p_value=1.0)
    if a.tobytes() > b.tobytes():  # which system is called `a` must not decide what is drawn for it
        swapped = paired_chrf(b, a, resamples=resamples, level=level, seed=seed)
        return PairedResult(estimate=-swapped.estimate, low=-swapped.high, high=-swapped.low, p_value=swapped.p_value)
    random = np.random.default_rng((seed, 1))
    index = _resamples(a.shape[1], resamples, seed)
    differences = _resampled_chrf(a, index, random) - _resampled_chrf(b, index, random)
    return _compare(differences, _chrf(a) - _chrf(b), level)


def _chrf(statistics: np.ndarray) -> float:
    return float(chrf_from_statistics(statistics.sum(axis=1)).mean())


def _resampled_chrf(statistics: np.ndarray, index: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mean over resampled seeds of the chrF of resampled examples: (R,)."""
    seeds, examples, _ = statistics.shape
    weights = np.zeros((len(index), examples))
    np.add.at(weights, (np.arange(len(index))[:, None], index), 1)
    per_seed = chrf_from_statistics(np.einsum("re,sek->rsk", weights, statistics))
    drawn = random.integers(0, seeds, size=(len(index), seeds))
    return np.asarray(np.take_along_axis(per_seed, drawn, axis=1).mean(axis=1))


def _bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _compare(differences: np.ndarray, observed: float, level: float) -> PairedResult:
    low, high = _bounds(differences, level)
    against = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    # The +1 keeps p above zero: a finite number of resamples never proves it.
    p = min(1.0, 2 * (against + 1) / (len(differences) + 1))
    return PairedResult(estimate=observed, low=low, high=high, p_value=p)
