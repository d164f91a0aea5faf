"""Repeated looks have an overall error rate of 5%."""

import numpy as np
import pytest
from scipy.stats import norm

from gpt2core.metrics.sequential import level_at, levels, schedule, spent


def test_five_equal_looks_match_the_literature() -> None:
    """Lan and DeMets (1983): two-sided, 5%, O'Brien and Fleming's spending."""
    z = norm.isf(np.array(levels((1, 2, 3, 4, 5), 5)) / 2)
    np.testing.assert_allclose(z, [4.877, 3.357, 2.680, 2.290, 2.031], atol=0.003)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("seeds", [1, 3, 200])
def test_one_look_has_the_whole_level(seeds: int, alpha: float) -> None:
    assert levels((seeds,), seeds, alpha) == pytest.approx((alpha,), rel=1e-3)


def test_spending_is_small_early_and_complete_at_the_end() -> None:
    assert spent(0.05, 1.0) == spent(0.05, 1.5) == pytest.approx(0.05)
    assert spent(0.05, 0.2) < 1e-4
    result = levels((3, 4, 5, 6), 6)
    assert list(result) == sorted(result)
    assert result[-1] < 0.05


def test_an_early_end_keeps_the_levels_so_far() -> None:
    assert levels((3, 4), 6) == levels((3, 4, 5, 6), 6)[:2]


@pytest.mark.parametrize("looks", [(), (3, 3), (4, 3), (0, 3), (3, 7)])
def test_looks_that_do_not_increase_are_an_error(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must increase from at least 1 to at most 6"):
        levels(looks, 6)


@pytest.mark.parametrize(("looks", "most"), [((3, 4, 5, 6), 6), ((1, 2, 3, 4, 5), 5), ((2, 9, 10), 10)])
def test_a_brownian_motion_is_rejected_in_5_percent_of_cases(looks: tuple[int, ...], most: int) -> None:
    steps = np.random.default_rng(0).normal(size=(40_000, most)).cumsum(axis=1)
    z = steps[:, np.array(looks) - 1] / np.sqrt(looks)
    left = (np.abs(z) > norm.isf(np.array(levels(looks, most)) / 2)).any(axis=1).mean()
    assert left == pytest.approx(0.05, abs=0.004)


def test_the_level_is_that_of_the_latest_look() -> None:
    looks = schedule(3, 6)
    assert looks == (3, 4, 5, 6)
    assert level_at(2, looks) is None
    assert level_at(4, looks) == levels(looks, 6)[1]
    assert level_at(9, looks) == levels(looks, 6)[-1]
    assert level_at(4, (3, 6)) == levels((3, 6), 6)[0]
