"""ASHA that remembers: rungs are filled again from the ledger on resume; only what the sampler proposed is ever stopped."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from searches.failures import NotesFailures
from searches.ledger import RUNNING, State
from searches.question import Plan


class Asha(NotesFailures, AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray ships no types
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934) over epochs."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial that is not among the best third at its rung; known points run to their end, but fill the rungs."""
        if "failure/kind" in result or trial.config["replicate"]:
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, trial, result))
        return str(TrialScheduler.CONTINUE) if trial.config["whole"] else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forget a trial; its rungs keep its scores."""
        if "failure/kind" not in result and not trial.config["replicate"]:
            super().on_trial_complete(tune_controller, trial, result)

    def remember(self, state: State, objective: str) -> None:
        """Fill the rungs with the reports of trials that ended before this process began (Ray forgets them: ray#30838).

        Trials still running report all their epochs again when they go on.
        """
        for trial in state.of_search():
            for epoch, report in sorted(trial.reports.items()) if trial.status != RUNNING else []:
                score = self._metric_op * report["metrics"][objective]
                self._brackets[0].on_result(SimpleNamespace(trial_id=trial.name), epoch, score)


def make_scheduler(plan: Plan, state: State) -> Asha:
    """Return the scheduler of a plan, with what `state` knows."""
    scheduler = Asha(
        time_attr="epoch",
        metric="objective",
        mode=plan.direction,
        grace_period=min(plan.profile.grace, plan.epochs),
        max_t=max(plan.epochs, 1),
        reduction_factor=3,
    )
    scheduler.remember(state, plan.objective)
    return scheduler
