"""Second step of a search: predict its cost, make what all trials need, run its trials, and score the test split if requested."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from gpt2core.storage import address
from searches.deciding.final_scores import final_test
from searches.deciding.strategy import Strategy
from searches.driver.connect import SearchRun
from searches.driver.finish import finalise
from searches.options import Options
from searches.pairs import make_pairs
from searches.planning.checking import plain_digest, record_pairs
from searches.planning.measure import record_forecast
from searches.result_files import MAILBOX, TRIALS
from searches.running.budget_stop import BudgetStopper
from searches.running.control import Control, Mailbox
from searches.running.failures import Faults
from searches.running.gpu_sharing import with_shared_gpus
from searches.running.ledger import Ledger
from searches.running.ray_tune import RayTune
from searches.showing.screen import waiting_for
from searches.stages import make_stages
from trainables.executors import Executor, trainable
from trainables.heartbeat import leaving_when_ray_ends
from trainables.trial import TrialSpec


def tune(run: SearchRun, spec: TrialSpec) -> None:
    """Run all trials and replicates, or as many as the budget allows. Raises UserError, KeyboardInterrupt."""
    options, ledger = run.options, run.ledger
    with leaving_when_ray_ends(lambda: finalise(run, "FAILED")) as heart:
        if options.plan.program is None:
            spec = _prepared(run, spec)
        with run.screen as screen:
            run_trials(options, ledger, spec, trainable(spec), screen.say, Faults(heart, run.tracker.warn))
        if options.scores_test:
            final_test(options.plan, ledger, spec, address(options.results_folder / TRIALS))


def _prepared(run: SearchRun, spec: TrialSpec) -> TrialSpec:
    """Predict the cost, and make what trials of this project need; return what every trial gets."""
    options, ledger = run.options, run.ledger
    with waiting_for(run.console, "Timing a few steps"):
        record_forecast(options, ledger, spec, run.console)
    spec = with_shared_gpus(options, spec, ledger)
    make_pairs(options, ledger, spec, run.console)
    record_pairs(options.plan, ledger)
    make_stages(options.plan, ledger, spec, run.console)
    return replace(spec, data=plain_digest(options.plan))


def run_trials(
    options: Options, ledger: Ledger, spec: TrialSpec, executor: Executor, say: Callable[[str], None], faults: Faults
) -> None:
    """Run with Ray Tune what the strategy proposes, within the budget."""
    budget = BudgetStopper(options.budget, options.plan, ledger)
    budget.begin(spec)
    strategy = Strategy(options.plan, ledger, budget.searching)
    strategy.begin()
    lag = ledger.state.lag
    if spec.concurrent > lag + 1:
        say(
            f"{spec.concurrent} trials fit at once, but only {lag + 1} run, because a proposal waits for all but the last {lag} "
            f"trials before it; to use all, start a search of another --name with --ahead {spec.concurrent}"
        )
    with closing(Mailbox(ledger.path.parent / MAILBOX, say)) as mailbox:
        mailbox.open()
        backend = RayTune(options, spec, executor, budget, lambda scheduler: [Control(mailbox, scheduler, say), faults])
        backend.run(strategy)
    budget.close()
