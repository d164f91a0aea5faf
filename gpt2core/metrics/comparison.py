"""Do two settings differ? The training run is the unit; what is claimed holds for other seeds and other texts alike.

Runs of one setting differ by chance (initialisation, order, dropout, sampling), and so do the texts that they are scored on.
Both parts are estimated and added: the variance of run scores, the variance over examples of the difference in influence, less
their interaction, which both contain. Small samples are honest: Student's t with the degrees of freedom of Satterthwaite (1946).

Legend of shapes: `n` runs of one setting, `N` examples that all runs are scored on, `S` counts of an example.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.special import stdtr, stdtrit

#: Summed counts (..., S) -> scores (...).
Score = Callable[[np.ndarray], np.ndarray]

LEVEL = 0.05  # a difference whose p is above this is not called one
MIXED = 0.6
LEAST = 3  # runs on each side below which nobody is named the better

ONE_RUN = "with one run each, nothing can be said of chance"
NOTHING_VARIES = "neither runs nor examples vary, so there is no chance to measure the difference by"
NOT_FINITE = "a score is not a finite number"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of one setting: their scores, and what each example adds to the mean of these.

    `influence` holds jackknife pseudo-values less the score, as a mean over the runs; `interaction` is the variance of what is
    left when effects of runs and of examples are taken off. A metric that is no sum over examples has neither: then only runs
    vary, and what is found holds for these texts.
    """

    scores: np.ndarray  # (n,)
    influence: np.ndarray | None = None  # (N,)
    interaction: float = 0.0

    @property
    def count(self) -> int:
        """How many runs."""
        return len(self.scores)

    @property
    def examples(self) -> int:
        """How many examples vary; 0 where what is found holds for these texts alone."""
        return 0 if self.influence is None else len(self.influence)

    @property
    def mean(self) -> float:
        """The mean score."""
        return float(self.scores.mean())

    @property
    def run_variance(self) -> float:
        """The variance of one run's score; nan for fewer than two."""
        return float(self.scores.var(ddof=1)) if self.count > 1 else math.nan


def runs_of(counts: np.ndarray, score: Score) -> Runs:
    """Return the runs of one setting from their counts (n, N, S), those of all outputs of a run summed.

    The influence of an example is that of the jackknife: (N - 1) times what the score loses without it (Efron & Stein 1981).
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
    """Setting a minus setting b. `p_value` and the interval are None where nothing can be said of chance: `reason` says why.

    `runs` and `texts` are the parts of the variance of the difference that runs and examples have, `both` their interaction,
    which is in both of them; `examples` is how many there are.
    """

    estimate: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    df: float | None = None
    se: float | None = None
    runs: float = 0.0
    texts: float = 0.0
    both: float = 0.0
    examples: int = 0
    reason: str = ""

    def within(self, confidence: float) -> "Difference":
        """The same difference with an interval of another confidence, such as 0.9."""
        if self.se is None or self.df is None:
            return self
        reach = quantile(confidence, self.df) * self.se
        return replace(self, low=self.estimate - reach, high=self.estimate + reach)

    def with_seeds(self, seeds: int, more: int) -> "Difference":
        """The same as `more` runs a side would find it in place of `seeds`, if estimate and variances stayed as they are.

        What runs have and the interaction shrink as 1 / n; what examples alone have stays.
        """
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
    """How many standard errors an interval reaches to each side, by Student's t."""
    return float(stdtrit(df, 0.5 + confidence / 2))


def difference(a: Runs, b: Runs, *, confidence: float = 1 - LEVEL) -> Difference:
    """Compare two settings that were scored on the same examples, in the same order.

    With a and b on n runs each and N examples: Vs = (s_a^2 + s_b^2) / n over run scores; Ve = the variance over examples of the
    difference in influence, / N; Vse = the interaction of both sides, / (n N). The variance of the difference is
    V = max(Vs + Ve - Vse, Vs, Ve); its degrees of freedom are as `_freedom` says. Raises ValueError for unlike examples.
    """
    if a.examples != b.examples:
        raise ValueError(f"There are {a.examples} and {b.examples} examples, but a comparison needs the same ones")
    estimate = a.mean - b.mean
    if not (np.isfinite(a.scores).all() and np.isfinite(b.scores).all()):
        return Difference(estimate=math.nan, reason=NOT_FINITE)
    if min(a.count, b.count) < 2:
        return Difference(estimate=estimate, reason=ONE_RUN)
    runs, freedom = _of_runs(a, b)
    texts = _of_texts(a, b)
    both = a.interaction / (a.count * a.examples) + b.interaction / (b.count * b.examples) if a.examples else 0.0
    variance = _total(runs, texts, both)
    if not variance > (1e-12 * max(abs(a.mean), abs(b.mean))) ** 2:
        return Difference(estimate=estimate, reason=NOTHING_VARIES)
    df, se = _freedom(variance, runs, texts, both, freedom, a.examples - 1), math.sqrt(variance)
    df *= _fewer(runs, texts, both, min(a.count, b.count), freedom, confidence)
    p = float(2 * stdtr(df, -abs(estimate) / se))
    known = Difference(estimate=estimate, p_value=p, df=df, se=se)
    return replace(known, runs=runs, texts=texts, both=both, examples=a.examples).within(confidence)


