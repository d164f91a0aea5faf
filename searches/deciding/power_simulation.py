"""Simulated searches, whose true scores are known, judged by the very functions that judge real ones.

The metric is linear here, a mean over examples, and everything is normal. On one example, a run scores the sum of the true score
of its setting, an effect of the run, one of the example in that setting, one of the example in that run, and the mean of some
outputs. What an example does to all settings alike is in no difference between them, and is left out.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.comparison import LEVEL, Pair, Runs, holm, quantile, runs_of
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import mean_loss
from searches.deciding.decision import (
    DIFFERENCE,
    EQUIVALENT,
    MOST_NEEDED,
    POWER,
    Decision,
    Design,
    Side,
    decide,
)

BY_COUNTS = 4000  # numbers, of all runs on all examples, above which their moments are drawn in their place
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Components:
    """Standard deviations, in units of the metric, of what a run scores on an example.

    `run`: between runs of a setting, the same on all examples. `example`: between examples, of the effect that an example has
    in one setting and not in the others; a difference of two settings has it twice. `interaction`: of one example in one run.
    `output`: between outputs of one run for one example, of which a score is the mean of `outputs`. Runs of the first setting
    vary `ratio` times as much as the others'.
    """

    run: float = 0.0
    example: float = 0.0
    interaction: float = 0.0
    output: float = 0.0
    examples: int = 100
    outputs: int = 1
    ratio: float = 1.0

    @property
    def residual(self) -> float:
        """Of one example in one run, outputs and all."""
        return math.hypot(self.interaction, self.output / math.sqrt(self.outputs))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A search that is simulated again and again.

    Of each of some settings' values, `trials` settings are tried, once each, whose true scores differ by `setting` (a standard
    deviation); the best of each value is judged by fresh runs, on other texts or on the `same_texts`. The first value is better
    by `effect`. All are compared in pairs, or each with the last, the `reference`, of which there is one setting alone.
    `diverged` of the runs of the first fail.
    """

    components: Components
    design: Design
    margin: float
    finalists: int = 2  # the reference is not one of them
    reference: bool = False
    effect: float = 0.0
    trials: int = 1
    setting: float = 0.0
    same_texts: bool = False
    diverged: int = 0

    @property
    def sides(self) -> int:
        """How many settings are compared."""
        return self.finalists + self.reference


#: The truths (k,) of the settings that are compared, and their first n runs.
Drawn = tuple[np.ndarray, Callable[[int], list[Runs]]]
Draw = Callable[[Case, Random], Drawn]


def draw(case: Case, random: Random) -> Drawn:
    """Search and run once. Many examples are not drawn one by one: only what `Runs` holds of them, just as it is distributed."""
    truths, drift = _selected(case, random)
    parts = case.components
    vectors = case.sides * (1 + len(case.design.looks))
    if case.sides * case.design.most * parts.examples > BY_COUNTS and parts.examples >= 2 * vectors:
        return truths, _by_moments(case, truths + drift, random)
    return truths, _by_counts(case, truths, drift, random)


