"""Comparison of settings: training runs are the unit, and texts are a sample too."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gpt2core.metrics import comparison
from gpt2core.metrics.comparison import Runs, difference, holm, mean_of, pairwise, runs_of
from gpt2core.metrics.losses import mean_loss


def counted(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=-1)


def of(*scores: float) -> Runs:
    return Runs(scores=np.array(scores))


def drawn(random: np.random.Generator, n: int, examples: int, **sd: float) -> Runs:
    values = random.normal(0, sd.get("run", 0.0), (n, 1)) + random.normal(0, sd.get("example", 0.0), (1, examples))
    return runs_of(counted(values + random.normal(0, sd.get("both", 0.0), (n, examples))), mean_loss)


def known(result: comparison.Difference) -> tuple[float, float, float, float]:
    """Return low, high, p and df, which must not be None."""
    assert result.low is not None
    assert result.high is not None
    assert result.p_value is not None
    assert result.df is not None
    return result.low, result.high, result.p_value, result.df


def test_variance_components_equal_those_computed_by_hand() -> None:
    setting = runs_of(counted(np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 10.0]])), mean_loss)
    assert setting.scores.tolist() == [3.0, 5.0]
    assert setting.run_variance == 2.0
    np.testing.assert_allclose(setting.influence, [-2.0, -2.0, 4.0], atol=1e-12)  # means 2, 2, 8, less 4
    # The residuals of run 1 are 0, 1, -1, of run 2 the negative: a sum of squares of 4 with 1 x 2 degrees of freedom.
    assert setting.interaction == pytest.approx(2.0)
    other = runs_of(counted(np.array([[0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])), mean_loss)
    result = difference(setting, other)
    assert result.estimate == 3.0
    assert result.runs == pytest.approx((2.0 + 0.0) / 2)
    assert result.texts == pytest.approx(np.var([-1.5, -1.5, 3.0], ddof=1) / 3)
    assert result.both == pytest.approx((2.0 + other.interaction) / 6)
    assert result.se is not None
    assert result.se**2 == pytest.approx(max(result.runs + result.texts - result.both, result.runs, result.texts))


def test_influence_on_a_nonlinear_score_is_the_jackknifes() -> None:
    counts = np.random.default_rng(0).uniform(1, 9, (2, 7, 2))

    def ratio(totals: np.ndarray) -> np.ndarray:
        return np.asarray(totals[..., 0] / totals[..., 1])

    expected = []
    for run in counts:
        without = np.array([ratio(np.delete(run, place, axis=0).sum(axis=0)) for place in range(7)])
        expected.append(-6 * (without - without.mean()))
    np.testing.assert_allclose(runs_of(counts, ratio).influence, np.mean(expected, axis=0))


@pytest.mark.parametrize("n", [2, 4, 9])
def test_runs_of_equal_variance_give_students_t_test(n: int) -> None:
    random = np.random.default_rng(n)
    scores = random.normal(size=n)
    a, b = scores, 3.0 + random.permutation(scores)  # equal variances, so that Welch's df is the pooled one
    low, high, p, df = known(difference(of(*a), of(*b)))
    expected = stats.ttest_ind(a, b)
    assert df == 2 * n - 2
    assert p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (low, high) == pytest.approx((interval.low, interval.high))


def test_runs_of_unequal_variance_give_welchs_statistic_and_bounded_df() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(0, 5, 8), random.normal(0, 1, 6)
    result = difference(of(*a), of(*b))
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert result.se is not None
    assert result.estimate / result.se == pytest.approx(welch.statistic)
    *_, df = known(result)
    assert 5 <= df < 12
    assert df == pytest.approx(welch.df, rel=0.25)


def test_variation_only_between_texts_gives_the_paired_t_test() -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(size=20), random.normal(size=20)
    result = difference(runs_of(counted(np.stack([a, a])), mean_loss), runs_of(counted(np.stack([b, b])), mean_loss))
    _, _, p, df = known(result)
    assert result.se == pytest.approx(stats.sem(a - b))
    assert df == pytest.approx(19 / 0.6, rel=1e-6) or df == pytest.approx(19, rel=1e-6)
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.1)


def test_swapping_the_sides_flips_the_sign() -> None:
    random = np.random.default_rng(3)
    a, b = drawn(random, 3, 15, run=1, example=2, both=1), drawn(random, 5, 15, run=2, example=2, both=1)
    result, other = difference(a, b), difference(b, a)
    assert result.estimate == -other.estimate
    low, high, p, df = known(result)
    assert (low, high, p, df) == pytest.approx((-known(other)[1], -known(other)[0], *known(other)[2:]))


def test_one_run_gives_a_difference_without_p_value() -> None:
    result = difference(of(1.0), of(2.0, 3.0))
    assert (result.estimate, result.p_value, result.low, result.high) == (-1.5, None, None, None)
    assert result.reason == comparison.ONE_RUN
    assert result.within(0.9) == result.with_seeds(1, 5) == result


def test_with_one_example_only_runs_vary() -> None:
    result = runs_of(counted(np.array([[1.0], [2.0], [4.0]])), mean_loss)
    assert (result.examples, result.influence, result.interaction) == (0, None, 0.0)
    assert difference(result, of(2.0, 2.5, 3.0)).p_value is not None


def test_constant_and_non_finite_scores_have_no_p_value() -> None:
    same = runs_of(counted(np.ones((3, 4))), mean_loss)
    assert difference(same, runs_of(counted(np.full((3, 4), 2.0)), mean_loss)).reason == comparison.NOTHING_VARIES
    assert difference(same, same).p_value is None
    for bad in (math.nan, math.inf):
        result = difference(of(1.0, bad), of(1.0, 2.0))
        assert (result.reason, result.p_value) == (comparison.NOT_FINITE, None)
        assert math.isnan(result.estimate)
        assert math.isnan(mean_of(of(1.0, bad)).estimate)


def test_different_numbers_of_examples_are_an_error() -> None:
    random = np.random.default_rng(4)
    with pytest.raises(ValueError, match="12 and 11 examples"):
        difference(drawn(random, 2, 12, both=1), drawn(random, 2, 11, both=1))


def test_more_seeds_shrink_the_variance_due_to_runs() -> None:
    random = np.random.default_rng(5)
    result = difference(drawn(random, 4, 50, run=1, example=9, both=5), drawn(random, 4, 50, run=1, example=9, both=5))
    more = result.with_seeds(4, 16)
    assert more.runs == pytest.approx(result.runs / 4)
    assert more.both == pytest.approx(result.both / 4)
    assert more.texts - more.both == pytest.approx(result.texts - result.both)
    assert more.se is not None
    assert result.se is not None
    assert more.se < result.se
    assert result.with_seeds(4, 4).se == pytest.approx(result.se)
    assert result.with_seeds(4, 10**9).se == pytest.approx(math.sqrt(result.texts - result.both), rel=1e-3)


@pytest.mark.parametrize(("given", "tests", "expected"), [
    ([0.01, 0.04, 0.03], None, [0.03, 0.06, 0.06]),
    ([0.5, 0.9], None, [1.0, 1.0]),
    ([0.01], 3, [0.03]),
    ([], None, []),
])  # fmt: skip
def test_holm(given: Sequence[float], tests: int | None, expected: Sequence[float]) -> None:
    assert holm(given, tests) == pytest.approx(list(expected))


def test_pairs_have_bonferroni_intervals_and_holm_p_values() -> None:
    sides = {name: of(*(place + np.array([0.0, 0.3, 0.9]))) for place, name in enumerate("abc")}
    rows = pairwise(sides)
    assert [(row.a, row.b) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    alone = [difference(sides[row.a], sides[row.b], confidence=1 - 0.05 / 3) for row in rows]
    assert [row.difference for row in rows] == alone
    assert [row.p_value for row in rows] == pytest.approx(holm([known(result)[2] for result in alone]))
    for row in rows:
        narrow = difference(sides[row.a], sides[row.b], confidence=0.9)
        assert (row.low_90, row.high_90) == (narrow.low, narrow.high)
    (result,) = pairwise(sides, [("c", "a")])
    assert result.difference == difference(sides["c"], sides["a"])
    with_one = pairwise({**sides, "d": of(1.0)})
    assert [row.p_value is None for row in with_one] == ["d" in (row.a, row.b) for row in with_one]
    first = known(difference(sides["a"], sides["b"]))[2]
    assert with_one[0].p_value is not None
    assert with_one[0].p_value == pytest.approx(first * 5), "pairs of which nothing is known count too"


def test_the_mean_of_a_setting() -> None:
    scores = [1.0, 2.0, 4.0]
    result = mean_of(of(*scores))
    assert (result.low, result.high) == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores)), rel=0.1
    )
    texts = np.random.default_rng(6).normal(size=30)
    alone = mean_of(runs_of(counted(texts[None]), mean_loss))
    assert (alone.low, alone.high) == pytest.approx(
        stats.t.interval(0.95, 29, texts.mean(), stats.sem(texts)), rel=0.02
    )
    assert mean_of(of(3.0)).low is None


def slow_welch(groups: Sequence[np.ndarray]) -> float:
    """Compute Welch's (1951) test step by step."""
    k = len(groups)
    weights = [len(group) / np.var(group, ddof=1) for group in groups]
    grand = sum(w * np.mean(group) for w, group in zip(weights, groups, strict=True)) / sum(weights)
    top = sum(w * (np.mean(group) - grand) ** 2 for w, group in zip(weights, groups, strict=True)) / (k - 1)
    rest = sum((1 - w / sum(weights)) ** 2 / (len(group) - 1) for w, group in zip(weights, groups, strict=True))
    return float(stats.f.sf(top / (1 + 2 * (k - 2) / (k**2 - 1) * rest), k - 1, (k**2 - 1) / 3 / rest))


