"""The decision from runs alone: settings differ, are equivalent within the margin, or neither is shown.

`gpt2-search power` calls these functions on simulated runs, so it measures the error rates of real searches.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from gpt2core.metrics.comparison import LEAST, LEVEL, Difference, Pair, Runs, pairwise, quantile, welch_anova
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.sequential import level_at, schedule

DIFFERENCE: Final = "difference"
EQUIVALENT: Final = "equivalent"
UNDECIDED: Final = "undecided"
Outcome = Literal["difference", "equivalent", "undecided"]
MOST_NEEDED = 200  # runs; no larger number of seeds is reported as needed
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Design:
    """The looks at which finalists are compared, in fresh seeds each. Fixed before the first look, and kept on resume."""

    looks: tuple[int, ...]

    @classmethod
    def fixed(cls, seeds: int) -> "Design":
        """Return the design with one look, after `seeds` seeds."""
        return cls(looks=(seeds,))

    @classmethod
    def until_decided(cls, most: int) -> "Design":
        """Return the group-sequential design that looks after LEAST, ... `most` seeds, at levels that add up to LEVEL."""
        return cls(looks=schedule(min(LEAST, most), most))

    @property
    def most(self) -> int:
        """The seeds of the last look."""
        return self.looks[-1]

    def level(self, seeds: int) -> float:
        """Return the level of the last look at or before `seeds`; LEVEL before the first look."""
        return level_at(seeds, self.looks, LEVEL) or LEVEL


@dataclass(frozen=True, kw_only=True)
class Side:
    """A compared setting: its runs that ended well, and the names of those that failed or diverged."""

    name: str
    runs: Runs | None = None
    failed: Sequence[str] = ()

    @property
    def stable(self) -> bool:
        """Whether all of its runs ended well, so that it may win."""
        return self.runs is not None and not self.failed


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The result of a comparison. `best` are the settings that no other one beats, best mean first; `winner` beats all others.

    `excluded` is the largest difference inside the simultaneous intervals. `p_value` is the smallest corrected one, so it tests
    that no settings differ. `complete`: no further seeds are needed, since there is a winner or the unbeaten are equivalent.
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
    needed: int | None = None  # seeds that would decide if the estimates hold
    needs_texts: bool = False  # whether no number of seeds would, because there are too few texts
    reason: str = ""
    unstable: Sequence[str] = field(default_factory=tuple)


def decide(
    sides: Sequence[Side], *, margin: float, direction: Direction, design: Design, reference: str | None = None
) -> Decision:
    """Compare all pairs of sides, or each side with the `reference` by name.

    A side with a failed run is unstable: it is not compared and cannot win. With one run a side there is no p-value and no
    interval; with two runs a single pair has both, but no side wins. Sides are equivalent if two one-sided tests (Lakens 2017)
    put every difference within `margin`, even a significant one: tuning with few trials leaves differences of luck. Any other
    difference counts at the level of the design's last look.
    """
    stable = {side.name: side.runs for side in sides if side.stable and side.runs is not None}
    unstable = tuple(side.name for side in sides if not side.stable)
    seeds = min((runs.count for runs in stable.values()), default=0)
    level = design.level(seeds)
    wanted = None if reference is None else [(name, reference) for name in stable if name != reference]
    pairs = [] if reference is not None and reference not in stable else pairwise(stable, wanted, level=level)
    if 1 < seeds < design.looks[0]:  # an unplanned early look would raise the error rate
        early = f"the comparison is planned for {design.looks[0]} seeds each, but has {seeds} so far"
        pairs = [_without_p(pair, early) for pair in pairs]
    elif seeds < LEAST and len(pairs) > 1:  # two runs say too little about the tails for several pairs
        pairs = [_without_p(pair, f"{LEAST} runs each are needed to compare several settings") for pair in pairs]
    decision = Decision(outcome=UNDECIDED, seeds=seeds, level=level, pairs=pairs, unstable=unstable)
    if not pairs:
        failed = (
            f"{reference} has a failed run"
            if reference in unstable
            else "fewer than two settings finished all their runs"
        )
        return replace(decision, reason=failed)
    tested = [pair for pair in pairs if pair.p_value is not None]
    order = direction.ranked(stable, key=lambda name: stable[name].mean)
    if not tested:
        return replace(decision, reason=pairs[0].difference.reason, best=order)
    p_value = min(pair.p_value for pair in tested if pair.p_value is not None)
    bounds = [abs(end) for pair in tested for end in (pair.difference.low, pair.difference.high) if end is not None]
    beaten = _beaten(tested, level, direction)
    best = [name for name in order if name not in beaten]
    anova = welch_anova(list(stable.values()))
    decision = replace(decision, p_value=p_value, anova=anova, excluded=max(bounds), best=best)
    if seeds < LEAST:
        return replace(decision, reason=f"{LEAST} runs each are needed to name a winner")
    winner = _winner(order, pairs, beaten, reference)
    if all(_within(pair, margin) for pair in pairs):
        if unstable:
            reason = f"{', '.join(unstable)} had failed runs"
            return replace(decision, winner=winner, complete=True, reason=reason)
        return replace(decision, outcome=EQUIVALENT, winner=winner, complete=True)
    if p_value < level:
        tied = [pair for pair in tested if {pair.a, pair.b} <= set(best)]
        complete = winner is not None or (bool(tied) and all(_within(pair, margin) for pair in tied))
        return replace(decision, outcome=DIFFERENCE, winner=winner, complete=complete)
    needed, needs_texts = seeds_needed(tested, seeds, margin, level)
    return replace(decision, needed=needed, needs_texts=needs_texts)


def _without_p(pair: Pair, reason: str) -> Pair:
    """Return a pair with its difference alone, and the reason why it has no test."""
    known = pair.difference
    alone = replace(known, low=None, high=None, p_value=None, reason=known.reason or reason)
    return replace(pair, difference=alone, p_value=None, low_90=None, high_90=None)


def _within(pair: Pair, margin: float) -> bool:
    """Return whether the two one-sided tests put a difference within the margin. If nothing varies, it must be 0."""
    low, high = pair.low_90, pair.high_90
    if pair.p_value is None:
        return pair.difference.estimate == 0
    return low is not None and high is not None and -margin < low and high < margin


def _beaten(pairs: Sequence[Pair], level: float, direction: Direction) -> dict[str, set[str]]:
    """Return for each side that another one beats significantly the sides that beat it."""
    beaten: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.p_value is not None and pair.p_value < level:
            better = direction.better(pair.difference.estimate, 0.0)
            winner, loser = (pair.a, pair.b) if better else (pair.b, pair.a)
            beaten.setdefault(loser, set()).add(winner)
    return beaten


def _winner(
    order: Sequence[str], pairs: Sequence[Pair], beaten: dict[str, set[str]], reference: str | None
) -> str | None:
    """Return the side with the best mean if it beats all that it was compared with.

    With a reference, the candidate is the best of the sides that beat the reference, if there are any.
    """
    beats_reference = [name for name in order if name in beaten.get(reference or "", ())]
    best = beats_reference[0] if beats_reference else order[0]
    against = [pair.b if pair.a == best else pair.a for pair in pairs if best in (pair.a, pair.b)]
    return best if against and all(best in beaten.get(name, ()) for name in against) else None


def seeds_needed(pairs: Sequence[Pair], seeds: int, margin: float, level: float) -> tuple[int | None, bool]:
    """Return how many seeds a side would decide if estimates and variances hold, and whether too few texts make it impossible.

    About half of such searches would then be decided, since the true difference is as likely to be smaller as larger.
    """
    confidence = 1 - level / max(1, len(pairs))

    def decided(n: int) -> bool:
        more = [pair.difference.with_seeds(seeds, n) for pair in pairs]
        differs = any(abs(known.estimate) > _reach(known, confidence) for known in more)
        return differs or all(abs(known.estimate) + _reach(known, 1 - 2 * level) < margin for known in more)

    if not decided(MOST_NEEDED):
        return None, not decided(10**6)
    return bisect_left(range(MOST_NEEDED), True, lo=seeds + 1, key=decided), False


def _reach(known: Difference, confidence: float) -> float:
    """Return the half-width of a difference's interval; infinity if its variance is not known."""
    return math.inf if known.df is None or known.se is None else quantile(confidence, known.df) * known.se


def detectable(run_sd: float, seeds: int, *, level: float = LEVEL, power: float = POWER, pairs: int = 1) -> float:
    """Return the difference that `seeds` runs a side detect with `power` if only runs vary, with standard deviation `run_sd`.

    From the noncentral t distribution with 2 n - 2 degrees of freedom; infinity for fewer than two runs.
    """
    if seeds < 2:
        return math.inf
    from scipy.optimize import brentq
    from scipy.stats import nct

    df, unit = 2 * seeds - 2, math.sqrt(2 / seeds)
    critical = quantile(1 - level / pairs, df)
    shift = brentq(lambda value: float(nct.sf(critical, df, value)) - power, 0.0, critical + 20.0)
    return float(shift) * unit * run_sd
