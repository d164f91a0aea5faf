"""What a search does next, as a function of its plan and its ledger alone: no worker's speed and no kill changes it.

Trial n is proposed when all trials but the last `State.lag` before it are settled, and its sampler was told just of those. A
trial is settled when it has ended and its early-stopping rule has nothing more to say. Where the question is about a factor, its
values take turns, each with a sampler of its own (`optuna_study.py`): so each is tuned with the same number of trials.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from gpt2core.config import RunConfig
from searches.deciding.confirmation import is_decided
from searches.deciding.objectives import Ranking, ranked
from searches.deciding.optuna_study import POPULATION, View, identity
from searches.deciding.population import Population
from searches.deciding.stopping import SCHEDULERS, Rule
from searches.question import Plan
from searches.running.budget import BUDGET
from searches.running.ledger import CLONE, COMPLETED, RUNNING, STOPPED, Event, Ledger, State, Trial

WAIT: Literal["wait"] = "wait"
DONE: Literal["done"] = "done"
Next = Trial | Literal["wait", "done"]


class Strategy:
    """Proposes the trials of a plan, then replicates of what is compared; writes all decisions to the ledger.

    A `Backend` runs them: it starts what `next` hands out, passes each `report` on, ends what that stops, and says of each trial
    how it came to its `end`.
    """

    def __init__(self, plan: Plan, ledger: Ledger, may_search: Callable[[], bool] = lambda: True) -> None:
        self.plan, self.ledger = plan, ledger
        self.may_search = may_search  # whether the budget has room for more than replicates
        self.rule: Rule = SCHEDULERS[plan.method.scheduler].rule(plan)
        self.population = Population(plan) if plan.method.scheduler == "pbt" else None
        self.wanted = self.population.trials if self.population else plan.trials
        self.views = {level.name: View(plan, level) for level in plan.views}
        self.count: Counter[str] = Counter()  # trials of each view
        self.known: set[str] = set()  # what decides the result of each trial
        self.first = [(point, identity(plan.config(point))) for point in plan.known_points()]
        # Trials that were proposed and are to be handed out: those that an earlier driver left running first.
        self.unfinished = [trial for trial in ledger.state.trials.values() if trial.status == RUNNING]
        self.stopping: list[Trial] = []  # what the last report has ended
        self.settled = 0  # leading trials of the search that are
        self.synced_to_optuna = 0  # leading trials whose results the samplers know
        self.exhausted = False  # whether all points of the space have had a trial
        self.ranking = Ranking(plan, ledger.state, lambda trial: _may_win(trial, plan))
        ledger.listeners.append(self.ranking)
        self._advance()
        self._restore()

    def begin(self) -> None:
        """Note, for good, how many trials before it a proposal does not wait for."""
        if not self.ledger.state.lag:
            self.ledger.record({"event": "lag", "trials": self.plan.profile.ahead})

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
        made = self._record(name, {**original.point, **changes}, run, CLONE, parent=original.name)
        self.unfinished.append(made)
        return made

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
        """The next trial to run, first of those that ran when their driver ended; WAIT where that takes what is not known yet,
        DONE where there is nothing left to do."""
        if self.unfinished:
            return self.unfinished.pop(0)
        trials = self.ledger.state.searched
        number = len(trials)
        if number < self.wanted and not self.exhausted and self.may_search():
            if self.settled < self._needs(number):
                return WAIT
            self._sync(number)
            proposed = self._propose(trials)
            if proposed is not None:
                return proposed
            self.exhausted = True
        return WAIT if self.settled < number else self._replicate()

    def _needs(self, number: int) -> int:
        """How many of the first trials must be settled before trial `number`."""
        if self.population is not None:
            return self.population.needs(number)
        return max(0, number - self.ledger.state.lag)

    def _propose(self, trials: list[Trial]) -> Trial | None:
        number, name = len(trials), f"{len(trials):04d}"
        if self.population is not None and number >= self.population.size:
            member = self.population.member(trials, number)
            run = self.plan.config(member.point)
            return self._record(name, member.point, run, POPULATION, parent=member.parent, until=member.until)
        known = next((point for point, run in self.first if run not in self.known), None)
        views = [self._view(known)] if known else sorted(self._open_views(), key=lambda view: self.count[view.name])
        for view in views:
            proposal = view.propose(name, self.count[view.name], known, self.known, self._duplicate)
            if proposal is None:
                view.exhausted = True
                continue
            self._count(view, proposal.run)
            until = self.population.until(number) if self.population else None
            origin = self.plan.origin(number, proposal.point)
            return self._record(name, proposal.point, proposal.run, origin, until=until)
        return None

    def _count(self, view: View, run: RunConfig) -> None:
        self.known.add(identity(run))
        self.count[view.name] += 1

    def _open_views(self) -> list[View]:
        """The views that may have more trials, in the factor's order."""
        most = self.plan.per_view
        return [view for view in self.views.values() if not view.exhausted and self.count[view.name] < most]

    def _view(self, point: Mapping[str, Any]) -> View:
        return self.views[self.plan.view_of(point).name]

    def _duplicate(self, point: Mapping[str, Any]) -> None:
        self.ledger.record({"event": "duplicate", "point": dict(point)})

    def _replicate(self) -> Next:
        """The next replicate of a finalist that there is not; WAIT while some run, DONE when all have ended, or have decided.

        Finalists run side by side, seed by seed: a budget may end the search in between.
        """
        state, design = self.ledger.state, self.plan.design
        names = _finalists(self.ranking, state, self.plan)
        if design and names and not state.finalists:
            self.ledger.record({"event": "finalists", "trials": names})
        for number in range(1, design.most + 1 if design and names else 1):
            if design and number > design.looks[0]:  # all before it have been looked at
                if state.clock.running:
                    return WAIT
                if is_decided(self.plan, state, names, number - 1):
                    return DONE
            for name in names:
                repeat = f"{name}-r{number}"
                if repeat not in state.trials:
                    original = state.trials[name]
                    return self._record(repeat, original.point, self._again(original, number), "replicate", of=name)
        return WAIT if state.clock.running else DONE

    def _again(self, original: Trial, number: int) -> RunConfig:
        """A trial's run with a fresh seed, which trains everything anew, the first stage too, and scores the texts that judge."""
        first = RunConfig.of(original.run)
        seeds = {"seed": first.seed + number, "pretrain_seed": first.pretrain_seed + number}
        return first.but(**seeds, **self.ledger.state.judges.get("run", {}))

    def _record(self, name: str, point: dict[str, Any], run: RunConfig, origin: str, **fields: Any) -> Trial:
        trial = {"name": name, "point": dict(point), "run": run.model_dump(), "origin": origin, **fields}
        self.ledger.record({"event": "proposed", "trial": trial})
        return self.ledger.state.trials[name]

    # what the samplers know

    def _sync(self, number: int) -> None:
        """Tell the samplers, in order, the results that they know when they propose trial `number`."""
        while self.synced_to_optuna < min(self._needs(number), self.settled):
            trial = self.ledger.state.searched[self.synced_to_optuna]
            if trial.reason == BUDGET:
                return  # it goes on with a larger budget
            if trial.origin != POPULATION:
                self._view(trial.point).tell(trial)
            self.synced_to_optuna += 1

    def _restore(self) -> None:
        """Bring views and samplers to where they were when the ledger's last trial was proposed."""
        for number, trial in enumerate(self.ledger.state.searched):
            self._sync(number)
            view = self._view(trial.point)
            if trial.origin != POPULATION:
                view.restore(trial, self.count[view.name], self.known)
            self._count(view, RunConfig.of(trial.run))


