"""From runs to a decision: do settings differ, by how much at least, or by no more than matters? No search, no words: only runs.

`python -m searches power` calls these very functions on simulated runs, so what it measures is what a search does.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from gpt2core.metrics.comparison import LEAST, LEVEL, Difference, Pair, Runs, pairwise, quantile, welch_anova
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.sequential import level_at, schedule

DIFFERENCE: Final = "difference"
EQUIVALENT: Final = "equivalent"
UNDECIDED: Final = "undecided"
Outcome = Literal["difference", "equivalent", "undecided"]
MOST_NEEDED = 200  # runs; what would take more is not said in numbers
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Design:
    """When finalists are compared: after so many fresh seeds each. It is fixed before the first look, whatever resumes."""

    looks: tuple[int, ...]

    @classmethod
    def fixed(cls, seeds: int) -> "Design":
        """One look, after so many seeds."""
        return cls(looks=(seeds,))

    @classmethod
    def until_decided(cls, most: int) -> "Design":
        """A look after LEAST seeds and after each further one, `most` at most: at stricter levels, which add up to LEVEL."""
        return cls(looks=schedule(min(LEAST, most), most))

    @property
    def most(self) -> int:
        """The seeds of the last look."""
        return self.looks[-1]

    def level(self, seeds: int) -> float:
        """The level of the last look by so many seeds; LEVEL where a search ended before the first: nobody has looked yet."""
        return level_at(seeds, self.looks, LEVEL) or LEVEL


@dataclass(frozen=True, kw_only=True)
class Side:
    """One setting that is compared: its runs that ended well, and the names of those that failed or diverged."""

    name: str
    runs: Runs | None = None
    failed: Sequence[str] = ()

    @property
    def stable(self) -> bool:
        """Whether it may win: all of its runs ended well."""
        return self.runs is not None and not self.failed


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the runs say. `best` are the names that no other side beats, the best mean first; `winner` beats all others.

    `excluded` is the largest difference that the simultaneous intervals leave possible. `p_value` is that of no difference at
    all: the least of the corrected ones. `complete`: further seeds need not be run, for there is a winner, or what nobody beats
    is alike.
    """

    outcome: Outcome
    complete: bool = False
    seeds: int
    level: float
    pairs: Sequence[Pair] = ()
    winner: str | None = None
    best: Sequence[str] = ()
    p_value: float | None = None
    anova: float | None = None
    excluded: float | None = None
    needed: int | None = None  # seeds that would decide, if all stays as it is
    needs_texts: bool = False  # whether no number of seeds would, for the texts are too few
    reason: str = ""
    unstable: Sequence[str] = field(default_factory=tuple)


def decide(
    sides: Sequence[Side],
    *,
    margin: float,
    direction: Direction,
    design: Design,
    reference: str | None = None,
) -> Decision:
    """Decide between sides, all pairs of them, or each against the `reference` by name.

    Rules: a side with a failed run is unstable, is compared with nobody and cannot win. One run a side: no p, no interval. Two:
    both for a single pair, and nobody wins. Sides are equivalent where two one-sided tests (Lakens 2017) keep every difference
    within `margin`, a sure one too: settings that were tuned with few trials differ by the luck of that. Any other difference
    counts at the level of the design's last look.
    """
    stable = {side.name: side.runs for side in sides if side.stable and side.runs is not None}
    unstable = tuple(side.name for side in sides if not side.stable)
    seeds = min((runs.count for runs in stable.values()), default=0)
    level = design.level(seeds)
    if reference is not None and reference not in stable:
        pairs: list[Pair] = []
    else:
        wanted = None if reference is None else [(name, reference) for name in stable if name != reference]
        pairs = pairwise(stable, wanted, level=level)
    if 1 < seeds < design.looks[0]:  # else looking before the plan allows it would cost nothing
        early = f"the comparison is planned for {design.looks[0]} seeds each, and {seeds} are there"
        pairs = [_without_p(pair, early) for pair in pairs]
    elif seeds < LEAST and len(pairs) > 1:  # the tails of two runs are not known well enough for several pairs
        pairs = [_without_p(pair, f"{LEAST} runs each are needed to compare several settings") for pair in pairs]
    decision = Decision(outcome=UNDECIDED, seeds=seeds, level=level, pairs=pairs, unstable=unstable)
    if not pairs:
        lost = f"{reference} failed" if reference in unstable else "there are no two settings whose runs all ended well"
        return replace(decision, reason=lost)
    tested = [pair for pair in pairs if pair.p_value is not None]
    order = direction.ranked(stable, key=lambda name: stable[name].mean)
    if not tested:
        return replace(decision, reason=pairs[0].difference.reason, best=order)
    p_value = min(pair.p_value for pair in tested if pair.p_value is not None)
    bounds = [abs(end) for pair in tested for end in (pair.difference.low, pair.difference.high) if end is not None]
    decision = replace(
        decision,
        p_value=p_value,
        anova=welch_anova(list(stable.values())),
        excluded=max(bounds),
        best=_unbeaten(order, tested, level, direction),
    )
    if seeds < LEAST:
        return replace(decision, reason=f"{LEAST} runs each are needed to name a winner")
    winner = _winner(order, pairs, level, direction, reference)
    if all(_within(pair, margin) for pair in pairs):
        if unstable:
            reason = f"{', '.join(unstable)} could not be judged"
            return replace(decision, winner=winner, complete=True, reason=reason)
        return replace(decision, outcome=EQUIVALENT, winner=winner, complete=True)
    if p_value < level:
        left = [pair for pair in tested if {pair.a, pair.b} <= set(decision.best)]
        complete = winner is not None or (bool(left) and all(_within(pair, margin) for pair in left))
        return replace(decision, outcome=DIFFERENCE, winner=winner, complete=complete)
    needed, texts = seeds_needed(tested, seeds, margin, level)
    return replace(decision, needed=needed, needs_texts=texts)


