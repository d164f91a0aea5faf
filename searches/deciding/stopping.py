"""Early-stopping rules. To add one: a subclass of `Rule` and a line in SCHEDULERS.

A rule's keys are set with `--set`, like those of a run; the rule reads them as `plan.method.part(KEYS)`.

A rule looks at trials in the order of their numbers, not of their reports: trial n is judged at a rung by the trials before it,
once each of them has reached the rung or never will. So workers, their speed and kills do not change which trials stop. A trial
that trained on meanwhile is stopped retroactively: its reports after the rung do not count.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt2core.component import Component, Keys, Table, key
from searches.deciding.objectives import values
from searches.plan import REDUCTION, Plan
from searches.running.ledger import RUNNING, Trial


class Rule:
    """Base of the rules. It never stops a trial."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def advance(self, trials: Sequence[Trial], stop: Callable[[Trial, int], None]) -> None:
        """Take in what `trials`, in order, have reported by now; call `stop` with each trial to stop and its epoch."""

    def decided(self, number: int) -> bool:
        """Return whether no other trial's result can stop trial `number` any more."""
        return True


class HalvingKeys(Keys):
    """Keys of successive halving."""

    reduction: int = key(REDUCTION, "successive halving: one in this many trials passes a rung", ge=2)


class PopulationKeys(Keys):
    """Keys of population-based training."""

    replaced: float = key(0.25, "population: share of the worst members that continue from the best", gt=0, le=0.5)
    perturbation: float = key(1.25, "population: factor by which a copied number is multiplied or divided", gt=1)


class Halving(Rule):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), in its form that stops trials.

    A trial passes a rung if fewer than one in `reduction` of the trials so far, itself included, are better. With several
    objectives, a trial is better if its front of non-dominated trials comes earlier (as Schmucker et al. 2021, arXiv 2106.12639,
    rank them). Known points are never stopped, but others are compared with them. With a factor, trials are compared within
    their own value, so each value has the same budget.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.reduction = plan.method.part(HalvingKeys).reduction
        self.rungs: list[int] = []
        rung = plan.grace
        while rung < plan.epochs:
            self.rungs.append(rung)
            rung *= self.reduction
        self.scores: dict[tuple[int, str], Scores] = defaultdict(Scores)  # by rung and view
        self.next = dict.fromkeys(self.rungs, 0)  # the trial that each rung waits for

    def advance(self, trials: Sequence[Trial], stop: Callable[[Trial, int], None]) -> None:
        """Decide each rung as far as its trials have come, lower rungs first."""
        for place, rung in enumerate(self.rungs):
            last = self.next[self.rungs[place - 1]] if place else len(trials)
            while self.next[rung] < last and self._judge(trials[self.next[rung]], rung, stop):
                self.next[rung] += 1

    def decided(self, number: int) -> bool:
        """Return whether each rung has judged the trial or will never see it."""
        return all(self.next[rung] > number for rung in self.rungs)

    def _judge(self, trial: Trial, rung: int, stop: Callable[[Trial, int], None]) -> bool:
        """Judge a trial at a rung; return False if it has yet to reach the rung."""
        stopped = trial.stopped_at is not None and trial.stopped_at < rung
        reached = max(trial.reports, default=0) >= rung
        if stopped or not reached:
            return stopped or trial.status != RUNNING
        vector = values(trial, self.plan, rung)
        if vector is None:
            return True
        better, count = self.scores[rung, self.plan.view_of(trial.point).name].add(vector)
        if better >= (count + 1) / self.reduction and count and trial.origin == "sampler" and rung < trial.epochs:
            stop(trial, rung)
        return True


class Scores:
    """The objective vectors of earlier trials at a rung; smaller is better."""

    def __init__(self) -> None:
        self.count = 0
        self.sorted: list[tuple[float, ...]] = []  # with one objective
        self.fronts: list[list[tuple[float, ...]]] = []  # with several: successive non-dominated fronts

    def add(self, values: tuple[float, ...]) -> tuple[int, int]:
        """Add a trial's vector; return how many of the others are better, and how many others there are."""
        self.count += 1
        if len(values) > 1:
            return self._add_to_fronts(values), self.count - 1
        better = bisect_left(self.sorted, values)
        insort(self.sorted, values)
        return better, self.count - 1

    def _add_to_fronts(self, added: tuple[float, ...]) -> int:
        """Add a vector to the first front in which none dominates it; return how many vectors earlier fronts have.

        Vectors that a newcomer dominates move to the next front, and so on down (the ENLU update of Li et al. 2017).
        """
        place = bisect_left(self.fronts, True, key=lambda front: not any(dominates(other, added) for other in front))
        better, entering = sum(map(len, self.fronts[:place])), [added]
        while entering:
            front = self.fronts[place] if place < len(self.fronts) else []
            leaving = {other for other in front if any(dominates(vector, other) for vector in entering)}
            self.fronts[place : place + 1] = [[other for other in front if other not in leaving] + entering]
            entering = [other for other in front if other in leaving]
            place += 1
        return better


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether `a` is nowhere larger than `b`, and somewhere smaller."""
    return tuple(a) != tuple(b) and all(x <= y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True, kw_only=True)
class Scheduler(Component):
    """An entry of SCHEDULERS. `words` describe it in the plan; `{}` stands for the first epoch at which it may stop a trial."""

    rule: Callable[[Plan], Rule]
    words: str

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return self.words.format("N")


SCHEDULERS: Table[Scheduler] = Table(
    "scheduler",
    Scheduler,
    {
        "asha": Scheduler(rule=Halving, keys=HalvingKeys, words="ASHA stops from epoch {} on"),
        "none": Scheduler(rule=Rule, words="nothing is stopped early"),
        "pbt": Scheduler(  # `searches.deciding.population` gives each trial the length of a generation
            rule=Rule, keys=PopulationKeys, words="a population whose worst members go on from the best every {} epochs"
        ),
    },
)