def _of_runs(a: Runs, b: Runs) -> tuple[float, float]:
    """Vs, and its degrees of freedom: Welch's (1947, with n + 1 and -2, which is unbiased for few runs; here -1.75, else 3 runs a
    side would lose a quarter of the power), kept between the fewest runs less one and all less two. Of two runs a side, variances
    cannot be told apart and are taken as equal."""
    parts = [side.run_variance / side.count for side in (a, b)]
    most, fewest = a.count + b.count - 2, min(a.count, b.count)
    total = sum(parts)
    if fewest == 2 or not total:
        return total, float(most)
    welch = total**2 / sum(part**2 / (side.count + 1) for part, side in zip(parts, (a, b), strict=True)) - 1.75
    return total, float(min(max(welch, fewest - 1), most))


def _total(runs: float, texts: float, both: float) -> float:
    """V: both parts, less the interaction, which is in both; never less than either, as it is estimated too."""
    return max(runs + texts - both, runs, texts)


def _freedom(variance: float, runs: float, texts: float, both: float, of_runs: float, of_texts: float) -> float:
    """Satterthwaite's degrees of freedom V^2 / sum(V_i^2 / df_i), in two ways whose sums are averaged.

    The interaction is in Vs and in Ve. Left in both, it counts as if few runs had measured it, and intervals are too wide where
    there is nothing else; taken off, as if it were known, and they are too narrow where runs vary more. MIXED of the first way
    keeps errors between 1% and 7% whatever varies: `python -m tests.benchmarks.verdict` measures that.
    """
    left_in = runs**2 / of_runs + (texts**2 / of_texts if texts else 0.0)
    taken_off = max(runs - both, 0.0) ** 2 / of_runs
    if texts:
        taken_off += max(texts - both, 0.0) ** 2 / of_texts + both**2 / (of_runs * of_texts)
    return variance**2 / (MIXED * left_in + (1 - MIXED) * taken_off)


def _fewer(runs: float, texts: float, both: float, count: int, of_runs: float, confidence: float) -> float:
    """By what the degrees of freedom are fewer: Satterthwaite's err where few runs and many texts vary alike, the more the
    stricter the level, as it is for one of several pairs. With 6 pairs of 3 runs a side, 7% were wrong without it."""
    runs, texts = max(runs - both, 0.0), max(texts - both, 0.0)
    share = runs / (runs + texts) if runs else 0.0
    stricter = max(1.0, math.log(LEVEL / (1 - confidence)) / math.log(6))
    return max(0.2, 1 - (6 if count == 2 else 18 / count * stricter) * share * (1 - share) / of_runs)


def _of_texts(a: Runs, b: Runs) -> float:
    """Ve."""
    if a.influence is None or b.influence is None:
        return 0.0
    return float((a.influence - b.influence).var(ddof=1) / a.examples)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean score of a setting and its interval: over other seeds and other texts; of one run, over other texts alone."""

    estimate: float
    low: float | None = None
    high: float | None = None


def mean_of(side: Runs, *, confidence: float = 1 - LEVEL) -> Mean:
    """The mean of a setting with its interval, by the same parts as `difference`."""
    if not np.isfinite(side.scores).all():
        return Mean(estimate=math.nan)
    runs = 0.0 if side.count < 2 else side.run_variance / side.count
    texts = 0.0 if side.influence is None else float(side.influence.var(ddof=1) / side.examples)
    both = side.interaction / (side.count * side.examples) if side.examples and side.count > 1 else 0.0
    variance = _total(runs, texts, both)
    if not variance:
        return Mean(estimate=side.mean)
    df = _freedom(variance, runs, texts, both, max(1, side.count - 1), side.examples - 1)
    reach = quantile(confidence, df) * math.sqrt(variance)
    return Mean(estimate=side.mean, low=side.mean - reach, high=side.mean + reach)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two settings of several, compared: `p_value` is corrected for how many pairs there are, and so is the interval."""

    a: str
    b: str
    difference: Difference
    p_value: float | None  # Holm's
    low_90: float | None  # of 90%, for this pair alone: what a test of equivalence at 5% needs
    high_90: float | None


def pairwise(
    sides: Mapping[str, Runs], pairs: Sequence[tuple[str, str]] | None = None, *, level: float = LEVEL
) -> list[Pair]:
    """Compare settings by name, all pairs or those given.

    p-values are Holm's (1979), intervals Bonferroni's: each family of statements is wrong somewhere in at most `level` of cases.
    """
    wanted = list(combinations(sides, 2)) if pairs is None else list(pairs)
    confidence = 1 - level / max(1, len(wanted))
    differences = [difference(sides[a], sides[b], confidence=confidence) for a, b in wanted]
    known = [place for place, one in enumerate(differences) if one.p_value is not None]
    corrected: dict[int, float] = dict(
        zip(known, holm([one.p_value for one in differences if one.p_value is not None], len(wanted)), strict=True)
    )
    rows = []
    for place, ((a, b), one) in enumerate(zip(wanted, differences, strict=True)):
        narrow = one.within(1 - 2 * level)
        rows.append(
            Pair(a=a, b=b, difference=one, p_value=corrected.get(place), low_90=narrow.low, high_90=narrow.high)
        )
    return rows


def holm(p_values: Sequence[float], tests: int | None = None) -> list[float]:
    """p-values corrected for the number of `tests` (default: theirs), in their own order (Holm 1979)."""
    tests = len(p_values) if tests is None else tests
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (tests - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def welch_anova(sides: Sequence[Runs]) -> float | None:
    """p of no difference among the run means of several settings on these texts (Welch 1951); None where it has none.

    It looks at runs alone: what it finds holds for other seeds, and not yet for other texts.
    """
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
