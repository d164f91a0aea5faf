"""What a sampler knows: the trials of one value of the factor, as an Optuna study; of a search without a factor, all trials."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from gpt2core.config import RunConfig
from searches.deciding.objectives import excesses, values
from searches.deciding.samplers import SAMPLERS, UNCONSTRAINED, distribution, experimental, inherit_space, points
from searches.question import Level, Plan, Point
from searches.running.ledger import COMPLETED, STOPPED, State, Trial

ATTEMPTS = 100  # proposals in a row that may repeat known points before no more are made


@dataclass(frozen=True)
class Proposal:
    """A point of the whole space, its run, and its number in the study."""

    point: dict[str, Any]
    run: RunConfig
    number: int


class View:
    """Proposes points of one of `Plan.views`, from what the trials in it gave."""

    def __init__(self, plan: Plan, level: Level, state: State, storage: optuna.storages.BaseStorage | None) -> None:
        self.plan, self.level, self.name = plan, level, level.name
        self.study = new_study(f"{plan.search.name} {self.name}".strip(), storage, plan)
        space = plan.space
        self.space = {key: space[key] for key in level.active}
        self.distributions = {key: distribution(domain) for key, domain in self.space.items()}
        finite = points(plan, self.space)
        self.points = None if finite is None else deque(finite)  # known ones are dropped as they come to the front
        self.exhausted = False  # whether all of its points have had a trial
        mine = [trial for trial in state.searched if plan.view_of(trial.point).name == level.name]
        self._restore(mine)
        self.unnoted = self._unnoted(mine)

    def propose(
        self, number: int, known: Point | None, seen: set[str], duplicate: Callable[[Point], None]
    ) -> Proposal | None:
        """The next point, for trial `number` of those of this view: the `known` one where it is given; None where all points have
        been `seen`.

        The sampler is seeded by that number: what it draws at random is the same for each value of the factor, so which of them
        was luckier in what it was tuned with does not decide between them.
        """
        if known is not None:
            self.study.enqueue_trial({key: known[key] for key in self.space}, skip_if_exists=True)
        for attempt in range(ATTEMPTS):
            if self.points is not None and known is None and (attempt or self.plan.method.sampler == "grid"):
                while self.points and identity(self._run(self.points[0])) in seen:
                    self.points.popleft()
                if not self.points:
                    return None
                self.study.enqueue_trial(self.points[0])
            asked = self._ask(number, attempt)
            point = self._whole(asked.params)
            run = self.plan.config(point)
            key = identity(run)
            if key not in seen:
                is_known = known is not None and key == identity(self._run(known))
                return Proposal(dict(known) if known and is_known else point, run, asked.number)
            duplicate(point)
            self.study.tell(asked.number, state=TrialState.FAIL)
        return None

    def tell(self, trial: Trial) -> None:
        """Tell the best score of a trial; a stopped or failed one is told as pruned: its region counts as poor, not as unknown.

        With several objectives Optuna knows no pruning: a stopped trial has the values that it came to.
        """
        assert trial.optuna is not None
        asked, plan = self._asked(trial.optuna), self.plan
        handle = optuna.trial.Trial(self.study, asked._trial_id)
        for key, excess in excesses(trial, plan).items():
            if key not in asked.constraints and plan.method.sampler not in UNCONSTRAINED:
                handle.set_constraint(key, excess)
        found = values(trial, plan)
        if plan.method.minimize:
            if found is None or trial.status not in (COMPLETED, STOPPED):
                self.study.tell(asked.number, state=TrialState.FAIL)
            else:
                self.study.tell(asked.number, [self._score(found), *found[1:]])
            return
        for epoch in trial.counted:
            score = trial.score(plan.objective, plan.direction, epoch)
            if score is not None and epoch not in asked.intermediate_values:
                handle.report(score, epoch)
        if trial.status == COMPLETED and found is not None:
            self.study.tell(asked.number, self._score(found))
        else:
            self.study.tell(asked.number, state=TrialState.PRUNED)

    def knows(self, trial: Trial) -> bool:
        """Whether the study was told of a trial."""
        return trial.optuna is not None and self._asked(trial.optuna).state.is_finished()

    def _whole(self, params: Point) -> dict[str, Any]:
        """A point of the whole space: keys that this value of the factor does not read are the reference's."""
        point = {**self.plan.search.reference, **self.level.point, **params}
        return {key: point[key] for key in self.plan.space}

    def _run(self, params: Point) -> RunConfig:
        return self.plan.config(self._whole(params))

    def _score(self, values: Sequence[float]) -> float:
        """The task's objective among `values`, as the task has it."""
        return -values[0] if self.plan.direction == "max" else values[0]

    def _ask(self, number: int, attempt: int) -> optuna.trial.FrozenTrial | optuna.Trial:
        """The next point of the sampler, seeded by what it is for."""
        if self.unnoted:
            return self.unnoted.pop(0)
        seed = np.random.SeedSequence((self.plan.seed, number, attempt)).generate_state(1)[0]
        sampler = SAMPLERS[self.plan.method.sampler](self.plan, int(seed))
        inherit_space(sampler, self.study.sampler)
        self.study.sampler = sampler
        return self.study.ask(self.distributions)

    def _asked(self, number: int) -> optuna.trial.FrozenTrial:
        """A trial of the study; its own list of them all is made anew each time."""
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    def _restore(self, trials: Sequence[Trial]) -> None:
        """Rebuild the trials of the ledger that the study lacks, under the numbers that they had, or a part of them.

        Raises ValueError where it has others than the ledger.
        """
        noted = {trial.optuna: trial for trial in trials if trial.optuna is not None}
        kept = self.study.get_trials(deepcopy=False)
        for asked in kept:
            whole = self._part(noted[asked.number].point) if asked.number in noted else {}
            if any(asked.params[key] != whole[key] for key in asked.params.keys() & whole.keys()):
                raise ValueError(f"trial {asked.number} is not the ledger's")
            for key in [] if asked.state.is_finished() else whole.keys() - asked.params.keys():
                domain = self.distributions[key]
                value = domain.to_internal_repr(whole[key])
                self.study._storage.set_trial_param(asked._trial_id, key, value, domain)
        for number in range(len(kept), max(noted, default=-1) + 1):
            known = noted.get(number)
            state = TrialState.RUNNING if known else TrialState.FAIL
            params, space = (self._part(known.point), self.distributions) if known else ({}, {})
            self.study.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=space))

    def _part(self, point: Point) -> dict[str, Any]:
        return {key: point[key] for key in self.space}

    def _unnoted(self, trials: Sequence[Trial]) -> list[optuna.trial.FrozenTrial]:
        """Points that a killed driver had asked for and not noted; those that it had only half of are dropped."""
        noted = {trial.optuna for trial in trials}
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        unnoted = [asked for asked in running if asked.number not in noted]
        whole = [asked for asked in unnoted if asked.params.keys() == self.distributions.keys()]
        for asked in unnoted:
            if asked not in whole:
                self.study.tell(asked.number, state=TrialState.FAIL)
        return whole


