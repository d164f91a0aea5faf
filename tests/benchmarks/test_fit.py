"""The fit of a power law."""

import math

import numpy as np
import pytest

from tests.benchmarks.fit import Power, power

SIZES = (100, 300, 1_000, 3_000, 10_000)


def test_an_exact_power_law_is_found() -> None:
    found = power(SIZES, [7 * size**1.5 for size in SIZES])
    assert (found.exponent, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_holds_the_exponent_in_95_of_100_cases() -> None:
    random = np.random.default_rng(0)
    costs = [2 * np.array(SIZES) ** 0.8 * random.lognormal(0, 0.2, len(SIZES)) for _ in range(1_000)]
    assert 930 <= sum(found.low <= 0.8 <= found.high for found in (power(SIZES, each) for each in costs)) <= 970


def test_two_points_have_no_interval() -> None:
    assert power((1, 2), (8, 4)) == Power(pytest.approx(-1.0), -math.inf, math.inf)
    with pytest.raises(ValueError, match="two points"):
        power((1,), (8,))