def _without_p(pair: Pair, reason: str) -> Pair:
    """A pair whose difference alone is told; why it is not more stands with it."""
    one = pair.difference
    alone = replace(one, low=None, high=None, p_value=None, reason=one.reason or reason)
    return replace(pair, difference=alone, p_value=None, low_90=None, high_90=None)


def _within(pair: Pair, margin: float) -> bool:
    """Whether a difference is surely within the margin: its interval of 90% (of less, at an early look) is. Two sides of which
    nothing varies are where they are the same."""
    low, high = pair.low_90, pair.high_90
    if pair.p_value is None:
        return pair.difference.estimate == 0
    return low is not None and high is not None and -margin < low and high < margin


def _beaten(pairs: Sequence[Pair], level: float, direction: Direction) -> dict[str, set[str]]:
    """By whom each side is surely beaten."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.p_value is not None and pair.p_value < level:
            better = direction.better(pair.difference.estimate, 0.0)
            winner, loser = (pair.a, pair.b) if better else (pair.b, pair.a)
            found.setdefault(loser, set()).add(winner)
    return found


def _unbeaten(order: Sequence[str], pairs: Sequence[Pair], level: float, direction: Direction) -> list[str]:
    beaten = _beaten(pairs, level, direction)
    return [name for name in order if name not in beaten]


def _winner(
    order: Sequence[str], pairs: Sequence[Pair], level: float, direction: Direction, reference: str | None
) -> str | None:
    """The best side by its mean, where it surely beats whatever it was compared with; beside a reference, the best of those that
    surely beat it."""
    beaten = _beaten(pairs, level, direction)
    sure = [name for name in order if name in beaten.get(reference or "", ())]
    best = sure[0] if sure else order[0]
    against = [pair.b if pair.a == best else pair.a for pair in pairs if best in (pair.a, pair.b)]
    return best if against and all(best in beaten.get(name, ()) for name in against) else None


def seeds_needed(pairs: Sequence[Pair], seeds: int, margin: float, level: float) -> tuple[int | None, bool]:
    """How many seeds a side would decide, if estimates and variances stayed as they are; and whether too few texts forbid it.

    They are what half of such searches would be decided by: the estimate is as likely to be nearer to 0 as farther.
    """
    confidence = 1 - level / max(1, len(pairs))

    def decided(n: int) -> bool:
        more = [pair.difference.with_seeds(seeds, n) for pair in pairs]
        differs = any(abs(one.estimate) > _reach(one, confidence) for one in more)
        return differs or all(abs(one.estimate) + _reach(one, 1 - 2 * level) < margin for one in more)

    if not decided(MOST_NEEDED):
        return None, not decided(10**6)
    return bisect_left(range(MOST_NEEDED), True, lo=seeds + 1, key=decided), False


def _reach(one: Difference, confidence: float) -> float:
    return math.inf if one.df is None or one.se is None else quantile(confidence, one.df) * one.se


def detectable(run_sd: float, seeds: int, *, level: float = LEVEL, power: float = POWER, pairs: int = 1) -> float:
    """The difference that `seeds` runs a side see in `power` of cases, where runs alone vary with `run_sd`.

    From the noncentral t of 2 n - 2 degrees of freedom; infinite for fewer than two runs.
    """
    if seeds < 2:
        return math.inf
    from scipy.optimize import brentq
    from scipy.stats import nct

    df, unit = 2 * seeds - 2, math.sqrt(2 / seeds)
    critical = quantile(1 - level / pairs, df)
    shift = brentq(lambda value: float(nct.sf(critical, df, value)) - power, 0.0, critical + 20.0)
    return float(shift) * unit * run_sd


def runs_by_name(sides: Sequence[Side]) -> Mapping[str, Runs]:
    """The runs of the sides that have some."""
    return {side.name: side.runs for side in sides if side.runs is not None}
