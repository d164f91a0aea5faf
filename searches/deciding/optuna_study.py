"""What a search algorithm knows: the trials of one value of the factor, as an Optuna study; of a search without a factor, all
trials. The study is in memory, and is rebuilt from the ledger when a search starts or goes on."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from gpt2core.config import RunConfig
from gpt2core.identity import identity as identity_of
from gpt2core.metrics.direction import Direction
from searches.deciding.objectives import excesses, values
from searches.deciding.samplers import SAMPLERS, distribution, experimental, inherit_space, points
from searches.question import Level, Plan, Point
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, State, Trial

ATTEMPTS = 100  # proposals in a row that may repeat known points before no more are made
POPULATION = (
    "population"  # the origin of trials that population-based training made, of which no search algorithm knows
)


@dataclass(frozen=True)
class Proposal:
    """A point of the whole space, and its run."""

    point: dict[str, Any]
    run: RunConfig


class View:
    """Proposes points of one of `Plan.views`, from what the trials in it gave."""

    def __init__(self, plan: Plan, level: Level, storage: optuna.storages.BaseStorage | None = None) -> None:
        self.plan, self.level, self.name = plan, level, level.name
        self.study = new_study(f"{plan.search.name} {self.name}".strip(), storage, plan)
        space = plan.space
        self.space = {key: space[key] for key in level.active}
        self.distributions = {key: distribution(domain) for key, domain in self.space.items()}
        finite = points(plan, self.space)
        self.points = None if finite is None else deque(finite)  # known ones are dropped as they come to the front
        self.exhausted = False  # whether all of its points have had a trial
        self.asked: dict[str, optuna.Trial] = {}  # by name, the trials that the study holds as running

    def propose(
        self, name: str, number: int, known: Point | None, seen: set[str], duplicate: Callable[[Point], None]
    ) -> Proposal | None:
        """The next point, for trial `number` of those of this view: the `known` one where it is given; None where all points have
        been `seen`. From then on, the study holds trial `name` as running.

        The sampler is seeded by that number: what it draws at random is the same for each value of the factor, so which of them
        was luckier in what it was tuned with does not decide between them.
        """
        if known is not None:
            self._enqueue(known)
        for attempt in range(ATTEMPTS):
            if self.points is not None and known is None and (attempt or self.plan.method.sampler == "grid"):
                while self.points and identity(self._run(self.points[0])) in seen:
                    self.points.popleft()
                if not self.points:
                    return None
                self._enqueue(self.points[0])
            asked = self._ask(number, attempt)
            point = self._whole(asked.params)
            run = self.plan.config(point)
            key = identity(run)
            if key not in seen:
                self.asked[name] = asked
                is_known = known is not None and key == identity(self._run(known))
                return Proposal(dict(known) if known and is_known else point, run)
            duplicate(point)
            self.study.tell(asked, state=TrialState.FAIL)
        return None

    def restore(self, trial: Trial, number: int, seen: set[str]) -> None:
        """Take in a trial that the ledger has, as `propose` would.

        A stateful sampler proposes it once more, for what it notes beside. Where that gives another point, as a later version of
        Optuna may, the ledger's counts.
        """
        if trial.origin == "sampler" and SAMPLERS[self.plan.method.sampler].is_stateful:
            again = self.propose(trial.name, number, None, seen, lambda point: None)
            if again is not None and again.point == trial.point:
                return
            if again is not None:
                self.study.tell(self.asked[trial.name], state=TrialState.FAIL)
        self.add(trial)

    def add(self, trial: Trial) -> None:
        """Take in a trial as running; no sampler is asked, for all its values are given."""
        self._enqueue(trial.point)
        self.asked[trial.name] = self.study.ask(self.distributions)

    def tell(self, trial: Trial) -> None:
        """Tell the best score of a trial; a stopped or failed one is told as pruned: its region counts as poor, not as unknown.

        With several objectives Optuna knows no pruning: a stopped trial has the values that it came to.
        """
        asked, plan = self.asked.pop(trial.name), self.plan
        if SAMPLERS[plan.method.sampler].learns_limits:
            for key, excess in excesses(trial, plan).items():
                asked.set_constraint(key, excess)
        reached = values(trial, plan)
        if plan.method.minimize:
            if reached is None or trial.status not in (COMPLETED, STOPPED):
                self.study.tell(asked, state=TrialState.FAIL)
            else:
                self.study.tell(asked, [self._score(reached), *reached[1:]])
            return
        for epoch in trial.counted:
            score = trial.score(plan.objective, plan.direction, epoch)
            if score is not None:
                asked.report(score, epoch)
        if trial.status == COMPLETED and reached is not None:
            self.study.tell(asked, self._score(reached))
        else:
            self.study.tell(asked, state=TrialState.PRUNED)

    def _whole(self, params: Point) -> dict[str, Any]:
        """A point of the whole space: keys that this value of the factor does not read are the reference's."""
        point = {**self.plan.search.reference, **self.level.point, **params}
        return {key: point[key] for key in self.plan.space}

    def _run(self, params: Point) -> RunConfig:
        return self.plan.config(self._whole(params))

    def _score(self, values: Sequence[float]) -> float:
        """The task's objective among `values`, as the task has it."""
        return -self.plan.direction.sign * values[0]

    def _enqueue(self, point: Point) -> None:
        """Have the study propose a point next."""
        self.study.enqueue_trial({key: point[key] for key in self.space})

    def _ask(self, number: int, attempt: int) -> optuna.Trial:
        """The next point of the sampler, seeded by what it is for."""
        seed = np.random.SeedSequence((self.plan.seed, number, attempt)).generate_state(1)[0]
        sampler = SAMPLERS[self.plan.method.sampler].make(self.plan, int(seed))
        inherit_space(sampler, self.study.sampler)
        self.study.sampler = sampler
        return self.study.ask(self.distributions)


def studies(plan: Plan, state: State, storage: optuna.storages.BaseStorage | None = None) -> dict[str, optuna.Study]:
    """The trials of a ledger as Optuna has them, in a study for each of `Plan.views`, by its name."""
    views = {level.name: View(plan, level, storage) for level in plan.views}
    for trial in state.searched:
        if trial.origin != POPULATION:
            view = views[plan.view_of(trial.point).name]
            view.add(trial)
            if trial.status != RUNNING:
                view.tell(trial)
    return {name: view.study for name, view in views.items()}


def new_study(name: str, storage: optuna.storages.BaseStorage | None, plan: Plan) -> optuna.Study:
    """A study of a plan's objectives."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    quality = StudyDirection.MAXIMIZE if plan.direction is Direction.MAX else StudyDirection.MINIMIZE
    directions = [quality, *(StudyDirection.MINIMIZE for _ in plan.method.minimize)]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    if study.metric_names is None:  # what optuna-dashboard calls the axes
        with experimental():
            study.set_metric_names([plan.objective, *plan.method.minimize])
    return study


def identity(run: RunConfig) -> str:
    """What decides a run's result, as one text."""
    return json.dumps(identity_of(run), sort_keys=True)
