"""Compare settings by their training runs, so that the conclusion holds for other seeds and other texts alike.

Scores vary with the run (initialisation, order, dropout, sampling) and with the texts. Both parts of the variance are estimated
and added: the variance of run scores, and the variance over examples of the difference in influence, less their interaction,
which both contain. For small samples, Student's t with the degrees of freedom of Satterthwaite (1946) is used.

Legend: `n` runs of one setting, `N` examples that all runs are scored on, `S` counts of an example.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.special import stdtr, stdtrit

from gpt2core.metrics.intervals import Interval
from gpt2core.metrics.metric import Score

LEVEL = 0.05  # of significance
MIXED = 0.6  # see `_freedom`
LEAST = 3  # runs on each side that are needed to call one side better

ONE_RUN = "with one run each, the variance between runs is unknown"
NOTHING_VARIES = "neither runs nor examples vary, so the significance of a difference cannot be computed"
NOT_FINITE = "a score is not a finite number"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of one setting. Without counts of examples, only runs vary, and conclusions hold only for these texts."""

    scores: np.ndarray  # (n,)
    influence: np.ndarray | None = None  # (N,): jackknife pseudo-values minus the score, averaged over runs
    interaction: float = 0.0  # residual variance after the effects of runs and examples

    @property
    def count(self) -> int:
        """The number of runs."""
        return len(self.scores)

    @property
    def examples(self) -> int:
        """The number of examples with an influence; 0 if conclusions hold only for these texts."""
        return 0 if self.influence is None else len(self.influence)

    @property
    def mean(self) -> float:
        """The mean score."""
        return float(self.scores.mean())

    @property
    def run_variance(self) -> float:
        """The variance of a run's score; NaN for fewer than two runs."""
        return float(self.scores.var(ddof=1)) if self.count > 1 else math.nan


def runs_of(counts: np.ndarray, score: Score) -> Runs:
    """Return the runs of one setting from their counts (n, N, S), summed over the outputs of each run.

    The influence of an example is the jackknife's: (N - 1) times the drop of the score without it (Efron & Stein 1981).
    """
    _, examples, _ = counts.shape
    totals = counts.sum(axis=1, dtype=np.float64)
    scores = np.asarray(score(totals), dtype=np.float64)
    if examples < 2:
        return Runs(scores=scores)
    influence = (examples - 1) * (scores[:, None] - score(totals[:, None] - counts))
    influence = influence - influence.mean(axis=1, keepdims=True)
    mean = influence.mean(axis=0)
    freedom = (len(scores) - 1) * (examples - 1)
    interaction = float(((influence - mean) ** 2).sum() / freedom) if freedom else 0.0
    return Runs(scores=scores, influence=mean, interaction=interaction)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Setting a minus setting b. `p_value` and the interval are None if they cannot be computed, for the `reason` given."""

    estimate: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    df: float | None = None
    se: float | None = None
    runs: float = 0.0  # the variance of the difference due to runs
    texts: float = 0.0  # the variance due to examples
    both: float = 0.0  # the interaction of runs and examples, which each of these two contains
    examples: int = 0  # their number
    reason: str = ""

    def within(self, confidence: float) -> "Difference":
        """Return the difference with an interval of another confidence, such as 0.9."""
        if self.se is None or self.df is None:
            return self
        reach = quantile(confidence, self.df) * self.se
        return replace(self, low=self.estimate - reach, high=self.estimate + reach)

    def with_seeds(self, seeds: int, more: int) -> "Difference":
        """Predict the difference for `more` runs per side instead of `seeds`: what depends on runs shrinks as 1 / n."""
        if self.se is None:
            return self
        runs, both = self.runs * seeds / more, self.both * seeds / more
        texts = max(self.texts - self.both, 0.0) + both
        variance = _total(runs, texts, both)
        of_runs = 2.0 * more - 2
        df = _freedom(variance, runs, texts, both, of_runs, self.examples - 1)
        df *= _fewer(runs, texts, both, more, of_runs, 1 - LEVEL)
        return replace(self, runs=runs, texts=texts, both=both, se=math.sqrt(variance), df=df, p_value=None)


def quantile(confidence: float, df: float) -> float:
    """Return the half-width of an interval in standard errors, by Student's t."""
    return float(stdtrit(df, 0.5 + confidence / 2))