def test_welchs_anova() -> None:
    random = np.random.default_rng(7)
    groups = [random.normal(place, 1 + place, 3 + place) for place in range(4)]
    assert comparison.welch_anova([of(*group) for group in groups]) == pytest.approx(slow_welch(groups))
    p_of_two = comparison.welch_anova([of(*group) for group in groups[:2]])
    assert p_of_two == pytest.approx(stats.ttest_ind(groups[0], groups[1], equal_var=False).pvalue)
    assert comparison.welch_anova([of(1.0, 1.0), of(1.0, 2.0)]) is None
    assert comparison.welch_anova([of(1.0), of(1.0, 2.0)]) is None


@pytest.mark.parametrize(("n", "examples", "sd"), [
    (3, 12, {"run": 1.0}),
    (5, 40, {"example": 1.0}),
    (3, 40, {"run": 0.1, "example": 0.6, "both": 1.0}),
    (2, 12, {"both": 1.0}),
])  # fmt: skip
def test_error_and_coverage_rates_are_as_stated(n: int, examples: int, sd: dict[str, Any]) -> None:
    """Errors are 5% of 800, with a standard error of 0.8 points; fewer if only the interaction varies."""
    random, wrong, held = np.random.default_rng(8), 0, 0
    for _ in range(800):
        low, high, p, _ = known(difference(drawn(random, n, examples, **sd), drawn(random, n, examples, **sd)))
        wrong += p < 0.05
        held += low <= 0 <= high
    assert wrong / 800 <= 0.08
    assert held == 800 - wrong
    assert held / 800 <= 0.999
