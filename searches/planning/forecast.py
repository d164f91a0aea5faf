"""The arithmetic of what a search takes: before it, from what one step takes, and while it runs, from the trials that ended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2core.estimates import Range, exactly
from searches.deciding.samplers import size
from searches.deciding.stopping import HalvingKeys
from searches.question import REDUCTION, Plan
from searches.running.budget import HOUR, whole_trial_seconds
from searches.running.ledger import State
from searches.running.quantities import Quantity
from trainables.trial import TrialSpec

#: Seconds before the first trial trains: Ray, MLflow, imports. Measured on two laptop cores.
START = Range(value=15.0, low=5.0, high=40.0)
#: Seconds until a process that trials run in has its imports and model: once for each trial that runs at once.
PROCESS = Range(value=8.0, low=2.0, high=30.0)
#: Seconds until a Ray Train worker group trains: in every trial that has one.
GROUP = Range(value=20.0, low=10.0, high=30.0)
NOTHING = exactly(0.0)

MEANING = (
    "low: each trial that may be stopped is stopped at its first rung, steps take the least of their measured 95% interval, "
    "texts end as those of the data do; high: nothing is stopped, steps take the most, texts are as long as they may get"
)


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """What one configuration takes. `before` are seconds before its first epoch."""

    steps: tuple[int, ...]  # of each epoch
    step: Range  # seconds
    evaluation: Range
    before: Range
    memory_gb: Range
    disk_gb: float

    def seconds(self, epochs: float) -> Range:
        """Seconds of so many epochs; a part of one is a part of its steps."""
        steps = float(np.interp(epochs, range(len(self.steps) + 1), np.cumsum([0, *self.steps])))
        return self.before + self.step * steps + self.evaluation * epochs


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the trials of a plan take: the known points, points that the sampler may draw, and what all share; and how long
    the pairs take that are generated before them."""

    known: Sequence[TrialCost]
    drawn: Sequence[TrialCost]
    once: Range  # seconds of what is made once and shared
    pairs: Range = NOTHING  # seconds


def expected_epochs(grace: int, epochs: int, reduction: int = REDUCTION) -> float:
    """Epochs of a trial that successive halving may stop, where one in `reduction` passes each rung."""
    rung, passing, total = min(grace, epochs), 1.0, 0.0
    reached = 0
    while reached < epochs:
        total += passing * (min(rung, epochs) - reached)
        reached, rung, passing = min(rung, epochs), rung * reduction, passing / reduction
    return total


def epochs_of(plan: Plan) -> tuple[float, float, int]:
    """Epochs of a trial that may be stopped: least, expected, most. Of a population each trial is a step alone."""
    epochs, grace = plan.epochs, plan.grace
    match plan.method.scheduler:
        case "asha":
            return grace, expected_epochs(grace, epochs, plan.method.part(HalvingKeys).reduction), epochs
        case "pbt":
            return grace, grace, grace
    return epochs, epochs, epochs


def mean(ranges: Sequence[Range]) -> Range:
    """The mean of each bound."""
    total = sum(ranges, exactly(0.0))
    return total * (1 / max(1, len(ranges)))


def predict(
    plan: Plan, outlook: Outlook, spec: TrialSpec, price: float | None, again_cost: float = 1.0
) -> dict[Quantity, Range]:
    """What the whole search takes; no `usd` without a price of a GPU-hour.

    `again_cost` is what a run on a fresh seed takes in units of a trial. With `--until decided`, the least is what the first look
    takes, the most what the last one does.
    """
    trials, replicates = trials_of(plan), plan.replicates
    known = outlook.known[:trials]
    drawn = trials - len(known)
    few, usual, most = epochs_of(plan)
    whole = [cost.seconds(most) for cost in (*known, *outlook.drawn)]
    of_drawn = Range(
        value=mean([cost.seconds(usual) for cost in outlook.drawn]).value,
        low=mean([cost.seconds(few) for cost in outlook.drawn]).low,
        high=mean([cost.seconds(most) for cost in outlook.drawn]).high,
    )
    count = trials + replicates
    start = GROUP if spec.grouped else PROCESS * (min(spec.concurrent, count) / count)  # of a trial, on average
    search = sum((cost.seconds(most) for cost in known), of_drawn * drawn) + start * trials + outlook.once
    again = (mean(whole) * again_cost + start) * replicates
    if plan.design:
        again = replace(again, low=again.low * plan.design.looks[0] / plan.design.most)
    running = search + again
    wall = (
        START
        + outlook.pairs
        + _side_by_side(search, whole[0], trials, spec)
        + _side_by_side(again, whole[0], replicates, spec)
    )
    disk = [cost.disk_gb for cost in (*known, *outlook.drawn)]
    memory = [cost.memory_gb for cost in (*known, *outlook.drawn)]
    hours = running * (1 / HOUR)
    gpu_hours = hours * spec.gpus
    sure = (len(known) + replicates) * most
    return {
        "trials": exactly(count),
        "epochs": Range(value=sure + drawn * usual, low=sure + drawn * few, high=count * most),
        "trial_seconds": _widest([seconds + start for seconds in whole]),
        "hours": wall * (1 / HOUR),
        "gpu_hours": gpu_hours,
        "cpu_hours": hours * spec.cpus,
        **({"usd": gpu_hours * price} if price else {}),
        "memory_gb": _largest(memory),
        "disk_gb": Range(value=float(np.mean(disk)), low=min(disk), high=max(disk)) * count,
    }


def trials_of(plan: Plan) -> int:
    """How many trials there will be: as asked for, or all points of a smaller space."""
    spaces = [{key: plan.space[key] for key in view.active} for view in plan.views]
    return sum(min(plan.per_view, size(plan, space) or plan.per_view) for space in spaces)


def _side_by_side(total: Range, one: Range, count: int, spec: TrialSpec) -> Range:
    """Seconds of wall clock of `count` trials; the last of them runs while other slots are empty."""
    if not count:
        return exactly(0.0)
    rounds = math.ceil(count / spec.concurrent) / (count / spec.concurrent)
    return Range(
        value=max(one.value, total.value / spec.concurrent * rounds),
        low=max(one.low, total.low / spec.concurrent),
        high=max(one.high, total.high / spec.concurrent * rounds),
    )


def _widest(ranges: Sequence[Range]) -> Range:
    """The mean, from the least of any to the most of any."""
    return Range(value=mean(ranges).value, low=min(r.low for r in ranges), high=max(r.high for r in ranges))


def _largest(ranges: Sequence[Range]) -> Range:
    """The largest value, from the least of any to the most of any."""
    return Range(value=max(r.value for r in ranges), low=min(r.low for r in ranges), high=max(r.high for r in ranges))


def seconds_left(plan: Plan, state: State, now: float) -> float:
    """About how long a running search still takes, by the trials that ended; before the first, by the plan."""
    clock = state.clock.at(now)
    ended, again = clock.ended["search"], clock.ended["replicate"]
    whole = whole_trial_seconds(state)
    planned = state.forecast.ranges["trial_seconds"].value if "trial_seconds" in state.forecast.ranges else whole
    usual = ended.seconds / ended.count if ended.count else planned
    begun = {True: 0.0, False: 0.0}  # whether a replicate -> seconds that running trials have behind them
    for name in clock.running:
        begun[clock.kinds[name] == "replicate"] += clock.trials.get(name, 0.0)
    left = max(0.0, (trials_of(plan) - ended.count) * usual - begun[False])
    repeats = max(0.0, (plan.replicates - again.count) * whole - begun[True])
    return (left + repeats) / clock.concurrent