def difference(a: Runs, b: Runs, *, confidence: float = 1 - LEVEL) -> Difference:
    """Compare two settings that were scored on the same examples in the same order.

    For n runs per side and N examples: Vs = (s_a^2 + s_b^2) / n, from run scores; Ve = variance over examples of the difference
    in influence, / N; Vse = interaction of both sides, / (n N). The variance of the difference is V = max(Vs + Ve - Vse, Vs,
    Ve), with the degrees of freedom of `_freedom`. Raises ValueError if the numbers of examples differ.
    """
    if a.examples != b.examples:
        raise ValueError(f"There are {a.examples} and {b.examples} examples, but must be the same for a comparison")
    estimate = a.mean - b.mean
    if not (np.isfinite(a.scores).all() and np.isfinite(b.scores).all()):
        return Difference(estimate=math.nan, reason=NOT_FINITE)
    if min(a.count, b.count) < 2:
        return Difference(estimate=estimate, reason=ONE_RUN)
    runs, freedom = _of_runs(a, b)
    texts = 0.0 if a.influence is None or b.influence is None else _of_texts(a.influence - b.influence)
    both = a.interaction / (a.count * a.examples) + b.interaction / (b.count * b.examples) if a.examples else 0.0
    variance = _total(runs, texts, both)
    if not variance > (1e-12 * max(abs(a.mean), abs(b.mean))) ** 2:
        return Difference(estimate=estimate, reason=NOTHING_VARIES)
    df, se = _freedom(variance, runs, texts, both, freedom, a.examples - 1), math.sqrt(variance)
    df *= _fewer(runs, texts, both, min(a.count, b.count), freedom, confidence)
    p = float(2 * stdtr(df, -abs(estimate) / se))
    known = Difference(
        estimate=estimate, p_value=p, df=df, se=se, runs=runs, texts=texts, both=both, examples=a.examples
    )
    return known.within(confidence)


def _of_runs(a: Runs, b: Runs) -> tuple[float, float]:
    """Return Vs and its degrees of freedom by Welch (1947), clipped to [fewest runs - 1, all runs - 2].

    Welch's form with n + 1 and -2 is unbiased for few runs. With -2, 3 runs per side would lose a quarter of the power, so -1.75
    is used. With two runs per side, variances cannot be compared and are taken as equal.
    """
    parts = [side.run_variance / side.count for side in (a, b)]
    most, fewest = a.count + b.count - 2, min(a.count, b.count)
    total = sum(parts)
    if fewest == 2 or not total:
        return total, float(most)
    welch = total**2 / sum(part**2 / (side.count + 1) for part, side in zip(parts, (a, b), strict=True)) - 1.75
    return total, float(min(max(welch, fewest - 1), most))


def _total(runs: float, texts: float, both: float) -> float:
    """Return V: both parts minus the interaction, which each contains; at least either part, since all are estimates."""
    return max(runs + texts - both, runs, texts)


def _freedom(variance: float, runs: float, texts: float, both: float, of_runs: float, of_texts: float) -> float:
    """Return Satterthwaite's degrees of freedom V^2 / sum(V_i^2 / df_i), with a weighted mean of two versions of the sum.

    Vs and Ve both contain the interaction. If it is left in, intervals are too wide where little else varies; if it is taken
    off, they are too narrow where runs vary more. The weight MIXED of the first version keeps error rates between 1% and 7% in
    all cases, as `python -m tests.benchmarks.verdict` measures.
    """
    left_in = runs**2 / of_runs + (texts**2 / of_texts if texts else 0.0)
    taken_off = max(runs - both, 0.0) ** 2 / of_runs
    if texts:
        taken_off += max(texts - both, 0.0) ** 2 / of_texts + both**2 / (of_runs * of_texts)
    return variance**2 / (MIXED * left_in + (1 - MIXED) * taken_off)


