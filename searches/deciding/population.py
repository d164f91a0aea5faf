"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), one generation at a time.

Each member of a generation is a trial that starts from a last checkpoint of the generation before: its own predecessor's, or, for
the worst members, one of the best members', whose settings it perturbs. The ledger and MLflow have each trial with its parent.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2core.config import keys_that_decide
from gpt2core.errors import ConfigError
from searches.deciding.objectives import ranked
from searches.deciding.stopping import PopulationKeys
from searches.domains import Choice
from searches.plan import Plan
from searches.running.ledger import Trial


class Population:
    """The members of each generation, as a function of the generation before."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.keys = plan, plan.method.part(PopulationKeys)
        self.interval = plan.grace
        self.generations = math.ceil(plan.epochs / self.interval)
        self.size = plan.profile.trials // self.generations
        self.best_first: list[Trial] = []  # the generation that begins with trial `ranked_from`
        self.ranked_from: int | None = None
        if self.size < 2:
            raise ConfigError(
                f"The value of `--trials` is {plan.profile.trials}, but must be >= {2 * self.generations}: population-based "
                f"training of {plan.epochs} epochs in steps of {self.interval} has {self.generations} generations of at least 2 "
                "trials each"
            )
        if "epochs" in plan.space:
            raise ConfigError("Population-based training cannot search `epochs`: fix it with --set epochs=N")
        self.changeable = keys_that_decide("training")  # other keys shape what trains
        if plan.space.keys().isdisjoint(self.changeable):
            raise ConfigError(
                f"None of the searched keys ({', '.join(plan.space)}) can change while a run trains, as population-based "
                f"training requires; these can: {', '.join(sorted(self.changeable))}"
            )

    @property
    def trials(self) -> int:
        """The number of trials over all generations."""
        return self.size * self.generations

    def until(self, number: int) -> int:
        """Return the epoch after which trial `number` ends."""
        return int(min(self.plan.epochs, self.interval * (1 + number // self.size)))

    def needs(self, number: int) -> int:
        """Return how many of the first trials must be settled before trial `number` is proposed."""
        return number // self.size * self.size

    def member(self, trials: Sequence[Trial], number: int) -> tuple[dict[str, Any], str]:
        """Return point and parent of trial `number` of a later generation, from all `trials` of the search in order."""
        first = self.needs(number) - self.size
        if self.ranked_from != first:  # ranked once for all members: that generation has ended
            self.best_first, self.ranked_from = ranked(trials[first : first + self.size], self.plan), first
        best_first, own = self.best_first, trials[first + number % self.size]
        count = max(1, int(len(best_first) * self.keys.replaced))
        survivors = best_first[: max(count, len(best_first) - count)]
        if own in survivors or not best_first:
            return own.point, own.name
        random = np.random.default_rng((self.plan.seed, number))
        parent = best_first[int(random.integers(count))]
        return self._perturbed(parent.point, random), parent.name

    def _perturbed(self, point: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return a nearby point: numbers times or by `perturbation`, choices moved to a neighbour, the same first stage."""
        from gpt2core.pretrain_stage import first_stage  # PyTorch takes a second to import

        changed, stage = dict(point), first_stage(self.plan.config(point))
        for key, domain in self.plan.space.items():
            up = bool(random.integers(2))
            if key not in self.changeable or key not in point:
                continue
            if isinstance(domain, Choice):
                place = list(domain.values).index(point[key]) + (1 if up else -1)
                changed[key] = domain.values[min(max(place, 0), len(domain.values) - 1)]
            else:
                factor = self.keys.perturbation if up else 1 / self.keys.perturbation
                number = domain.nearest(point[key] * factor)
                changed[key] = (math.ceil if up else math.floor)(number) if domain.is_whole else number
            if first_stage(self.plan.config(changed)) != stage:  # the checkpoint builds on that stage's weights
                changed[key] = point[key]
        return changed
