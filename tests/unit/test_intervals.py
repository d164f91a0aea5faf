"""The interval of one run over the texts that it was scored on."""

import numpy as np
import pytest
from scipy import stats

from gpt2core.metrics.chrf import chrf_from_statistics
from gpt2core.metrics.intervals import interval
from gpt2core.metrics.losses import mean_loss, perplexities
from gpt2core.metrics.metric import share


def counts(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)[None]


@pytest.mark.parametrize("number", [2, 5, 50])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_plain_mean_is_the_t_interval(number: int, level: float) -> None:
    values = np.random.default_rng(number).normal(3, 2, size=number)
    result = interval(counts(values), mean_loss, level)
    expected = stats.t.interval(level, number - 1, values.mean(), stats.sem(values))
    assert (result.low, result.high) == pytest.approx(expected)
    assert result.estimate == pytest.approx(values.mean())


@pytest.mark.parametrize(("number", "least"), [(12, 0.93), (60, 0.93)])
def test_intervals_cover_the_truth_in_95_percent_of_cases(number: int, least: float) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(1000):
        result = interval(counts(random.normal(3.0, 1.0, size=number)), mean_loss)
        assert result.low is not None
        assert result.high is not None
        held += result.low <= 3.0 <= result.high
    assert least <= held / 1000 <= 0.97


def test_intervals_of_a_ratio_of_sums_cover_the_truth() -> None:
    """Return texts of different lengths with losses that grow with length: the score is not a mean over texts."""
    random, held = np.random.default_rng(1), 0
    for _ in range(1000):
        tokens = random.integers(20, 200, size=60)
        result = interval(np.stack([(tokens * random.normal(4.0, 0.5, size=60)), tokens], axis=1)[None], perplexities)
        assert result.low is not None
        assert result.high is not None
        held += result.low <= np.exp(4.0) <= result.high
    assert 0.925 <= held / 1000 <= 0.975


def test_outputs_of_a_run_do_not_count_as_runs() -> None:
    single = np.random.default_rng(2).integers(1, 50, size=(1, 12, 18)).astype(float)
    once, thrice = interval(single, chrf_from_statistics), interval(np.repeat(single, 3, axis=0), chrf_from_statistics)
    assert (thrice.estimate, thrice.low, thrice.high) == pytest.approx((once.estimate, once.low, once.high))


def test_small_unsigned_counts_do_not_overflow() -> None:
    right = np.random.default_rng(3).random(5000) < 0.7
    small = np.stack([right, np.ones(5000)], axis=1)[None].astype(np.uint8)
    assert interval(small, share) == interval(small.astype(float), share)
    assert interval(small, share).estimate == right.mean()


@pytest.mark.parametrize("values", [[2.0], [1.0, np.inf, 2.0], [1e300, 1.0, 5.0], [np.nan, 1.0]])
def test_unknown_bounds_are_none(values: list[float]) -> None:
    result = interval(counts(np.array(values) * 1e8), lambda c: np.asarray(c[..., 0] ** 2))
    assert (result.low, result.high) == (None, None)
