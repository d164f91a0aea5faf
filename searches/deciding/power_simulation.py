"""Simulates searches with known true scores, judged by the functions that judge real ones: the engine of `power`.

The metric is linear, a mean over examples, and all effects are normal. A run's score on an example is the sum of the setting's
true score, a run effect, an effect of the example in that setting, their interaction, and the mean of the outputs' noise. Effects
of an example that all settings share cancel in differences and are left out.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from gpt2core.metrics.comparison import LEVEL, Pair, Runs, holm, quantile, runs_of
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import mean_loss
from searches.deciding.decision import DIFFERENCE, EQUIVALENT, MOST_NEEDED, POWER, Decision, Design, Side, decide

BY_COUNTS = 4000  # scores of all runs on all examples, above which only their moments are drawn
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variance components of a run's score on an example, as standard deviations in units of the metric.

    `run`: between runs of a setting, on all examples alike. `example`: between examples within one setting, so a difference of
    two settings has it twice. `interaction`: of an example in a run. `output`: between outputs of a run for an example; a score
    is the mean of `outputs`. Runs of the first setting vary `ratio` times as much.
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
        """Standard deviation of an example in a run, over interaction and outputs."""
        return math.hypot(self.interaction, self.output / math.sqrt(self.outputs))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A search to simulate repeatedly.

    For each value, `trials` settings are tried once, with true scores of standard deviation `setting`. The best setting of each
    value is judged by fresh runs, on other texts or the `same_texts`. The first value is better by `effect`. All are compared in
    pairs or, with `reference`, each with the last value, which has one setting. `diverged` runs of the first value fail.
    """

    components: Components
    design: Design
    margin: float
    finalists: int = 2  # without the reference
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


#: True scores (k,) of the compared settings, and a function that returns their first n runs.
Drawn = tuple[np.ndarray, Callable[[int], list[Runs]]]
Draw = Callable[[Case, Random], Drawn]


def draw(case: Case, random: Random) -> Drawn:
    """Simulate one search. For many examples, only the sums that `Runs` needs are drawn, from their exact distribution."""
    truths, drift = _selected(case, random)
    parts = case.components
    vectors = case.sides * (1 + len(case.design.looks))
    if case.sides * case.design.most * parts.examples > BY_COUNTS and parts.examples >= 2 * vectors:
        return truths, _by_moments(case, truths + drift, random)
    return truths, _by_counts(case, truths, drift, random)


