"""Trials of Tune that worker groups train, as in a search: each gets its group when it starts, and leaves it when it ends."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from trainables.executors import trainable
from trainables.groups import Groups
from trainables.trial import RESTARTS, TrialSpec


class Given(Searcher):  # type: ignore[misc]
    """Gives Tune the trials of a list, each with its group; `left` is called when one has left its group."""

    def __init__(self, specs: Iterable[TrialSpec], groups: Groups, left: Callable[[], None]) -> None:
        super().__init__(metric="objective", mode="max")
        self.specs, self.groups, self.left = list(specs), groups, left
        self.names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        if not self.specs:
            return Searcher.FINISHED
        spec = self.groups.place(self.specs.pop(0))
        self.names[trial_id] = spec.name
        return {"spec": spec.to_dict()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.groups.leave(self.names[trial_id])
        self.left()

    def save(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {}


def fit(
    specs: list[TrialSpec],
    groups: Groups,
    scheduler: TrialScheduler,
    folder: Path,
    left: Callable[[], None] = lambda: None,
) -> tune.ResultGrid:
    """Run the trials one after another."""
    function, resources = trainable(specs[0])
    return tune.Tuner(
        tune.with_resources(function, resources),
        tune_config=tune.TuneConfig(
            search_alg=Given(specs, groups, left),
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
        ),
    ).fit()