def _selected(case: Case, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """True scores (k,) of the settings that scored best, and what the texts that judge them add to the mean of each."""
    parts, shape = case.components, (case.sides, case.trials)
    by_texts = parts.example / math.sqrt(parts.examples)
    truths = random.normal(0.0, case.setting, shape)
    truths[0] += case.effect
    drift = random.normal(0.0, by_texts, shape)
    chance = math.hypot(parts.run, parts.residual / math.sqrt(parts.examples))
    scores = truths + drift + random.normal(0.0, chance, shape)
    if case.reference:
        truths[-1, 0], scores[-1, 1:] = 0.0, -math.inf
    best = scores.argmax(axis=1)
    rows = np.arange(case.sides)
    return truths[rows, best], drift[rows, best] if case.same_texts else random.normal(0.0, by_texts, case.sides)


def _run_effects(case: Case, random: Random) -> np.ndarray:
    effects = random.normal(0.0, case.components.run, (case.sides, case.design.most))
    effects[0] *= case.components.ratio
    return effects


def _by_counts(case: Case, truths: np.ndarray, drift: np.ndarray, random: Random) -> Callable[[int], list[Runs]]:
    """Every run on every example, as the counts that a real run has: what its outputs add up to, and how many they are."""
    parts = case.components
    of_examples = random.normal(0.0, parts.example, (case.sides, parts.examples))
    of_examples += (drift - of_examples.mean(axis=1))[:, None]
    values = random.normal(0.0, parts.residual, (case.sides, case.design.most, parts.examples))
    values += truths[:, None, None] + _run_effects(case, random)[..., None] + of_examples[:, None]
    counts = np.stack([values * parts.outputs, np.full_like(values, parts.outputs)], axis=-1)
    return lambda runs: [runs_of(side[:runs], mean_loss) for side in counts]


def _by_moments(case: Case, means: np.ndarray, random: Random) -> Callable[[int], list[Runs]]:
    """The same without its examples. Runs between two looks are one block.

    Scores do not depend on how examples vary around them. Of that only lengths and angles are seen: those of `m` normal vectors
    of N - 1 numbers are the same as those of the rows of Bartlett's triangle (1933), which has m columns.
    """
    parts, looks = case.components, case.design.looks
    sizes = np.diff([0, *looks])
    freedom = parts.examples - 1
    scores = means[:, None] + _run_effects(case, random)
    scores += random.normal(0.0, parts.residual / math.sqrt(parts.examples), scores.shape)
    triangle = _bartlett(case.sides * (1 + len(looks)), freedom, random)
    of_examples = triangle[: case.sides] * parts.example
    blocks = triangle[case.sides :].reshape(case.sides, len(looks), -1)
    blocks = blocks * (parts.residual / np.sqrt(sizes))[:, None]
    within = parts.residual**2 * random.chisquare(np.maximum((sizes - 1) * freedom, 1), (case.sides, len(looks)))
    within *= sizes > 1

    def side(number: int, runs: int) -> Runs:
        seen = looks.index(runs) + 1
        means, weights = blocks[number, :seen], sizes[:seen]
        mean = weights @ means / runs
        squares = within[number, :seen].sum() + float(weights @ ((means - mean) ** 2).sum(axis=1))
        return Runs(
            scores=scores[number, :runs],
            influence=_as_examples(of_examples[number] + mean, parts.examples),
            interaction=squares / ((runs - 1) * freedom) if runs > 1 else 0.0,
        )

    return lambda runs: [side(number, runs) for number in range(case.sides)]


def _bartlett(rows: int, freedom: int, random: Random) -> np.ndarray:
    """Rows with the lengths and angles of as many standard normal vectors of `freedom` numbers."""
    triangle = np.tril(random.normal(size=(rows, rows)), -1)
    return np.asarray(triangle + np.diag(np.sqrt(random.chisquare(freedom - np.arange(rows)))))


def _as_examples(row: np.ndarray, examples: int) -> np.ndarray:
    """Influences (N,) of mean 0 with the lengths and angles of such rows: each number is on two examples, once with a minus."""
    influence = np.zeros(examples)
    influence[0 : 2 * len(row) : 2] = row / math.sqrt(2)
    influence[1 : 2 * len(row) : 2] = -row / math.sqrt(2)
    return influence


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of simulated searches, in some of which nothing differed. `student` is Student's t-test on run means, at the end.

    `wrong`: a difference was found that is none, or is the other way round. `p_wrong`: the same by p alone, which two runs have
    too. `right`: the first setting, which is better, was named the winner; `p_right`: it beat the others by p. `named`: any
    difference was found, be it of the chosen settings alone. `covered`: all intervals held the truth. None: there were none.
    `equivalent`: no difference beyond the margin was found where there is none; `unlike`: where there is one.
    """

    simulations: int
    wrong: float
    p_wrong: float
    right: float
    p_right: float
    named: float
    covered: float | None
    equivalent: float
    unlike: float
    unstable: float  # the setting whose runs failed was named the winner
    seeds: float  # on average, by the look that ended the search
    student_wrong: float | None
    student_right: float | None
    student_covered: float | None


def simulate(
    case: Case,
    simulations: int,
    *,
    seed: int = 0,
    draw: Draw = draw,
    advance: Callable[[], None] = lambda: None,
) -> Rates:
    """Simulate searches and count how often what they say is true. `advance` is called after each."""
    random, total = np.random.default_rng(seed), Counter[str]()
    for _ in range(simulations):
        truths, runs = draw(case, random)
        decision = judge(case, runs)
        total.update(_outcome(case, truths, decision))
        total.update(_student(case, truths, np.stack([side.scores for side in runs(case.design.most)]), decision))
        advance()
    rates: dict[str, float | None] = {name: total[name] / simulations for name in Rates.__dataclass_fields__}
    for name in ("covered", "student_covered", "student_wrong", "student_right"):
        of = total["intervals" if name == "covered" else "student_intervals"]
        rates[name] = total[name] / of if of else None
    return Rates(**{**rates, "simulations": simulations})  # type: ignore[arg-type]


def judge(case: Case, runs: Callable[[int], list[Runs]]) -> Decision:
    """What a search says: at the first look that decides, else at the last."""
    for look in case.design.looks:
        failed = [[f"seed {number}" for number in range(case.diverged)], *([[]] * (case.sides - 1))]
        sides = [
            Side(name=str(number), runs=found, failed=names)
            for number, (found, names) in enumerate(zip(runs(look), failed, strict=True))
        ]
        decision = decide(
            sides,
            margin=case.margin,
            direction=Direction.MAX,
            design=case.design,
            reference=str(case.sides - 1) if case.reference else None,
        )
        if decision.complete:
            break
    return decision


def _outcome(case: Case, truths: np.ndarray, decision: Decision) -> dict[str, float]:
    pairs = [pair for pair in decision.pairs if pair.p_value is not None]
    true = [_true(pair, truths) for pair in pairs]
    found = [pair.p_value is not None and pair.p_value < decision.level for pair in pairs]
    false = any(s and pair.difference.estimate * t <= 0 for pair, t, s in zip(pairs, true, found, strict=True))
    beats = [s and pair.difference.estimate > 0 for pair, s in zip(pairs, found, strict=True) if pair.a == "0"]
    alike = all(abs(difference) < case.margin for difference in true)
    return {
        "wrong": false and decision.outcome == DIFFERENCE,
        "p_wrong": false,
        "right": decision.winner == "0" and bool(truths[0] > truths[1:].max()),
        "p_right": bool(beats) and all(beats),
        "named": decision.outcome == DIFFERENCE,
        "intervals": bool(pairs),
        "covered": bool(pairs) and all(_holds(pair, t) for pair, t in zip(pairs, true, strict=True)),
        "equivalent": decision.outcome == EQUIVALENT and alike,
        "unlike": decision.outcome == EQUIVALENT and not alike,
        "unstable": decision.winner in decision.unstable,
        "seeds": decision.seeds,
    }


def _true(pair: Pair, truths: np.ndarray) -> float:
    return float(truths[int(pair.a)] - truths[int(pair.b)])


def _holds(pair: Pair, true: float) -> bool:
    low, high = pair.difference.low, pair.difference.high
    return low is not None and high is not None and low <= true <= high


def _student(case: Case, truths: np.ndarray, scores: np.ndarray, decision: Decision) -> dict[str, float]:
    """The same of Student's t-test with one variance, on the means of all runs (k, n), with Holm and Bonferroni too."""
    n, names = scores.shape[1], [(int(pair.a), int(pair.b)) for pair in decision.pairs]
    if n < 2 or not names:
        return {}
    a, b = np.array(names).T
    estimates = scores.mean(axis=1)[a] - scores.mean(axis=1)[b]
    variances = scores.var(axis=1, ddof=1)
    errors = np.sqrt((variances[a] + variances[b]) / n)
    if (errors <= 1e-9 * np.abs(scores).max()).any():  # runs do not vary but by rounding
        return {}
    found = np.array(holm(_two_sided(estimates / errors, 2 * n - 2))) < LEVEL
    true = truths[a] - truths[b]
    reach = quantile(1 - LEVEL / len(names), 2 * n - 2) * errors
    first = a == 0
    return {
        "student_wrong": bool((found & (estimates * true <= 0)).any()),
        "student_right": bool(first.any() and (found & (estimates > 0))[first].all()),
        "student_intervals": 1,
        "student_covered": bool((np.abs(estimates - true) <= reach).all()),
    }


def _two_sided(t: np.ndarray, df: int) -> list[float]:
    from scipy.special import stdtr

    return [float(p) for p in 2 * stdtr(df, -np.abs(t))]


def seeds_for_power(power: Callable[[int], float | None]) -> int | None:
    """The fewest seeds, from 2 on, with which `power` is POWER; None for more than MOST_NEEDED.

    Found by halves: where power is simulated and grows slowly, it errs by some seeds.
    """

    def enough(seeds: int) -> bool:
        return (power(seeds) or 0.0) >= POWER

    tried = [2]
    while not enough(tried[-1]):
        if tried[-1] == MOST_NEEDED:
            return None
        tried.append(min(2 * tried[-1], MOST_NEEDED))
    least, most = [1, *tried][-2:]
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def components(sides: Sequence[Runs]) -> tuple[Components, int]:
    """Components by which recorded runs differ, pooled over settings, and how many settings have two runs or more.

    `sides` are the runs of each setting; as the outputs of a run are summed, what these add is in the interaction. Each variance
    is what its mean square has beyond those below it, or 0; that of examples needs two settings. Raises ValueError where no
    setting has two runs.
    """
    repeated = [side for side in sides if side.count > 1]
    if not repeated:
        raise ValueError("No setting has two runs")
    freedom = np.array([side.count - 1 for side in repeated], dtype=np.float64)
    examples = repeated[0].examples
    interaction = float(np.average([side.interaction for side in repeated], weights=freedom))
    of_runs = float(np.average([side.run_variance for side in repeated], weights=freedom))
    run = of_runs - interaction / examples if examples else of_runs
    example = 0.0
    influences = [side.influence for side in sides if side.influence is not None and side.examples == examples]
    if len(influences) > 1:
        each = np.stack(influences)
        square = float(((each - each.mean(axis=0)) ** 2).sum() / ((len(each) - 1) * (examples - 1)))
        example = square - interaction * float(np.mean([1 / side.count for side in sides]))
    roots = [math.sqrt(max(0.0, variance)) for variance in (run, example, interaction)]
    found = Components(run=roots[0], example=roots[1], interaction=roots[2], examples=max(1, examples))
    return found, len(repeated)
