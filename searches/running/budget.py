"""The budget of a search: hours of wall clock, GPU-hours, money. Limits hold for all driver processes of the search together.

The comparison on fresh seeds comes last and decides the answer, so a part of each limit is reserved for it: what the replicates
need by the forecast, but at most half of the limit. Once the rest is spent and there are two trials to compare, the search
proposes no more trials and stops running ones at their next epoch; then the replicates run. Once the whole limit is spent, all
trials are stopped at once, even in the middle of an epoch.
"""

import math
from dataclasses import dataclass
from typing import Literal

from gpt2core.errors import ConfigError
from searches.deciding.comparing import Judges
from searches.plan import Plan
from searches.running.ledger import COMPLETED, STOPPED, State, Trial

BUDGET = "budget"  # reason of a trial that the budget stopped
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
    """What a search has spent; CPU-hours are shown for machines without GPUs and have no limit."""

    cpu_hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of a search; None means no limit. Raises ConfigError for an impossible limit."""

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
        """The limits that are set, by name."""
        limits = {"hours": self.hours, "gpu_hours": self.gpu_hours, "usd": self.usd}
        return {name: limit for name, limit in limits.items() if limit is not None}


def spent(budget: Budget, state: State, now: float | None = None) -> Spent:
    """Return what a search has spent until `now`, or until its last event."""
    clock = state.clock if now is None else state.clock.at(now)
    gpu_hours = clock.gpu / HOUR
    usd = gpu_hours * (budget.usd_per_gpu_hour or 0.0)
    return Spent(hours=clock.wall / HOUR, gpu_hours=gpu_hours, usd=usd, cpu_hours=clock.cpu / HOUR)


def whole_trial_seconds(state: State) -> float:
    """Return the most seconds of a completed trial; before the first, the upper bound of the forecast, or 0 without one."""
    longest = state.clock.longest
    return (state.forecast.most("trial_seconds") or 0.0) if longest is None else longest


def reserve(budget: Budget, state: State, replicates: int, epochs: int) -> Amount:
    """Return what is reserved for the replicates: their expected need, but at most half of each limit.

    The need includes one epoch of each trial that still runs when they start.
    """
    if not replicates:
        return Amount()
    clock = state.clock
    replicate_ended = clock.ended["replicate"].count  # then the longest trial includes the cost of judging
    cost = 1.0
    if state.judges and state.searched and not replicate_ended:
        cost = Judges(**state.judges).cost(state.searched[0].run.get("train_examples"))
    seconds = whole_trial_seconds(state) * cost
    gpu_hours = (replicates + clock.concurrent / epochs) * seconds * clock.gpus / HOUR
    hours = (math.ceil(replicates / clock.concurrent) + 1 / epochs) * seconds / HOUR
    need = {"hours": hours, "gpu_hours": gpu_hours, "usd": gpu_hours * (budget.usd_per_gpu_hour or 0.0)}
    return Amount(**{name: min(need[name], MOST_RESERVED * limit) for name, limit in budget.limits.items()})


def phase(budget: Budget, used: Amount, reserved: Amount, *, comparable: bool) -> Phase:
    """Return what may still run. Replicates need two trials with scores, which `comparable` says."""
    left = {name: limit - getattr(used, name) for name, limit in budget.limits.items()}
    if any(rest <= 0 for rest in left.values()):
        return "over"
    if comparable and any(rest <= getattr(reserved, name) for name, rest in left.items()):
        return "replicates"
    return "search"


def nearest_limit(budget: Budget, used: Amount) -> tuple[str, float]:
    """Return the limit that is closest to being reached, and the spent share of it; an empty name and 0 without limits."""
    shares = {name: getattr(used, name) / limit for name, limit in budget.limits.items()}
    return max(shares.items(), key=lambda item: item[1], default=("", 0.0))


def comparable(plan: Plan, state: State) -> bool:
    """Whether two values of the factor, or the reference and another trial, have ended with a score."""

    def scored(trial: Trial) -> bool:
        return trial.status in (COMPLETED, STOPPED) and trial.score(plan.objective, plan.direction) is not None

    if plan.compares_each:
        return len({plan.level_of(trial.point).name for trial in state.searched if scored(trial)}) > 1
    reference = next((trial for trial in state.searched if trial.origin == "reference"), None)
    if reference is None or not scored(reference):
        return False
    return any(scored(trial) for trial in state.searched if trial is not reference)


def phase_of(budget: Budget, plan: Plan, state: State, now: float | None = None) -> Phase:
    """Return the phase of a search at `now`, or at its last event."""
    if not budget.limits:
        return "search"
    reserved = reserve(budget, state, plan.replicates, plan.epochs)
    return phase(budget, spent(budget, state, now), reserved, comparable=comparable(plan, state))
