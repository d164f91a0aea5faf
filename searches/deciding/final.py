"""The test split: touched once in the life of a search, at its end, and only if --final-test asks for it."""

from dataclasses import replace
from typing import Any

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.errors import UserError
from gpt2core.lookup import lookup
from gpt2core.metrics.bootstrap import interval, paired
from gpt2core.tasks import TASKS
from searches.deciding.strategy import finalists
from searches.question import Plan
from searches.running.ledger import Ledger, State, Trial
from trainables.testing import score_all
from trainables.trial import TrialSpec


def final_test(plan: Plan, ledger: Ledger, spec: TrialSpec, trials_folder: str) -> None:
    """Score the finalists and the baseline, each by its replicates on fresh seeds; note it in the ledger.

    Who is a finalist was decided on the dev split. Raises UserError where the split was touched for others before.
    """
    trials = [trial for name in finalists(ledger.state, plan) for trial in repeats(ledger.state, name)]
    missing = [trial for trial in trials if trial.name not in ledger.state.tests]
    if ledger.state.tests and missing:
        known = ", ".join(ledger.state.tests)
        raise UserError(
            f"The test split was scored before, for {known}, and it can be touched once: what a search finds behind that has "
            "no test score; for one, begin a search of another --name"
        )
    specs = [
        replace(spec, name=trial.name, run=RunConfig.of(trial.run), folder=f"{trials_folder}/{trial.name}")
        for trial in missing
    ]
    for trial, found in zip(missing, score_all(specs) if specs else [], strict=True):
        ledger.record({"event": "test", "trial": trial.name, **found})


def repeats(state: State, name: str) -> list[Trial]:
    """The replicates of a trial; where there are none, itself."""
    return state.replicates(name) or [state.trials[name]]


def result(plan: Plan, state: State, winner: str | None) -> dict[str, Any] | None:
    """What the test split says of the winner, else of the best on dev, and of the baseline; None where it was not touched."""
    names = finalists(state, plan)
    scored = {name: [state.tests.get(trial.name) for trial in repeats(state, name)] for name in names}
    if not scored or any(event is None for events in scored.values() for event in events):
        return None
    score = lookup(TASKS, plan.task, "task").score
    counts = {
        name: np.concatenate([np.asarray(event["statistics"]) for event in events if event is not None])
        for name, events in scored.items()
    }
    rows = {name: vars(interval(found, score)) for name, found in counts.items()}
    best, baseline = winner if winner in names[:-1] else names[0], names[-1]
    difference = paired(counts[best], counts[baseline], score, seed=plan.seed)
    return {
        "scores": rows,
        **vars(difference),
        "text": (
            f"On the test split, touched once: {plan.objective} of trial {best} {rows[best]['estimate']:.2f} "
            f"[{rows[best]['low']:.2f}, {rows[best]['high']:.2f}], of the baseline {baseline} "
            f"{rows[baseline]['estimate']:.2f} [{rows[baseline]['low']:.2f}, {rows[baseline]['high']:.2f}]; difference "
            f"{difference.estimate:+.2f} [{difference.low:.2f}, {difference.high:.2f}], p = {difference.p_value:.3f}."
        ),
    }
