"""What a search may take: hours of wall clock, GPU-hours, money. Hard stops, over all processes that drove the search.

The rule. The comparison on fresh seeds comes last and is what a verdict is made of, so a part of each limit is kept for
it: what the forecast says the replicates need, but at most half of the limit. Once the rest is spent and there are two
trials to compare, the search proposes no more and stops what runs at its next epoch; the replicates follow. Once the whole
is spent, everything is stopped at once, in the middle of an epoch too.
"""

import math
from dataclasses import dataclass
from typing import Literal

from gpt2core.errors import ConfigError
from searches.deciding.comparing import Judges
from searches.question import Plan
from searches.running.ledger import COMPLETED, STOPPED, State, Trial

BUDGET = "budget"  # the reason of a trial that was stopped for it
HOUR = 3600.0
MOST_RESERVED = 0.5  # of a limit, for the replicates

Phase = Literal["search", "replicates", "over"]


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Hours of wall clock, GPU-hours and money."""

    hours: float = 0.0
    gpu_hours: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Spent(Amount):
    """What a search took so far; `cpu_hours` are beside, for machines without GPUs, and have no limit."""

    cpu_hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of a search; None is none. Raises ConfigError for a limit that cannot be kept."""

    hours: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None
    usd_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        flags = {f"--budget-{name.replace('_', '-')}": limit for name, limit in self.limits.items()}
        for flag, value in (flags | {"--usd-per-gpu-hour": self.usd_per_gpu_hour}).items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"The value of `{flag}` is {value:g}, but must be > 0")
        if self.usd is not None and self.usd_per_gpu_hour is None:
            raise ConfigError("`--budget-usd` needs a price: give --usd-per-gpu-hour")

    @property
    def limits(self) -> dict[str, float]:
        """Limit by name, where there is one."""
        every = {"hours": self.hours, "gpu_hours": self.gpu_hours, "usd": self.usd}
        return {name: limit for name, limit in every.items() if limit is not None}

    @property
    def price(self) -> float:
        """USD for a GPU-hour; 0 where none was given."""
        return self.usd_per_gpu_hour or 0.0


def spent(budget: Budget, state: State, now: float | None = None) -> Spent:
    """What the search of `state` took until `now`, or until its last event."""
    clock = state.clock if now is None else state.clock.at(now)
    gpu_hours = clock.gpu / HOUR
    # A ledger from before events had times knows its seconds alone.
    return Spent(
        hours=clock.wall / HOUR,
        gpu_hours=gpu_hours,
        usd=gpu_hours * budget.price,
        cpu_hours=clock.cpu / HOUR,
    )


def whole_trial_seconds(state: State) -> float:
    """Seconds of a trial that nothing stops: the longest so far, or what the plan says at most before the first; else 0."""
    longest = state.clock.longest
    return (state.forecast.most("trial_seconds") or 0.0) if longest is None else longest


def reserve(budget: Budget, state: State, replicates: int, epochs: int) -> Amount:
    """What is kept for so many replicates: what they are expected to need, but at most half of each limit.

    An epoch of what still runs by then is a part of it.
    """
    if not replicates:
        return Amount()
    clock = state.clock
    again = clock.ended["replicate"].count  # the longest trial is one of them, then
    cost = 1.0 if again or not state.judges else Judges(**state.judges).cost
    seconds = whole_trial_seconds(state) * cost
    gpu_hours = (replicates + clock.concurrent / epochs) * seconds * clock.gpus / HOUR
    hours = (math.ceil(replicates / clock.concurrent) + 1 / epochs) * seconds / HOUR
    need = {"hours": hours, "gpu_hours": gpu_hours, "usd": gpu_hours * budget.price}
    return Amount(**{name: min(need[name], MOST_RESERVED * limit) for name, limit in budget.limits.items()})


def phase(budget: Budget, used: Amount, kept: Amount, *, comparable: bool) -> Phase:
    """What may go on. `comparable` says whether there are two trials with scores, without which replicates compare nothing."""
    left = {name: limit - getattr(used, name) for name, limit in budget.limits.items()}
    if any(rest <= 0 for rest in left.values()):
        return "over"
    if comparable and any(rest <= getattr(kept, name) for name, rest in left.items()):
        return "replicates"
    return "search"


def share(budget: Budget, used: Amount) -> tuple[str, float]:
    """The limit that is nearest, and the share of it that is spent; no name and 0 where there is none."""
    shares = {name: getattr(used, name) / limit for name, limit in budget.limits.items()}
    return max(shares.items(), key=lambda item: item[1], default=("", 0.0))


def comparable(plan: Plan, state: State) -> bool:
    """Whether replicates would have something to compare: two values of the factor, or the reference and another trial, have
    ended with a score."""

    def scored(trial: Trial) -> bool:
        return trial.status in (COMPLETED, STOPPED) and trial.score(plan.objective, plan.direction) is not None

    if plan.compares_each:
        return len({plan.level_of(trial.point).name for trial in state.searched if scored(trial)}) > 1
    reference = next((trial for trial in state.searched if trial.origin == "reference"), None)
    if reference is None or not scored(reference):
        return False
    return any(scored(trial) for trial in state.searched if trial is not reference)


def phase_of(budget: Budget, plan: Plan, state: State, now: float | None = None) -> Phase:
    """The phase of a search at `now`, or at its last event."""
    if not budget.limits:
        return "search"
    kept = reserve(budget, state, plan.replicates, plan.epochs)
    return phase(budget, spent(budget, state, now), kept, comparable=comparable(plan, state))
