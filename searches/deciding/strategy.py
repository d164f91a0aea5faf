"""What a search does next, as a function of its plan and its ledger alone: no worker's speed and no kill changes it.

Trial n is proposed when all trials but the last `State.lag` before it are settled, and its sampler was told just of those. A
trial is settled when it has ended and its stopping rule has nothing more to say.
"""

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from gpt2core.config import RunConfig
from searches.deciding.objectives import Ranking, excesses, ranked, values
from searches.deciding.population import Population
from searches.deciding.samplers import SAMPLERS, UNCONSTRAINED, distribution, experimental, inherit_space, points
from searches.deciding.stopping import SCHEDULERS, Rule
from searches.question import Plan
from searches.running.budget import BUDGET
from searches.running.ledger import CLONE, COMPLETED, RUNNING, STOPPED, Event, Ledger, State, Trial

ATTEMPTS = 100  # proposals in a row that may repeat known points before no more are made
AHEAD = 2  # trials that a new one does not wait for, in units of trials at once: a slow trial leaves no worker idle

WAIT: Literal["wait"] = "wait"
DONE: Literal["done"] = "done"
Next = Trial | Literal["wait", "done"]


class Strategy:
    """Proposes the trials of a plan, then replicates of the best ones and the baseline; writes all decisions to the ledger."""

    def __init__(
        self, plan: Plan, ledger: Ledger, study: optuna.Study, may_search: Callable[[], bool] = lambda: True
    ) -> None:
        self.plan, self.ledger, self.study = plan, ledger, study
        self.may_search = may_search  # whether the budget has room for more than replicates
        self.rule: Rule = SCHEDULERS[plan.method.scheduler](plan)
        self.population = Population(plan) if plan.method.scheduler == "pbt" else None
        self.wanted = self.population.trials if self.population else plan.profile.trials
        self.distributions = {key: distribution(domain) for key, domain in plan.space.items()}
        finite = points(plan)
        self.points = None if finite is None else deque(finite)  # known ones are dropped as they come to the front
        self.known = {identity(RunConfig.of(trial.run)) for trial in ledger.state.searched}
        self.stopping: list[Trial] = []  # what the last report has ended
        self.settled = 0  # leading trials of the search that are
        self.exhausted = False  # whether all points of the space have had a trial
        self.ranking = Ranking(plan, ledger.state, lambda trial: _may_win(trial, plan))
        ledger.listeners.append(self.ranking)
        self._advance()
        self._restore()
        asked = study.get_trials(deepcopy=False)
        told = (t.optuna is None or asked[t.optuna].state.is_finished() for t in ledger.state.searched)
        self.told = sum(1 for _ in itertools.takewhile(bool, told))
        self.unnoted = self._unnoted()

    # what happens

    def report(self, trial: Trial, event: Event) -> list[Trial]:
        """Note the report of an epoch; return the trials that are to stop now."""
        if event["epoch"] in trial.reports:
            return []
        self.ledger.record(event)
        self.stopping.clear()
        self._plateau(trial)
        self._advance()
        return [stopped for stopped in self.stopping if stopped.status == RUNNING]

    def end(self, trial: Trial, status: str, reason: str | None) -> None:
        """Note how a trial ended."""
        if status in (COMPLETED, STOPPED):
            status = COMPLETED if trial.stopped_at is None and max(trial.reports) >= trial.epochs else STOPPED
        self.ledger.record({"event": "ended", "trial": trial.name, "status": status, "reason": reason})
        self._advance()

    def stop(self, trial: Trial, epoch: int, reason: str) -> None:
        """End a trial at an epoch, unless it was ended before that."""
        if trial.stopped_at is None or epoch < trial.stopped_at:
            self.ledger.record({"event": "stopped", "trial": trial.name, "epoch": epoch, "reason": reason})
            self.stopping.append(trial)

    def clone(self, original: Trial, run: RunConfig, changes: Mapping[str, Any]) -> Trial:
        """Note a trial that goes on from another's last checkpoint with other settings. It is beside the search: the sampler
        does not learn of it, no rule stops it, but it may win."""
        number = sum(
            trial.parent == original.name and trial.origin == CLONE for trial in self.ledger.state.trials.values()
        )
        name = f"{original.name}-c{number + 1}"
        return self._record(name, {**original.point, **changes}, run, CLONE, parent=original.name)

    def _plateau(self, trial: Trial) -> None:
        """Where it was asked for, end a trial that has not become better for so many epochs."""
        patience, best = self.plan.method.plateau, trial.best(self.plan.objective, self.plan.direction)
        last = max(trial.counted)
        if patience is not None and best is not None and last - best["epoch"] >= patience and last < trial.epochs:
            self.stop(trial, last, f"no better for {patience} epochs")

    def _advance(self) -> None:
        """Let the rule decide what it can, and count the trials that are settled."""
        trials = self.ledger.state.searched
        self.rule.advance(trials, lambda trial, epoch: self.stop(trial, epoch, "not among the best at its rung"))
        while self.settled < len(trials):
            if trials[self.settled].status == RUNNING or not self.rule.decided(self.settled):
                break
            self.settled += 1

    # what is next

    def next(self) -> Next:
        """Propose a trial, and note it; WAIT where that takes what is not known yet, DONE where there is nothing left to do."""
        trials = self.ledger.state.searched
        number = len(trials)
        if number < self.wanted and not self.exhausted and self.may_search():
            if self.settled < self._needs(number):
                return WAIT
            self._tell(self._needs(number))
            proposed = self._propose(trials)
            if proposed is not None:
                return proposed
            self.exhausted = True
        if self.settled < number:
            return WAIT
        self._tell(number)
        return self._replicate()

    def _needs(self, number: int) -> int:
        """How many of the first trials must be settled before trial `number`."""
        if self.population is not None:
            return self.population.needs(number)
        return max(0, number - self.ledger.state.lag)

    def _propose(self, trials: list[Trial]) -> Trial | None:
        number = len(trials)
        if self.population is not None and number >= self.population.size:
            member = self.population.member(trials, number)
            run = self.plan.config(member.point)
            name = f"{number:04d}"
            return self._record(name, member.point, run, "population", parent=member.parent, until=member.until)
        first = self.plan.first_points()
        if number < len(first):
            self.study.enqueue_trial(first[number], skip_if_exists=True)
        for attempt in range(ATTEMPTS):
            if self.points is not None and number >= len(first) and (attempt or self.plan.method.sampler == "grid"):
                while self.points and identity(self.plan.config(self.points[0])) in self.known:
                    self.points.popleft()
                if not self.points:
                    return None
                self.study.enqueue_trial(self.points[0])
            asked = self._ask(number, attempt)
            run = self.plan.config(asked.params)
            if identity(run) not in self.known:
                self.known.add(identity(run))
                until = self.population.until(number) if self.population else None
                origin = _origin(asked.params, self.plan)
                return self._record(f"{number:04d}", asked.params, run, origin, optuna=asked.number, until=until)
            self.ledger.record({"event": "duplicate", "point": asked.params})
            self.study.tell(asked.number, state=TrialState.FAIL)
        return None

    def _restore(self) -> None:
        """Give a study the trials of the ledger back that it has lost, under the numbers that they had, or a part of."""
        noted = {trial.optuna: trial for trial in self.ledger.state.searched if trial.optuna is not None}
        kept = self.study.get_trials(deepcopy=False)
        for asked in kept:
            whole = noted[asked.number].point if asked.number in noted else {}
            for key in [] if asked.state.is_finished() else whole.keys() - asked.params.keys():
                domain = self.distributions[key]
                value = domain.to_internal_repr(whole[key])
                self.study._storage.set_trial_param(asked._trial_id, key, value, domain)
        for number in range(len(kept), max(noted, default=-1) + 1):
            known = noted.get(number)
            state = TrialState.RUNNING if known else TrialState.FAIL
            params, space = (known.point, self.distributions) if known else ({}, {})
            self.study.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=space))

    def _unnoted(self) -> list[optuna.trial.FrozenTrial]:
        """Points that a killed driver had asked for and not noted; those that it had only half of are dropped."""
        noted = {trial.optuna for trial in self.ledger.state.searched}
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        unnoted = [asked for asked in running if asked.number not in noted]
        whole = [asked for asked in unnoted if asked.params.keys() == self.distributions.keys()]
        for asked in unnoted:
            if asked not in whole:
                self.study.tell(asked.number, state=TrialState.FAIL)
        return whole

    def _ask(self, number: int, attempt: int) -> optuna.trial.FrozenTrial | optuna.Trial:
        """The next point of the sampler, seeded by what it is for."""
        if self.unnoted:
            return self.unnoted.pop(0)
        seed = np.random.SeedSequence((self.plan.seed, number, attempt)).generate_state(1)[0]
        sampler = SAMPLERS[self.plan.method.sampler](self.plan, int(seed))
        inherit_space(sampler, self.study.sampler)
        self.study.sampler = sampler
        return self.study.ask(self.distributions)

    def _replicate(self) -> Next:
        """The next replicate of a finalist that there is not; WAIT while some run, DONE when all have ended."""
        for number in range(
            1, self.plan.profile.replicates + 1
        ):  # side by side: a budget may end the search in between
            for name in _with_baseline(self.ranking, self.ledger.state, self.plan):
                original, repeat = self.ledger.state.trials[name], f"{name}-r{number}"
                if repeat not in self.ledger.state.trials:
                    run = RunConfig.of({**original.run, "seed": self.plan.seed + number})
                    return self._record(repeat, original.point, run, "replicate", of=name)
        return WAIT if self.ledger.state.clock.running else DONE

    def _record(self, name: str, point: dict[str, Any], run: RunConfig, origin: str, **fields: Any) -> Trial:
        trial = {"name": name, "point": dict(point), "run": run.model_dump(), "origin": origin, **fields}
        self.ledger.record({"event": "proposed", "trial": trial})
        return self.ledger.state.trials[name]

    # what Optuna knows

    def _tell(self, number: int) -> None:
        """Tell Optuna of the first `number` trials, in order, where it was not told of them."""
        while self.told < number:
            trial = self.ledger.state.searched[self.told]
            if trial.reason == BUDGET:
                return  # it goes on with a larger budget
            if trial.optuna is not None:
                self._tell_one(trial, self._asked(trial.optuna))
            self.told += 1

    def _asked(self, number: int) -> optuna.trial.FrozenTrial:
        """A trial of the study; its own list of them all is made anew each time."""
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    def _tell_one(self, trial: Trial, asked: optuna.trial.FrozenTrial) -> None:
        """Tell the best score; a stopped or failed trial is told as pruned: its region counts as poor, not as unknown.

        With several objectives Optuna knows no pruning: a stopped trial has the values that it came to.
        """
        handle = optuna.trial.Trial(self.study, asked._trial_id)
        for key, excess in excesses(trial, self.plan).items():
            if key not in asked.constraints and self.plan.method.sampler not in UNCONSTRAINED:
                handle.set_constraint(key, excess)
        found = values(trial, self.plan)
        if self.plan.method.minimize:
            if found is None or trial.status not in (COMPLETED, STOPPED):
                self.study.tell(asked.number, state=TrialState.FAIL)
            else:
                self.study.tell(asked.number, [self._score(found), *found[1:]])
            return
        for epoch in trial.counted:
            score = trial.score(self.plan.objective, self.plan.direction, epoch)
            if score is not None and epoch not in asked.intermediate_values:
                handle.report(score, epoch)
        if trial.status == COMPLETED and found is not None:
            self.study.tell(asked.number, self._score(found))
        else:
            self.study.tell(asked.number, state=TrialState.PRUNED)

    def _score(self, values: Sequence[float]) -> float:
        """The task's objective among `values`, as the task has it."""
        return -values[0] if self.plan.direction == "max" else values[0]


