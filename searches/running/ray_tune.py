"""Ray Tune as the backend of a search."""

import logging
import shutil
from collections.abc import Callable
from typing import Any

from ray import tune

from gpt2core.storage import address
from searches.deciding.strategy import Strategy
from searches.options import Options
from searches.running.budget_stop import BudgetStopper
from searches.running.control import MAILBOX, Control, Mailbox
from searches.running.failures import Faults, translate_errors
from searches.running.gpu_sharing import Sharing
from searches.running.searcher import StrategyScheduler, StrategySearcher
from trainables.executors import Executor
from trainables.machines import grows
from trainables.packs import Packs
from trainables.trial import RESTARTS, TrialSpec


class RayTune:
    """A `Backend`: trials run as Tune trials of `executor`, on a cluster or on this machine.

    Tune owns the loop: it asks a searcher for trials and tells a scheduler of reports, and both ask the strategy.
    """

    def __init__(
        self,
        options: Options,
        spec: TrialSpec,
        executor: Executor,
        budget: BudgetStopper,
        say: Callable[[str], None],
        faults: Faults,
    ) -> None:
        self.options, self.spec, self.executor, self.budget = options, spec, executor, budget
        self.say, self.faults = say, faults

    def run(self, strategy: Strategy) -> None:
        """Run trials until the strategy is done, or the budget is spent. Raises UserError, KeyboardInterrupt."""
        spec, ledger = self.spec, strategy.ledger
        folder = ledger.path.parent
        shutil.rmtree(folder / "tune", ignore_errors=True)
        packs = Packs(spec, self.options.name) if spec.pack > 1 else None
        sharing = Sharing(spec, ledger) if spec.grouped and 0 < spec.gpus_per_worker < 1 else None
        searcher = StrategySearcher(strategy, spec, address(folder / "trials"), self.budget, packs, sharing)
        mailbox = Mailbox(folder / MAILBOX, self.say)
        tuner = self._tuner(searcher, mailbox, address(folder))
        mailbox.open()
        try:
            with translate_errors(ledger):
                tuner.fit()
        finally:
            mailbox.close()
            if packs is not None:
                packs.close()

    def _tuner(self, searcher: StrategySearcher, mailbox: Mailbox, storage: str) -> tune.Tuner:
        for name in ("ray.tune.execution.experiment_state", "ray.tune.tune"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # their snapshot is never read
        function, resources = self.executor
        scheduler = StrategyScheduler(searcher)
        return tune.Tuner(
            tune.with_resources(function, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=self._at_once(searcher.strategy.ledger.state.lag),
                reuse_actors=not self.spec.grouped,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                verbose=0,
                stop=self.budget,
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=[Control(mailbox, scheduler, self.say), self.faults],
            ),
        )

    def _at_once(self, lag: int) -> int:
        """Trials that Tune may hold. Where machines come, what they have room for is proposed; a group waits in a process, so no
        more of them than fit."""
        open_end = grows() and not self.options.max_concurrent and not self.spec.grouped and self.spec.pack == 1
        return lag if open_end else self.spec.concurrent


def _trial_name(trial: Any) -> str:
    return str(trial.config["spec"]["name"])
