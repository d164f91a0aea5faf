"""Cost arithmetic: forecasts a search from its step times, and the time left of a running search from its ended trials."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2core.estimates import Range, exactly
from searches.deciding.samplers import size
from searches.deciding.stopping import HalvingKeys
from searches.plan import REDUCTION, Plan
from searches.running.budget import HOUR, whole_trial_seconds
from searches.running.ledger import State
from searches.running.quantities import Quantity
from trainables.trial import TrialSpec

#: Seconds before the first trial trains (Ray, MLflow, imports), measured on two laptop cores.
START = Range(value=15.0, low=5.0, high=40.0)
#: Seconds until a worker process has imports and model: once for each concurrent trial.
PROCESS = Range(value=8.0, low=2.0, high=30.0)
#: Seconds until a Ray Train worker group trains: once for each concurrent trial that has one.
GROUP = Range(value=20.0, low=10.0, high=30.0)
NOTHING = exactly(0.0)

MEANING = (
    "low: each trial that may be stopped stops at its first rung, steps are at the lower end of their measured 95% interval, "
    "generated texts are as long as the data's; high: nothing is stopped, steps are at the upper end, texts as long as allowed"
)


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """The cost of one configuration; `before` are the seconds before its first epoch, and `at_end` those after its last one."""

    steps: tuple[int, ...]  # of each epoch
    step: Range  # seconds
    evaluation: Range
    before: Range
    at_end: Range = NOTHING
    memory_gb: Range
    disk_gb: float

    def seconds(self, epochs: float) -> Range:
        """Return the seconds of `epochs` epochs, or of all if it has fewer; a part of an epoch is that part of its steps."""
        epochs = min(epochs, len(self.steps))
        steps = float(np.interp(epochs, range(len(self.steps) + 1), np.cumsum([0, *self.steps])))
        at_end = self.at_end if epochs >= len(self.steps) else NOTHING
        return self.before + self.step * steps + self.evaluation * epochs + at_end


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The costs of a plan: known points, points that the sampler may draw, and what is made once for all trials."""

    known: Sequence[TrialCost]
    drawn: Sequence[TrialCost]
    once: Range  # seconds of what trials share
    pairs: Range = NOTHING  # seconds of generating pairs before the first trial


def expected_epochs(grace: int, epochs: int, reduction: int = REDUCTION) -> float:
    """Return the expected epochs of a trial under successive halving, if one in `reduction` passes each rung."""
    reached, rung, passing, total = 0, min(grace, epochs), 1.0, 0.0
    while reached < epochs:
        total += passing * (min(rung, epochs) - reached)
        reached, rung, passing = min(rung, epochs), rung * reduction, passing / reduction
    return total


def epochs_of(plan: Plan) -> tuple[float, float, int]:
    """Return least, expected and most epochs of a trial; a trial of a population is one generation."""
    epochs, grace = plan.epochs, plan.grace
    match plan.method.scheduler:
        case "asha":
            return grace, expected_epochs(grace, epochs, plan.method.part(HalvingKeys).reduction), epochs
        case "pbt":
            return grace, grace, grace
    return epochs, epochs, epochs


def mean_epochs(costs: Sequence[TrialCost], limit: float) -> float:
    """Return the mean number of epochs up to `limit`; it differs between configurations if the search varies it."""
    return sum(min(limit, len(cost.steps)) for cost in costs) / max(1, len(costs))


def mean(ranges: Sequence[Range]) -> Range:
    """Return the mean of values and of bounds."""
    return sum(ranges, NOTHING) * (1 / max(1, len(ranges)))


def predict(
    plan: Plan, outlook: Outlook, spec: TrialSpec, price: float | None, again_cost: float = 1.0
) -> dict[Quantity, Range]:
    """Return the cost of the whole search; `usd` only if a GPU-hour has a `price`.

    `again_cost` is the cost of a run on a fresh seed relative to a trial. With `--until decided`, the low end is the first look's
    cost, the high end the last look's.
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
    start = (GROUP if spec.grouped else PROCESS) * (min(spec.concurrent, count) / count)  # per trial, on average
    search = sum((cost.seconds(most) for cost in known), of_drawn * drawn) + start * trials + outlook.once
    again = (mean(whole) * again_cost + start) * replicates
    if plan.design:
        again = replace(again, low=again.low * plan.design.looks[0] / plan.design.most)
    running = search + again
    per_trial = [seconds + start for seconds in whole]
    by_phase = [_wall_seconds(search, whole[0], trials, spec), _wall_seconds(again, whole[0], replicates, spec)]
    wall = sum(by_phase, START + outlook.pairs)
    disk = [cost.disk_gb for cost in (*known, *outlook.drawn)]
    memory = [cost.memory_gb for cost in (*known, *outlook.drawn)]
    hours = running * (1 / HOUR)
    gpu_hours = hours * spec.gpus
    sure = len(known) * mean_epochs(known, most) + replicates * mean_epochs([*known, *outlook.drawn], most)
    of_sampler = [drawn * mean_epochs(outlook.drawn, limit) for limit in (few, usual, most)]
    low, value, high = (sure + epochs for epochs in of_sampler)
    return {
        "trials": exactly(count),
        "epochs": Range(value=value, low=low, high=high),
        "trial_seconds": _spread(mean(per_trial).value, per_trial),
        "hours": wall * (1 / HOUR),
        "gpu_hours": gpu_hours,
        "cpu_hours": hours * spec.cpus,
        **({"usd": gpu_hours * price} if price else {}),
        "memory_gb": _spread(max(size.value for size in memory), memory),
        "disk_gb": Range(value=float(np.mean(disk)), low=min(disk), high=max(disk)) * count,
    }


def trials_of(plan: Plan) -> int:
    """Return the number of trials: as requested, or all points of a smaller space."""
    return sum(min(plan.per_view, size(plan, view) or plan.per_view) for view in plan.views)


def _wall_seconds(total: Range, single: Range, count: int, spec: TrialSpec) -> Range:
    """Return the wall-clock seconds of `count` concurrent trials; other slots idle during the last ones."""
    if not count:
        return NOTHING
    rounds = math.ceil(count / spec.concurrent) / (count / spec.concurrent)
    return Range(
        value=max(single.value, total.value / spec.concurrent * rounds),
        low=max(single.low, total.low / spec.concurrent),
        high=max(single.high, total.high / spec.concurrent * rounds),
    )


def _spread(value: float, ranges: Sequence[Range]) -> Range:
    """Return a value with the lowest and the highest bound of `ranges`."""
    return Range(value=value, low=min(r.low for r in ranges), high=max(r.high for r in ranges))


def seconds_left(plan: Plan, state: State, now: float) -> float:
    """Return about how long a running search still takes, by its ended trials, or by the plan before the first one."""
    clock = state.clock.at(now)
    ended, again = clock.ended["search"], clock.ended["replicate"]
    whole = whole_trial_seconds(state)
    planned = state.forecast.ranges["trial_seconds"].value if "trial_seconds" in state.forecast.ranges else whole
    usual = ended.seconds / ended.count if ended.count else planned
    begun = {True: 0.0, False: 0.0}  # is it a replicate -> seconds that running trials have run
    for name in clock.running:
        begun[clock.kinds[name] == "replicate"] += clock.trials.get(name, 0.0)
    left = max(0.0, (trials_of(plan) - ended.count) * usual - begun[False])
    replicates = max(0.0, (plan.replicates - again.count) * whole - begun[True])
    return (left + replicates) / clock.concurrent
