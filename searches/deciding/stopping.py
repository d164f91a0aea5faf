"""Which trials are stopped early. To add a rule: a class like `Rule`, a line in SCHEDULERS.

Its keys are set by `--set`, as those of a run are; the class has them as `plan.method.part(KEYS)`.

A rule looks at the trials in their order, not in that in which their reports come in: what trial n does at a rung is decided by
the trials before it, as soon as all of them are there or will never be. So the same search stops the same trials whatever its
workers did, how many there were and how often it was killed. A trial that went on meanwhile is stopped later, and what it
reported behind the rung does not count.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt2core.component import Component, Keys, Table, key
from searches.deciding.objectives import values
from searches.question import REDUCTION, Plan
from searches.running.ledger import RUNNING, Trial


class Rule(Protocol):
    """A stopping rule; made of a plan, it sees the trials of the search as they come."""

    def advance(self, trials: Sequence[Trial], stop: Callable[[Trial, int], None]) -> None:
        """Take in what `trials`, in order, have reported by now, and call `stop` with trial and epoch where one is to end."""
        ...

    def decided(self, number: int) -> bool:
        """Whether nothing that other trials do can stop trial `number` any more, if it has ended."""
        ...


class HalvingKeys(Keys):
    """Keys of successive halving."""

    reduction: int = key(REDUCTION, "successive halving: one trial in so many passes a rung", ge=2)


class Never:
    """Every trial runs to its end."""

    def __init__(self, plan: Plan) -> None:
        pass

    def advance(self, trials: Sequence[Trial], stop: Callable[[Trial, int], None]) -> None:
        """Nothing is stopped."""

    def decided(self, number: int) -> bool:
        """Always."""
        return True


class Halving:
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), in its form that stops.

    At a rung, a trial goes on if fewer than one in `reduction` of the trials so far, itself among them, are better. With several
    objectives, better is who lies in an earlier front of non-dominated trials (as Schmucker et al. 2021, arXiv 2106.12639,
    rank them). Trials of known points run to their end, but others are measured by them. Where the question is about a factor, a
    trial is measured beside those of its own value alone: each value has the same budget.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.reduction = plan.method.part(HalvingKeys).reduction
        self.rungs: list[int] = []
        rung = plan.grace
        while rung < plan.epochs:
            self.rungs.append(rung)
            rung *= self.reduction
        self.scores: dict[tuple[int, str], Scores] = defaultdict(Scores)  # of each rung and view
        self.next = dict.fromkeys(self.rungs, 0)  # the trial that each rung waits for

    def advance(self, trials: Sequence[Trial], stop: Callable[[Trial, int], None]) -> None:
        """Decide at each rung as far as its trials are there, the lower rungs first."""
        for place, rung in enumerate(self.rungs):
            last = self.next[self.rungs[place - 1]] if place else len(trials)
            while self.next[rung] < last and self._passes(trials[self.next[rung]], rung, stop):
                self.next[rung] += 1

    def decided(self, number: int) -> bool:
        """Whether each rung has had it, or will never see it."""
        return all(self.next[rung] > number for rung in self.rungs)

    def _passes(self, trial: Trial, rung: int, stop: Callable[[Trial, int], None]) -> bool:
        """Judge a trial at a rung; False where it has yet to come there."""
        stopped = trial.stopped_at is not None and trial.stopped_at < rung
        if stopped or (trial.status != RUNNING and max(trial.reports, default=0) < rung):
            return True
        if max(trial.reports, default=0) < rung:
            return False
        found = values(trial, self.plan, rung)
        if found is None:
            return True
        better, count = self.scores[rung, self.plan.view_of(trial.point).name].add(found)
        if better >= (count + 1) / self.reduction and count and trial.origin == "sampler":
            stop(trial, rung)
        return True


class Scores:
    """What earlier trials had at a rung: vectors in which small is good."""

    def __init__(self) -> None:
        self.count = 0
        self.found: list[tuple[float, ...]] = []  # of one objective, sorted
        # Of several: the vectors that no other dominates, then those that only these dominate, and so on.
        self.fronts: list[list[tuple[float, ...]]] = []

    def add(self, values: tuple[float, ...]) -> tuple[int, int]:
        """Add a trial's; return how many of the others are better, and how many others there are."""
        self.count += 1
        if len(values) > 1:
            return self._add_to_fronts(values), self.count - 1
        better = bisect_left(self.found, values)
        insort(self.found, values)
        return better, self.count - 1

    def _add_to_fronts(self, mine: tuple[float, ...]) -> int:
        """Add a vector to the first front in which none dominates it; return how many lie in earlier ones.

        What is dominated by a vector that enters its front moves to the next one, as do those that it dominates there in turn
        (the update of Li et al. 2017, ENLU).
        """
        place = bisect_left(self.fronts, True, key=lambda front: not any(dominates(other, mine) for other in front))
        better, entering = sum(map(len, self.fronts[:place])), [mine]
        while entering:
            front = self.fronts[place] if place < len(self.fronts) else []
            leaving = {other for other in front if any(dominates(one, other) for one in entering)}
            self.fronts[place : place + 1] = [[other for other in front if other not in leaving] + entering]
            entering = [other for other in front if other in leaving]
            place += 1
        return better


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere larger, and somewhere smaller."""
    return tuple(one) != tuple(other) and all(a <= b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True, kw_only=True)
class Scheduler(Component):
    """An entry of SCHEDULERS. `words` are for the plan; `{}` stands for the first epoch at which a trial may be stopped."""

    rule: Callable[[Plan], Rule]
    words: str


SCHEDULERS: Table[Scheduler] = Table(
    "scheduler",
    {
        "asha": Scheduler(rule=Halving, keys=HalvingKeys, words="ASHA stops from epoch {} on"),
        "none": Scheduler(rule=Never, words="nothing is stopped early"),
        "pbt": Scheduler(  # whose trials are as long as a generation: `searches.deciding.population`
            rule=Never, words="a population, of which every {} epochs the worst go on from the best"
        ),
    },
)
