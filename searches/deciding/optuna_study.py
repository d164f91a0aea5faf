"""The Optuna study behind a sampler: one per value of the factor, or one for a search without a factor.

Studies live in memory and are rebuilt from the ledger when a search starts or resumes.
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from gpt2core.metrics.direction import Direction
from searches.deciding.objectives import excesses, values
from searches.deciding.samplers import SAMPLERS, experimental, inherit_space, points, suggest
from searches.plan import Level, Plan
from searches.question import Point
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, State, Trial
from trainables.runs import Run, identity_of

ATTEMPTS = 100  # duplicate proposals in a row, after which a view counts as exhausted
POPULATION = "population"  # the origin of trials that population-based training made; samplers are not told of them


class View:
    """Proposes points of one of `Plan.views` from the results of that view's trials."""

    def __init__(self, plan: Plan, level: Level) -> None:
        self.plan, self.level, self.name = plan, level, level.name
        self.study = new_study(f"{plan.search.name} {self.name}".strip(), None, plan)
        finite = points(plan, level)
        self.points = None if finite is None else deque(finite)  # known points are dropped once they come first
        self.exhausted = False  # whether all of its points have had a trial
        self.running: dict[str, optuna.Trial] = {}  # by name: the trials that run, for the study

    def propose(
        self, name: str, number: int, known: Point | None, seen: set[str], duplicate: Callable[[Point], None]
    ) -> tuple[dict[str, Any], Run] | None:
        """Return point and run of trial `number` of this view, `known` or the sampler's; None if all points were `seen`.

        From then on, trial `name` runs, for the study. The sampler is seeded by `number`, so each value of the factor gets the
        same random draws and none is luckier than the others.
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
            optuna_trial = self._ask(number, attempt)
            point = self._draw(optuna_trial)
            run = self.plan.run(point)
            key = identity(run)
            if key not in seen:
                self.running[name] = optuna_trial
                is_known = known is not None and key == identity(self._run(known))
                return dict(known) if known and is_known else point, run
            duplicate(point)
            self.study.tell(optuna_trial, state=TrialState.FAIL)
        return None

    def restore(self, trial: Trial, number: int, seen: set[str]) -> None:
        """Add a trial of the ledger, with the same effect as `propose`.

        A stateful sampler proposes it again, to update its notes. If it proposes another point, as a later version of Optuna may,
        the ledger's point counts.
        """
        if trial.origin == "sampler" and SAMPLERS[self.plan.method.sampler].is_stateful:
            again = self.propose(trial.name, number, None, seen, lambda point: None)
            if again is not None and again[0] == trial.point:
                return
            if again is not None:
                self.study.tell(self.running[trial.name], state=TrialState.FAIL)
        self.add(trial)

    def add(self, trial: Trial) -> None:
        """Add a trial as running, without asking the sampler: its point is given."""
        self._enqueue(trial.point)
        self.running[trial.name] = self.study.ask()
        self._draw(self.running[trial.name])

    def tell(self, trial: Trial) -> None:
        """Tell the study a trial's best score. A stopped or failed trial is told as pruned, so its region counts as poor.

        With several objectives Optuna has no pruning, so a stopped trial is told with the values that it reached.
        """
        optuna_trial, plan = self.running.pop(trial.name), self.plan
        if SAMPLERS[plan.method.sampler].learns_limits:
            for key, excess in excesses(trial, plan).items():
                optuna_trial.set_constraint(key, excess)
        reached = values(trial, plan)
        if plan.method.minimize:
            if reached is None or trial.status not in (COMPLETED, STOPPED):
                self.study.tell(optuna_trial, state=TrialState.FAIL)
            else:
                self.study.tell(optuna_trial, [self._score(reached), *reached[1:]])
            return
        for epoch in trial.counted:
            score = trial.score(plan.objective, plan.direction, epoch)
            if score is not None:
                optuna_trial.report(score, epoch)
        if trial.status == COMPLETED and reached is not None:
            self.study.tell(optuna_trial, self._score(reached))
        else:
            self.study.tell(optuna_trial, state=TrialState.PRUNED)

    def _draw(self, optuna_trial: optuna.Trial) -> dict[str, Any]:
        """Draw the keys that are active at the values drawn so far; return the point."""
        point, plan = dict(self.level.point), self.plan
        for key in self.level.drawn:
            if key in plan.conditions.active(point):
                point[key] = suggest(optuna_trial, key, plan.space[key])
        return plan.complete(point)

    def _run(self, params: Point) -> Run:
        return self.plan.run({**self.level.point, **params})

    def _score(self, values: Sequence[float]) -> float:
        """Return the task's objective with its own sign."""
        return -self.plan.direction.sign * values[0]

    def _enqueue(self, point: Point) -> None:
        self.study.enqueue_trial({key: point[key] for key in self.level.drawn if key in point})

    def _ask(self, number: int, attempt: int) -> optuna.Trial:
        """Ask a new sampler, seeded by trial and attempt, for the next point."""
        seed = np.random.SeedSequence((self.plan.seed, number, attempt)).generate_state(1)[0]
        sampler = SAMPLERS[self.plan.method.sampler].make(self.plan, int(seed))
        inherit_space(sampler, self.study.sampler)
        self.study.sampler = sampler
        return self.study.ask()


def studies(plan: Plan, state: State) -> dict[str, optuna.Study]:
    """Return a ledger's trials as Optuna studies, one for each of `Plan.views`, by name."""
    views = {level.name: View(plan, level) for level in plan.views}
    for name, trials in trials_by_view(plan, state).items():
        for trial in trials:
            views[name].add(trial)
            if trial.status != RUNNING:
                views[name].tell(trial)
    return {name: view.study for name, view in views.items()}


def trials_by_view(plan: Plan, state: State) -> dict[str, list[Trial]]:
    """Return the trials that samplers are told of, by name of their view, in the order of their proposals."""
    trials: dict[str, list[Trial]] = {level.name: [] for level in plan.views}
    for trial in state.searched:
        if trial.origin != POPULATION:
            trials[plan.view_of(trial.point).name].append(trial)
    return trials


def new_study(name: str, storage: optuna.storages.BaseStorage | None, plan: Plan) -> optuna.Study:
    """Return a study with a plan's objectives."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its QMC sampler warns of conditional keys
    quality = StudyDirection.MAXIMIZE if plan.direction is Direction.MAX else StudyDirection.MINIMIZE
    directions = [quality, *(StudyDirection.MINIMIZE for _ in plan.method.minimize)]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    if study.metric_names is None:  # optuna-dashboard labels its axes with them
        with experimental():
            study.set_metric_names([plan.objective, *plan.method.minimize])
    return study


def identity(run: Run) -> str:
    """Return all that decides a run's result, as one string."""
    return json.dumps(identity_of(run), sort_keys=True)
