"""Keep a running search within its budget (`budget.py`): asked by Tune, the searcher and the screen."""

from typing import Any

from ray.tune.stopper import Stopper

from searches.plan import Plan
from searches.running.budget import BUDGET, Budget, Phase, phase_of
from searches.running.ledger import COMPLETED, RUNNING, STOPPED, Ledger, NotPickled
from trainables.trial import TrialSpec


class BudgetStopper(NotPickled, Stopper):  # type: ignore[misc]  # Ray ships no types
    """Stops one or all trials when the budget is spent."""

    def __init__(self, budget: Budget, plan: Plan, ledger: Ledger) -> None:
        self.budget, self.plan, self.ledger = budget, plan, ledger
        self.stopped: set[str] = set()  # Tune ids of trials that the budget stopped

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial stops after this report."""
        if self.over() or not (result["config"]["replicate"] or self.searching()):
            self.stopped.add(trial_id)
        return trial_id in self.stopped

    def stop_all(self) -> bool:
        """Whether all trials stop at once, because the budget is spent or the ledger cannot be written."""
        return self.ledger.failure is not None or self.over()

    def over(self) -> bool:
        """Whether the whole budget is spent."""
        return self._phase() == "over"

    def searching(self) -> bool:
        """Whether trials of the search, other than replicates, may be proposed and continue."""
        return self._phase() == "search"

    def begin(self, spec: TrialSpec) -> None:
        """Record each trial's resources; reopen trials that a smaller budget stopped, if the present one allows it."""
        self.ledger.record({"event": "share", "gpus": spec.gpus, "cpus": spec.cpus, "concurrent": spec.concurrent})
        for trial in list(self.ledger.state.trials.values()):
            if trial.reason == BUDGET and (self.searching() if trial.of is None else not self.over()):
                self.ledger.record({"event": "reopened", "trial": trial.name})

    def close(self) -> None:
        """Record the end of trials that were stopped in the middle of an epoch."""
        for trial in list(self.ledger.state.trials.values()) if self.over() else []:
            if trial.status == RUNNING:
                done = max(trial.reports, default=0) >= trial.epochs
                ending = {"status": COMPLETED, "reason": None} if done else {"status": STOPPED, "reason": BUDGET}
                self.ledger.record({"event": "ended", "trial": trial.name, **ending})

    def _phase(self) -> Phase:
        return phase_of(self.budget, self.plan, self.ledger.state, self.ledger.now())