class Backend(Protocol):
    """What runs the trials of a strategy: Ray Tune, or a simulator in a time of its own."""

    def run(self, strategy: Strategy) -> object:
        """Run what the strategy hands out until nothing is left to do, or no budget to do it."""
        ...


def finalists(state: State, plan: Plan) -> list[str]:
    """The trials that are compared on fresh seeds.

    With a factor, the best of each of its values; else the best trials, `Profile.confirm` of them, then the reference (trial 0).
    They stay the same from the first fresh seed on. Empty where there are no two of them.
    """
    return _finalists(ranked([t for t in state.trials.values() if _may_win(t, plan)], plan), state, plan)


def _may_win(trial: Trial, plan: Plan) -> bool:
    """Whether a trial is of the search or a clone, and the last of its kind: in a population it and its successors are one."""
    return trial.of is None and (trial.until is None or trial.until >= plan.epochs)


def _finalists(best_first: Iterable[Trial], state: State, plan: Plan) -> list[str]:
    if state.finalists:  # who is better since then would be chosen by a look
        return state.finalists
    if plan.compares_each:
        best: dict[str, str] = {}
        for trial in best_first:
            best.setdefault(plan.level_of(trial.point).name, trial.name)
        names = [best[level.name] for level in plan.levels if level.name in best]
        return names if len(names) > 1 else []
    reference = next((trial for trial in state.searched if trial.origin == "reference"), None)
    if reference is None or reference.score(plan.objective, plan.direction) is None:
        return []
    others = (trial.name for trial in best_first if trial is not reference)
    names = list(itertools.islice(others, plan.profile.confirm or 1))
    return [*names, reference.name] if names else []