class Journal(JournalFileBackend):
    """Optuna's journal without its flush to the disk for each value of a point, which took most of a proposal's time.

    It outlives this process all the same, and what a machine that goes down loses of it, the ledger gives back. Nor does it take
    Optuna's lock: the ledger's own says that no other driver is there, and nothing is left behind by one that is killed.
    """

    def __init__(self, path: Path):
        """Open or create; a last line that was written in part is as good as lost."""
        super().__init__(str(path))
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write in one piece."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with Path(self._file_path).open("ab") as file:
            file.write("".join(lines).encode())


def open_storage(path: Path) -> optuna.storages.BaseStorage:
    """Open the storage of a search's studies, whose journal file outlives the driver; `optuna-dashboard` opens it too."""
    return optuna.storages.JournalStorage(Journal(path))


def new_study(name: str, storage: optuna.storages.BaseStorage | None, plan: Plan) -> optuna.Study:
    """A study of a plan's objectives."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    quality = StudyDirection.MAXIMIZE if plan.direction == "max" else StudyDirection.MINIMIZE
    directions = [quality, *(StudyDirection.MINIMIZE for _ in plan.method.minimize)]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    if study.metric_names is None:  # what optuna-dashboard calls the axes
        with experimental():
            study.set_metric_names([plan.objective, *plan.method.minimize])
    return study


def identity(run: RunConfig) -> str:
    """What decides a run's result, as one text."""
    return json.dumps(run.identity(), sort_keys=True)