def _selected(case: Case, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Return true scores (k,) of the settings that scored best, and the effect of the judging texts on each mean."""
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
    """Draw each run on each example, as a real run's counts: the sum of its outputs, and their number."""
    parts = case.components
    of_examples = random.normal(0.0, parts.example, (case.sides, parts.examples))
    of_examples += (drift - of_examples.mean(axis=1))[:, None]
    values = random.normal(0.0, parts.residual, (case.sides, case.design.most, parts.examples))
    values += truths[:, None, None] + _run_effects(case, random)[..., None] + of_examples[:, None]
    counts = np.stack([values * parts.outputs, np.full_like(values, parts.outputs)], axis=-1)
    return lambda runs: [runs_of(side[:runs], mean_loss) for side in counts]


def _by_moments(case: Case, means: np.ndarray, random: Random) -> Callable[[int], list[Runs]]:
    """Draw the moments of the same runs without their examples. The runs between two looks are one block.

    Scores are independent of the examples' residuals, of which only lengths and angles matter. Those of m normal vectors with
    N-1 components are distributed as those of the rows of Bartlett's triangle (1933), which has m columns.
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
    """Draw rows with the lengths and angles of as many standard normal vectors with `freedom` components."""
    triangle = np.tril(random.normal(size=(rows, rows)), -1)
    return np.asarray(triangle + np.diag(np.sqrt(random.chisquare(freedom - np.arange(rows)))))


def _as_examples(row: np.ndarray, examples: int) -> np.ndarray:
    """Return influences (N,) of mean 0 with the row's length and angles: each number at two examples, once negated."""
    influence = np.zeros(examples)
    influence[0 : 2 * len(row) : 2] = row / math.sqrt(2)
    influence[1 : 2 * len(row) : 2] = -row / math.sqrt(2)
    return influence


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates over simulated searches. `student_...`: the same by Student's t-test on run means, at the last look.

    `wrong`: a difference was claimed that is zero or of the other sign. `p_wrong`: the same by p-value alone, as with two runs.
    `right`: the first setting, which is best, was named the winner; `p_right`: it beat the others by p-value. `named`: any
    difference was claimed. `covered`: all intervals held the truth; None without intervals. `equivalent`: equivalence was claimed
    and is true; `unlike`: claimed and false.
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
    unstable: float  # the setting with failed runs was named the winner
    seeds: float  # on average, at the look that ended the search
    student_wrong: float | None
    student_right: float | None
    student_covered: float | None


def simulate(
    case: Case, simulations: int, *, seed: int = 0, draw: Draw = draw, advance: Callable[[], None] = lambda: None
) -> Rates:
    """Simulate searches and return how often their claims are true. `advance` is called after each search."""
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
    """Return the decision of the first look that is complete, else of the last look."""
    failed = [[f"seed {number}" for number in range(case.diverged)], *([[]] * (case.sides - 1))]
    reference = str(case.sides - 1) if case.reference else None
    for look in case.design.looks:
        pairs = enumerate(zip(runs(look), failed, strict=True))
        sides = [Side(name=str(number), runs=own, failed=names) for number, (own, names) in pairs]
        decision = decide(sides, margin=case.margin, direction=Direction.MAX, design=case.design, reference=reference)
        if decision.complete:
            break
    return decision


def _outcome(case: Case, truths: np.ndarray, decision: Decision) -> dict[str, float]:
    pairs = [pair for pair in decision.pairs if pair.p_value is not None]
    true = [float(truths[int(pair.a)] - truths[int(pair.b)]) for pair in pairs]
    claimed = [pair.p_value is not None and pair.p_value < decision.level for pair in pairs]
    false = any(c and pair.difference.estimate * t <= 0 for pair, t, c in zip(pairs, true, claimed, strict=True))
    beats = [c and pair.difference.estimate > 0 for pair, c in zip(pairs, claimed, strict=True) if pair.a == "0"]
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


def _holds(pair: Pair, true: float) -> bool:
    low, high = pair.difference.low, pair.difference.high
    return low is not None and high is not None and low <= true <= high


def _student(case: Case, truths: np.ndarray, scores: np.ndarray, decision: Decision) -> dict[str, float]:
    """Return the outcome of Student's pooled t-test on scores (k, n), with Holm's and Bonferroni's corrections."""
    n, names = scores.shape[1], [(int(pair.a), int(pair.b)) for pair in decision.pairs]
    if n < 2 or not names:
        return {}
    a, b = np.array(names).T
    estimates = scores.mean(axis=1)[a] - scores.mean(axis=1)[b]
    variances = scores.var(axis=1, ddof=1)
    errors = np.sqrt((variances[a] + variances[b]) / n)
    if (errors <= 1e-9 * np.abs(scores).max()).any():  # runs vary only by rounding
        return {}
    p_values = 2 * stdtr(2 * n - 2, -np.abs(estimates / errors))
    claimed = np.array(holm([float(p) for p in p_values])) < LEVEL
    true = truths[a] - truths[b]
    reach = quantile(1 - LEVEL / len(names), 2 * n - 2) * errors
    first = a == 0
    return {
        "student_wrong": bool((claimed & (estimates * true <= 0)).any()),
        "student_right": bool(first.any() and (claimed & (estimates > 0))[first].all()),
        "student_intervals": 1,
        "student_covered": bool((np.abs(estimates - true) <= reach).all()),
    }


def seeds_for_power(power: Callable[[int], float | None]) -> int | None:
    """Return the fewest seeds, at least 2, at which `power` reaches POWER; None if that takes more than MOST_NEEDED.

    By bisection, so the result is some seeds off where simulated power is noisy.
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
    """Estimate variance components from each setting's recorded runs, pooled; return them and how many settings have >= 2 runs.

    A run's outputs are summed, so their noise is in the interaction. Each variance is its mean square less those below it, at
    least 0; that of examples needs two settings. Raises ValueError if no setting has two runs.
    """
    repeated = [side for side in sides if side.count > 1]
    if not repeated:
        raise ValueError("No setting has two runs")
    freedom = np.array([side.count - 1 for side in repeated], dtype=np.float64)
    examples = repeated[0].examples
    interaction = float(np.average([side.interaction for side in repeated], weights=freedom))
    run = float(np.average([side.run_variance for side in repeated], weights=freedom))
    run -= interaction / examples if examples else 0.0
    example = 0.0
    influences = [side.influence for side in sides if side.influence is not None and side.examples == examples]
    if len(influences) > 1:
        each = np.stack(influences)
        square = float(((each - each.mean(axis=0)) ** 2).sum() / ((len(each) - 1) * (examples - 1)))
        example = square - interaction * float(np.mean([1 / side.count for side in sides]))
    roots = [math.sqrt(max(0.0, variance)) for variance in (run, example, interaction)]
    estimated = Components(run=roots[0], example=roots[1], interaction=roots[2], examples=max(1, examples))
    return estimated, len(repeated)