def _fewer(runs: float, texts: float, both: float, count: int, of_runs: float, confidence: float) -> float:
    """Return a correction factor for the degrees of freedom.

    Satterthwaite's are too many if few runs and many texts vary equally, the more so the stricter the level, as for one of
    several pairs. For 6 pairs with 3 runs per side, the error rate was 7% without this factor.
    """
    runs, texts = max(runs - both, 0.0), max(texts - both, 0.0)
    share = runs / (runs + texts) if runs else 0.0
    stricter = max(1.0, math.log(LEVEL / (1 - confidence)) / math.log(6))
    return max(0.2, 1 - (6 if count == 2 else 18 / count * stricter) * share * (1 - share) / of_runs)


def _of_texts(influence: np.ndarray) -> float:
    """Return Ve, the variance of a mean influence."""
    return float(influence.var(ddof=1) / len(influence))


def mean_of(side: Runs, *, confidence: float = 1 - LEVEL) -> Interval:
    """Return the mean score of a setting and its interval over other seeds and texts; for a single run, only over texts."""
    if not np.isfinite(side.scores).all():
        return Interval(estimate=math.nan)
    runs = 0.0 if side.count < 2 else side.run_variance / side.count
    texts = 0.0 if side.influence is None else _of_texts(side.influence)
    both = side.interaction / (side.count * side.examples) if side.examples and side.count > 1 else 0.0
    variance = _total(runs, texts, both)
    if not variance:
        return Interval(estimate=side.mean)
    df = _freedom(variance, runs, texts, both, max(1, side.count - 1), side.examples - 1)
    reach = quantile(confidence, df) * math.sqrt(variance)
    return Interval(estimate=side.mean, low=side.mean - reach, high=side.mean + reach)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A comparison of two settings out of several; p-value and interval are corrected for the number of pairs."""

    a: str
    b: str
    difference: Difference
    p_value: float | None  # Holm's
    low_90: float | None  # 90% interval for this pair alone, as for a test of equivalence at 5%
    high_90: float | None


def pairwise(
    sides: Mapping[str, Runs], pairs: Sequence[tuple[str, str]] | None = None, *, level: float = LEVEL
) -> list[Pair]:
    """Compare settings by name, all pairs or those given.

    p-values are corrected by Holm (1979), intervals by Bonferroni: the familywise error rate of each is at most `level`.
    """
    wanted = list(combinations(sides, 2)) if pairs is None else list(pairs)
    confidence = 1 - level / max(1, len(wanted))
    differences = [difference(sides[a], sides[b], confidence=confidence) for a, b in wanted]
    corrected = iter(holm([pair.p_value for pair in differences if pair.p_value is not None], len(wanted)))
    rows = []
    for (a, b), compared in zip(wanted, differences, strict=True):
        p_value = None if compared.p_value is None else next(corrected)
        narrow = compared.within(1 - 2 * level)
        rows.append(Pair(a=a, b=b, difference=compared, p_value=p_value, low_90=narrow.low, high_90=narrow.high))
    return rows


def holm(p_values: Sequence[float], tests: int | None = None) -> list[float]:
    """Return p-values corrected for the number of `tests`, by default their own number (Holm 1979), in the same order."""
    tests = len(p_values) if tests is None else tests
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (tests - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def welch_anova(sides: Sequence[Runs]) -> float | None:
    """Return the p-value of Welch's (1951) test of equal means over seeds, on these texts; None if some runs do not vary."""
    if len(sides) < 2 or any(side.count < 2 or not side.run_variance > 0 for side in sides):
        return None
    from scipy.stats import f

    counts, means = np.array([s.count for s in sides]), np.array([s.mean for s in sides])
    weights = counts / np.array([s.run_variance for s in sides])
    total, k = weights.sum(), len(sides)
    mean = (weights * means).sum() / total
    spread = (((1 - weights / total) ** 2) / (counts - 1)).sum()
    between = (weights * (means - mean) ** 2).sum() / (k - 1)
    statistic = between / (1 + 2 * (k - 2) * spread / (k**2 - 1))
    return float(f.sf(statistic, k - 1, (k**2 - 1) / (3 * spread)))