def finalists(state: State, plan: Plan) -> list[str]:
    """The best trials that are not the baseline, `Profile.confirm` of them, then the baseline; none where either has no score."""
    return _with_baseline(ranked([t for t in state.trials.values() if _may_win(t, plan)], plan), state, plan)


def _may_win(trial: Trial, plan: Plan) -> bool:
    """Whether a trial is of the search or a clone, and the last of its kind: in a population it and its successors are one."""
    return trial.of is None and (trial.until is None or trial.until >= plan.epochs)


def _with_baseline(best_first: Iterable[Trial], state: State, plan: Plan) -> list[str]:
    baseline = next((trial for trial in state.searched if trial.origin == "baseline"), None)
    if baseline is None or baseline.score(plan.objective, plan.direction) is None:
        return []
    others = (trial.name for trial in best_first if trial is not baseline)
    best = list(itertools.islice(others, plan.profile.confirm))
    return [*best, baseline.name] if best else []


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


def open_study(name: str, storage_path: Path, plan: Plan) -> optuna.Study:
    """Open the Optuna study of a search, whose journal file outlives the driver; `optuna-dashboard` opens it too."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return new_study(name, optuna.storages.JournalStorage(Journal(storage_path)), plan)


def new_study(name: str, storage: optuna.storages.BaseStorage | None, plan: Plan) -> optuna.Study:
    """A study of a plan's objectives."""
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


def _origin(params: dict[str, Any], plan: Plan) -> str:
    first = plan.first_points()
    if params not in first:
        return "sampler"
    return "baseline" if params == first[0] else "study"
