"""The contract of samplers, for tests of own parts; it needs pytest. `gpt2core.testing` has the contracts of other parts."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from gpt2core.testing.contract import Contract, Settings
from searches.deciding.comparing import Comparing
from searches.deciding.method import Method
from searches.deciding.replay_backend import Curve, MemoryLedger, ReplayBackend
from searches.deciding.samplers import SAMPLERS
from searches.deciding.strategy import Next, Strategy
from searches.domains import Choice, LogUniform
from searches.plan import Plan, make_plan
from searches.question import Case, Profile, Search
from searches.running.ledger import Trial

SCORE = "dev_loss"
RANKS, LOW, HIGH = (4, 8, 16, 32), 1e-4, 1e-2
CONTRACT = Search(
    name="contract",
    question="Which rank and learning rate?",
    tasks={"sonnet": Case()},
    scientific={"rank": Choice(*RANKS)},
    nuisance={"lr": LogUniform(LOW, HIGH)},
    fixed={"adapter": "lora", "epochs": 3},
    reference={"rank": 8, "lr": 1e-3},
    profiles={"quick": Profile(model="gpt2-nano", trials=18, replicates=0, grace=1)},
)


class Rebuilt(Strategy):
    """A strategy that proposes each trial as one that was just opened does, as after a kill."""

    def next(self) -> Next:
        """Return the next trial of a new strategy over the same ledger, or of this one while trials of it are unfinished."""
        listeners = list(self.ledger.listeners)
        proposed = Strategy(self.plan, self.ledger).next() if not self.unfinished else super().next()
        self.ledger.listeners[:] = listeners
        return proposed


def curve(trial: Trial) -> Curve:
    """Return a learning curve with its best score at rank 32 and lr 1e-3; the time of an epoch differs between trials."""
    best = 3 + abs(math.log10(trial.run["lr"]) + 3) - math.log2(trial.run["rank"]) / 10
    metrics = [{SCORE: best + 0.5**epoch, "trainable_parameters": 100.0 * trial.run["rank"]} for epoch in (1, 2, 3)]
    return Curve(metrics=metrics, seconds=[1.0 + int(trial.name) % 5] * 3)


def trials_of(strategy: Strategy, workers: int) -> list[tuple[Any, ...]]:
    """Run a search over curves that are known; return its trials."""
    ReplayBackend(curve, workers=workers).run(strategy)
    return [(t.name, tuple(t.point.items()), t.status, t.stopped_at) for t in strategy.ledger.state.trials.values()]


class SamplerContract(Contract):
    """The contract of a sampler. A case has its name as `sampler`, and values of its keys and of Method."""

    search: ClassVar[Search] = CONTRACT

    def plan(self, case: Settings) -> Plan:
        """Return the plan of a search with the sampler of a case."""
        keys = SAMPLERS[case["sampler"]].keys.model_fields
        method: Mapping[str, Any] = {key: value for key, value in case.items() if key not in keys}
        own = {key: value for key, value in case.items() if key in keys}
        return make_plan(
            self.search, "quick", method=Method(**method, settings=own), comparing=Comparing(objective=SCORE)
        )

    def test_it_stays_in_the_space_and_repeats_nothing(self, case: Settings) -> None:
        strategy = Strategy(self.plan(case), MemoryLedger())
        trials_of(strategy, workers=2)
        points = [(trial.point["rank"], trial.point["lr"]) for trial in strategy.ledger.state.searched]
        assert len(points) == len(set(points)) == 18
        assert all(rank in RANKS and LOW <= lr <= HIGH for rank, lr in points)

    def test_the_speed_of_workers_and_kills_change_nothing(self, case: Settings) -> None:
        plan = self.plan(case)
        expected = trials_of(Strategy(plan, MemoryLedger()), workers=3)
        assert trials_of(Strategy(plan, MemoryLedger()), workers=8) == expected
        assert trials_of(Rebuilt(plan, MemoryLedger()), workers=3) == expected
