"""The test split: touched once in the life of a search, at its end, and only if --final-test asks for it."""

from dataclasses import replace

from gpt2core.config import RunConfig
from gpt2core.errors import UserError
from gpt2core.metrics.comparison import mean_of
from gpt2core.metrics.intervals import Interval
from searches.deciding.confirmation import runs_of_metric
from searches.deciding.strategy import finalists
from searches.deciding.wording import Words
from searches.question import Plan
from searches.running.ledger import Ledger, State, Trial
from searches.summary import OnTest, Score
from trainables.testing import score_all
from trainables.trial import TrialSpec


def final_test(plan: Plan, ledger: Ledger, spec: TrialSpec, trials_folder: str) -> None:
    """Score the finalists and the reference, each by its replicates on fresh seeds; note it in the ledger.

    Who is a finalist was decided on the dev split. Raises UserError where the split was touched for others before.
    """
    state = ledger.state
    trials = [trial for name in finalists(state, plan) for trial in repeats(state, name)]
    known = {*state.testing, *state.tests}
    if known and any(trial.name not in known for trial in trials):
        raise UserError(
            f"The test split was scored before, for {', '.join(sorted(known))}, and it can be touched once: what a search "
            "finds behind that has no test score; for one, begin a search of another --name"
        )
    if (
        trials and not known
    ):  # before it is touched: whatever ends this process, the same trials may go on, and no others
        ledger.record({"event": "testing", "trials": [trial.name for trial in trials]})
    missing = [trial for trial in trials if trial.name not in state.tests]
    specs = [
        replace(spec, name=trial.name, run=RunConfig.of(trial.run), folder=f"{trials_folder}/{trial.name}")
        for trial in missing
    ]
    for trial, found in zip(missing, score_all(specs) if specs else [], strict=True):
        ledger.record({"event": "test", "trial": trial.name, **found})


def repeats(state: State, name: str) -> list[Trial]:
    """The replicates of a trial; where there are none, itself."""
    return state.replicates(name) or [state.trials[name]]


def result(plan: Plan, state: State) -> OnTest | None:
    """What the test split says of the settings that were compared; None where it was not touched, or judged them already."""
    names = finalists(state, plan)
    tested = {name: [state.tests.get(trial.name) for trial in repeats(state, name)] for name in names}
    if (
        plan.comparing.on == "test"
        or not tested
        or any(event is None for events in tested.values() for event in events)
    ):
        return None
    metric, words = plan.metric, Words(plan.metric)
    on_test = replace(metric, name=metric.on("test"))
    runs = {name: runs_of_metric([event for event in events if event], on_test) for name, events in tested.items()}
    scores = {name: mean_of(side) for name, side in runs.items() if side is not None}
    told = ", ".join(f"trial {name} {_with_interval(score, words)}" for name, score in scores.items())
    return OnTest(
        scores={name: Score(estimate=one.estimate, low=one.low, high=one.high) for name, one in scores.items()},
        text=f"On the test split, touched once: {words.name} of {told}.",
    )


def _with_interval(score: Interval, words: Words) -> str:
    if score.low is None or score.high is None:
        return words.number(score.estimate)
    return f"{words.number(score.estimate)} [{words.number(score.low)}, {words.number(score.high)}]"
