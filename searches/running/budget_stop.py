"""Keeps a running search within its budget: what budget.py decides, asked by Tune, the searcher and the screen."""

from typing import Any

from ray.tune.stopper import Stopper

from searches.question import Plan
from searches.running.budget import BUDGET, Budget, Phase, phase_of
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, Ledger
from trainables.trial import TrialSpec


class BudgetStopper(Stopper):  # type: ignore[misc]  # Ray ships no types
    """Stops trials, or all of them, once the budget of a search says so."""

    def __init__(self, budget: Budget, plan: Plan, ledger: Ledger) -> None:
        self.budget, self.plan, self.ledger = budget, plan, ledger
        self.stopped: set[str] = set()  # Tune's ids of the trials that it stopped

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial that has reported is to stop: all when the budget is spent, those of the search before."""
        if self.over() or not (result["config"]["replicate"] or self.searching()):
            self.stopped.add(trial_id)
        return trial_id in self.stopped

    def stop_all(self) -> bool:
        """Whether everything is to stop, in the middle of an epoch too: there is no budget, or no ledger to write to."""
        return self.ledger.failure is not None or self.over()

    def over(self) -> bool:
        """Whether the whole budget is spent."""
        return self._phase() == "over"

    def searching(self) -> bool:
        """Whether trials of the search may be proposed and go on."""
        return self._phase() == "search"

    def begin(self, spec: TrialSpec) -> None:
        """Note what each trial holds from now on; let trials that a smaller budget stopped go on, where this one allows it."""
        self.ledger.record({"event": "share", "gpus": spec.gpus, "cpus": spec.cpus, "concurrent": spec.concurrent})
        for trial in list(self.ledger.state.trials.values()):
            if trial.reason == BUDGET and (self.searching() if trial.of is None else not self.over()):
                self.ledger.record({"event": "reopened", "trial": trial.name})

    def close(self) -> None:
        """Note what was cut off in the middle of an epoch."""
        for trial in list(self.ledger.state.trials.values()) if self.over() else []:
            if trial.status == RUNNING:
                done = max(trial.reports, default=0) >= trial.epochs
                ending = {"status": COMPLETED, "reason": None} if done else {"status": STOPPED, "reason": BUDGET}
                self.ledger.record({"event": "ended", "trial": trial.name, **ending})

    def _phase(self) -> Phase:
        return phase_of(self.budget, self.plan, self.ledger.state, self.ledger.now())

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles it into a snapshot that is never read here.
        return {}
