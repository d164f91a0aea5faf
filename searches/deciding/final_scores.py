"""Scores on the test split, which a search uses at most once: at its end, with --final-test."""

from dataclasses import replace

from gpt2core.config import RunConfig
from gpt2core.errors import UserError
from gpt2core.metrics.comparison import mean_of
from searches.deciding.confirmation import runs_of_metric
from searches.deciding.strategy import finalists
from searches.deciding.wording import MetricText
from searches.plan import Plan
from searches.running.ledger import Ledger, State, Trial
from searches.summary import OnTest, Score
from trainables.trial import TrialSpec, score_all


def final_test(plan: Plan, ledger: Ledger, spec: TrialSpec, trials_folder: str) -> None:
    """Score the finalists, each by its replicates on fresh seeds, and record the scores in the ledger.

    Raises UserError if the split was already used for other trials.
    """
    state = ledger.state
    trials = [trial for name in finalists(state, plan) for trial in runs_of(state, name)]
    known = {*state.testing, *state.tests}
    if known and any(trial.name not in known for trial in trials):
        raise UserError(
            f"The test split was scored before, for {', '.join(sorted(known))}, and can be used only once: later results of "
            "this search have no test score; to get one, begin a search with another --name"
        )
    if trials and not known:  # recorded first, so that after a kill the same trials can go on, and no others
        ledger.record({"event": "testing", "trials": [trial.name for trial in trials]})
    missing = [trial for trial in trials if trial.name not in state.tests]
    specs = [
        replace(spec, name=trial.name, run=RunConfig.of(trial.run), folder=f"{trials_folder}/{trial.name}")
        for trial in missing
    ]
    for trial, scores in zip(missing, score_all(specs) if specs else [], strict=True):
        ledger.record({"event": "test", "trial": trial.name, **scores})


def runs_of(state: State, name: str) -> list[Trial]:
    """Return a trial's replicates, or the trial itself if it has none."""
    return state.replicates(name) or [state.trials[name]]


def result(plan: Plan, state: State) -> OnTest | None:
    """Return the compared settings' scores on the test split; None if it was not scored, or was the judge already."""
    tested = {name: [state.tests.get(trial.name) for trial in runs_of(state, name)] for name in finalists(state, plan)}
    events = {name: [event for event in scored if event] for name, scored in tested.items() if all(scored)}
    if plan.comparing.on == "test" or not tested or len(events) < len(tested):
        return None
    text, on_test = MetricText(plan.metric), replace(plan.metric, name=plan.metric.on("test"))
    runs = {name: runs_of_metric(scored, on_test) for name, scored in events.items()}
    scores = {name: Score(**vars(mean_of(side))) for name, side in runs.items() if side is not None}
    by_trial = [f"trial {name} {text.number(score.estimate, score.low, score.high)}" for name, score in scores.items()]
    return OnTest(scores=scores, text=f"On the test split, scored once: {text.name} of {', '.join(by_trial)}.")
