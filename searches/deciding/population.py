"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), generation by generation.

A member of a generation is a trial like any other that starts from the last checkpoint of one of the generation before: its own
predecessor, or, in the worst quarter, one of the best quarter, whose settings it changes a little. So weights really move
between trials, and each is in the ledger and in MLflow with its parent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2core.config import keys_that_decide
from gpt2core.errors import ConfigError
from searches.deciding.objectives import ranked
from searches.question import Choice, Plan
from searches.running.ledger import Trial

QUARTER = 4
FACTORS = (0.8, 1.25)  # of a number that is changed


@dataclass(frozen=True, kw_only=True)
class Member:
    """What a trial of a later generation is to be."""

    point: dict[str, Any]
    parent: str
    until: int


class Population:
    """The members of each generation, as a function of the generation before."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.interval = plan.grace
        self.generations = math.ceil(plan.epochs / self.interval)
        self.size = plan.profile.trials // self.generations
        self.best_first: list[Trial] = []  # of the generation that begins with trial `ranked_from`
        self.ranked_from: int | None = None
        if self.size < 2:
            raise ConfigError(
                f"The value of `--trials` is {plan.profile.trials}, but population-based training of {plan.epochs} epochs in "
                f"steps of {self.interval} has {self.generations} generations of at least 2 trials each: give at least "
                f"{2 * self.generations}"
            )
        self.changeable = keys_that_decide("training")  # the shape of what trains may not change
        if plan.space.keys().isdisjoint(self.changeable):
            raise ConfigError(
                f"None of what this search varies ({', '.join(plan.space)}) may change while a run trains on, which "
                f"population-based training does; that is: {', '.join(sorted(self.changeable))}"
            )

    @property
    def trials(self) -> int:
        """How many there are in all."""
        return self.size * self.generations

    def until(self, number: int) -> int:
        """The epoch that trial `number` ends after."""
        return int(min(self.plan.epochs, self.interval * (1 + number // self.size)))

    def needs(self, number: int) -> int:
        """How many of the trials before trial `number` must be settled."""
        return number // self.size * self.size

    def member(self, trials: Sequence[Trial], number: int) -> Member:
        """Trial `number` of a generation behind the first; `trials` are all of the search, in order."""
        first = self.needs(number) - self.size
        if self.ranked_from != first:  # once for all members: that generation has ended
            self.best_first, self.ranked_from = ranked(trials[first : first + self.size], self.plan), first
        best_first, own = self.best_first, trials[first + number % self.size]
        count = max(1, len(best_first) // QUARTER)
        survivors = best_first[: max(count, len(best_first) - count)]
        if own in survivors or not best_first:
            return Member(point=own.point, parent=own.name, until=self.until(number))
        random = np.random.default_rng((self.plan.seed, number))
        parent = best_first[int(random.integers(count))]
        return Member(point=self._changed(parent.point, random), parent=parent.name, until=self.until(number))

    def _changed(self, point: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """A point near another: numbers a fifth down or a quarter up, choices to a neighbour. Its first stage is the same."""
        from gpt2core.pretrain_stage import first_stage  # PyTorch takes a second to import

        changed, stage = dict(point), first_stage(self.plan.config(point))
        for key, domain in self.plan.space.items():
            up = bool(random.integers(2))
            if key not in self.changeable:
                continue
            if isinstance(domain, Choice):
                place = list(domain.values).index(point[key]) + (1 if up else -1)
                changed[key] = domain.values[min(max(place, 0), len(domain.values) - 1)]
            else:
                changed[key] = min(max(point[key] * FACTORS[up], domain.low), domain.high)
            if first_stage(self.plan.config(changed)) != stage:  # whose weights are beneath those that train on
                changed[key] = point[key]
        return changed
