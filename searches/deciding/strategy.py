"""The search strategy: propose the next trial, stop trials early, then replicate the finalists.

It is a function of plan and ledger, so neither workers' speed nor kills change what it does. Trial n is proposed once all earlier
trials but the last `State.lag` are settled, and its sampler is told exactly these. A trial is settled once it has ended and its
early-stopping rule has decided all its rungs. The values of a factor take turns, each with a sampler of its own
(`optuna_study.py`), so each value is tuned with the same number of trials.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from searches.deciding.confirmation import is_decided
from searches.deciding.objectives import Ranking, ranked
from searches.deciding.optuna_study import POPULATION, View, identity
from searches.deciding.population import Population
from searches.deciding.stopping import SCHEDULERS, Rule
from searches.plan import Plan
from searches.running.budget import BUDGET
from searches.running.ledger import CLONE, COMPLETED, RUNNING, STOPPED, Ledger, RawEvent, State, Trial
from trainables.runs import Run, run_of

WAIT: Literal["wait"] = "wait"
DONE: Literal["done"] = "done"
Next = Trial | Literal["wait", "done"]


class Strategy:
    """Proposes a plan's trials, then the finalists' replicates, and records every decision in the ledger.

    A `Backend` starts the trials that `next` returns, passes on each `report`, stops the trials that `report` returns, and calls
    `end` once a trial has ended.
    """

    def __init__(self, plan: Plan, ledger: Ledger, may_search: Callable[[], bool] = lambda: True) -> None:
        self.plan, self.ledger = plan, ledger
        self.may_search = may_search  # whether the budget allows more than replicates
        self.rule: Rule = SCHEDULERS[plan.method.scheduler].rule(plan)
        self.population = Population(plan) if plan.method.scheduler == "pbt" else None
        self.wanted = self.population.trials if self.population else plan.trials
        self.views = {level.name: View(plan, level) for level in plan.views}
        self.count: Counter[str] = Counter()  # trials per view
        self.known: set[str] = set()  # identities of all runs
        self.first = [(point, identity(plan.run(point))) for point in plan.known_points()]
        # Proposed trials to hand out; trials that an earlier driver left running come first.
        self.unfinished = [trial for trial in ledger.state.trials.values() if trial.status == RUNNING]
        self.stopping: list[Trial] = []  # stopped by the last report
        self.settled = 0  # how many leading trials of the search are settled
        self.synced_to_optuna = 0  # how many leading trials the samplers have been told
        self.exhausted = False  # whether every point of the space has had a trial
        self.ranking = Ranking(plan, ledger.state, lambda trial: _may_win(trial, plan))
        ledger.listeners.append(self.ranking)
        self._advance()
        self._restore()

    def begin(self) -> None:
        """Fix the lag for the life of the search: how many of the latest trials a proposal does not wait for."""
        if not self.ledger.state.lag:
            self.ledger.record({"event": "lag", "trials": self.plan.profile.ahead})

    def report(self, trial: Trial, event: RawEvent) -> list[Trial]:
        """Record an epoch's report; return the trials to stop now."""
        if event["epoch"] in trial.reports:
            return []
        self.ledger.record(event)
        self.stopping.clear()
        self._stop_at_plateau(trial)
        self._advance()
        return [stopped for stopped in self.stopping if stopped.status == RUNNING]

    def end(self, trial: Trial, status: str, reason: str | None) -> None:
        """Record how a trial ended."""
        if status in (COMPLETED, STOPPED):
            status = COMPLETED if trial.stopped_at is None and max(trial.reports) >= trial.epochs else STOPPED
        self.ledger.record({"event": "ended", "trial": trial.name, "status": status, "reason": reason})
        self._advance()

    def stop(self, trial: Trial, epoch: int, reason: str) -> None:
        """Stop a trial at an epoch, unless it was already stopped at that epoch or earlier."""
        if trial.stopped_at is None or epoch < trial.stopped_at:
            self.ledger.record({"event": "stopped", "trial": trial.name, "epoch": epoch, "reason": reason})
            self.stopping.append(trial)

    def clone(self, original: Trial, run: Run, changes: Mapping[str, Any]) -> Trial:
        """Record a trial that continues from another trial's last checkpoint with other settings.

        The sampler is not told of it and no rule stops it, but it may win.
        """
        trials = self.ledger.state.trials.values()
        number = 1 + sum(trial.parent == original.name and trial.origin == CLONE for trial in trials)
        point = {**original.point, **changes}
        clone = self._record(f"{original.name}-c{number}", point, run, CLONE, parent=original.name)
        self.unfinished.append(clone)
        return clone

    def _stop_at_plateau(self, trial: Trial) -> None:
        """With `--plateau`, stop a trial that has not improved for that many epochs."""
        patience, best = self.plan.method.plateau, trial.best(self.plan.objective, self.plan.direction)
        last = max(trial.counted)
        if patience is not None and best is not None and last - best.epoch >= patience and last < trial.epochs:
            self.stop(trial, last, f"no better for {patience} epochs")

    def _advance(self) -> None:
        """Let the rule decide what it can, and count the settled trials."""
        trials = self.ledger.state.searched
        self.rule.advance(trials, lambda trial, epoch: self.stop(trial, epoch, "not among the best at its rung"))
        while self.settled < len(trials):
            if trials[self.settled].status == RUNNING or not self.rule.decided(self.settled):
                break
            self.settled += 1

    def next(self) -> Next:
        """Return the next trial to run, WAIT if it depends on results that are still missing, or DONE.

        Trials that were running when their driver ended come first.
        """
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
        """Return how many of the first trials must be settled before trial `number` is proposed."""
        if self.population is not None:
            return self.population.needs(number)
        return max(0, number - self.ledger.state.lag)

    def _propose(self, trials: list[Trial]) -> Trial | None:
        number, name = len(trials), f"{len(trials):04d}"
        if self.population is not None and number >= self.population.size:
            point, parent = self.population.member(trials, number)
            end = self.population.until(number)
            return self._record(name, point, self.plan.run(point), POPULATION, parent=parent, until=end)
        known = next((point for point, run in self.first if run not in self.known), None)
        for view in [self._view(known)] if known else self._open_views():
            proposal = view.propose(name, self.count[view.name], known, self.known, self._record_duplicate)
            if proposal is None:
                view.exhausted = True
                continue
            point, run = proposal
            self._count(view, run)
            until = self.population.until(number) if self.population else None
            return self._record(name, point, run, self.plan.origin(number, point), until=until)
        return None

    def _count(self, view: View, run: Run) -> None:
        self.known.add(identity(run))
        self.count[view.name] += 1

    def _open_views(self) -> list[View]:
        """Return the views that may have more trials: the ones with the fewest first, else in the factor's order."""
        most = self.plan.per_view
        views = [view for view in self.views.values() if not view.exhausted and self.count[view.name] < most]
        return sorted(views, key=lambda view: self.count[view.name])

    def _view(self, point: Mapping[str, Any]) -> View:
        return self.views[self.plan.view_of(point).name]

    def _record_duplicate(self, point: Mapping[str, Any]) -> None:
        self.ledger.record({"event": "duplicate", "point": dict(point)})

    def _replicate(self) -> Next:
        """Return the finalists' next missing replicate; WAIT while some run; DONE if all have ended or have decided.

        Finalists are replicated side by side, seed by seed, since a budget may end the search at any time.
        """
        state, design = self.ledger.state, self.plan.design
        names = finalists(state, self.plan, self.ranking)
        if design and names and not state.finalists:
            self.ledger.record({"event": "finalists", "trials": names})
        for number in range(1, design.most + 1 if design and names else 1):
            if design and number > design.looks[0]:  # each earlier seed completed a look
                if state.clock.running:
                    return WAIT
                if is_decided(self.plan, state, names, number - 1):
                    return DONE
            for name in names:
                replicate = f"{name}-r{number}"
                if replicate not in state.trials:
                    original = state.trials[name]
                    run = self._with_fresh_seed(original, number)
                    return self._record(replicate, original.point, run, "replicate", of=name)
        return WAIT if state.clock.running else DONE

    def _with_fresh_seed(self, original: Trial, number: int) -> Run:
        """Return a trial's run with fresh seeds, for its first stage too, scored on the judging texts."""
        first = run_of(original.run)
        seeds = {key: seed + number for key, seed in first.model_dump(include={"seed", "pretrain_seed"}).items()}
        return first.but(**seeds, **self.ledger.state.judges.get("run", {}))

    def _record(self, name: str, point: dict[str, Any], run: Run, origin: str, **fields: Any) -> Trial:
        trial = {"name": name, "point": dict(point), "run": run.model_dump(), "origin": origin, **fields}
        self.ledger.record({"event": "proposed", "trial": trial})
        return self.ledger.state.trials[name]

    def _sync(self, number: int) -> None:
        """Tell the samplers, in order, the results that they know when they propose trial `number`."""
        while self.synced_to_optuna < min(self._needs(number), self.settled):
            trial = self.ledger.state.searched[self.synced_to_optuna]
            if trial.reason == BUDGET:
                return  # it continues under a larger budget
            if trial.origin != POPULATION:
                self._view(trial.point).tell(trial)
            self.synced_to_optuna += 1

    def _restore(self) -> None:
        """Bring views and samplers to their state when the ledger's last trial was proposed."""
        for number, trial in enumerate(self.ledger.state.searched):
            self._sync(number)
            view = self._view(trial.point)
            if trial.origin != POPULATION:
                view.restore(trial, self.count[view.name], self.known)
            self._count(view, run_of(trial.run))


class Backend(Protocol):
    """Runs a strategy's trials: Ray Tune, or a simulation in virtual time."""

    def run(self, strategy: Strategy) -> object:
        """Run the strategy's trials until nothing is left to do or the budget is spent."""
        ...


def finalists(state: State, plan: Plan, best_first: Iterable[Trial] | None = None) -> list[str]:
    """Return the trials to compare on fresh seeds, or an empty list if there are fewer than two.

    With a factor: the best trial of each value. Else: the `Profile.confirm` best trials, then the reference (trial 0). They are
    fixed once the first replicate is proposed. `best_first`: the ranked trials that may win, if they are known already.
    """
    if state.finalists:  # a later change would be selection by what the looks have shown
        return state.finalists
    if best_first is None:
        best_first = ranked([trial for trial in state.trials.values() if _may_win(trial, plan)], plan)
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


def _may_win(trial: Trial, plan: Plan) -> bool:
    """Return whether a trial is no replicate and, in a population, the last of its line of successors."""
    return trial.of is None and (trial.until is None or trial.until >= plan.epochs)
