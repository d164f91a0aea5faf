"""Compare trials in a worker group that stays with a new group for each: python -m tests.benchmarks.warm_groups.

Tiny trials on a GPU that this machine need not have: what is timed are starts. Losses are the same. The second table has the
seconds from a proposal to the first optimizer step, of the first trial of a group and of later ones.
"""

import argparse
import math
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cluster.environment import settle
from gpt2core.config import RunConfig
from tests.benchmarks.compare import TURNS, Comparison, differs, show, show_by_size
from tests.grouped import fit
from tests.killing import lora_run
from trainables.groups import Groups
from trainables.trial import TrialSpec

WARM, COLD = 8, 2  # trials of a turn; the peer trains only the first ones, as each takes as long


class Watch(FIFOScheduler):  # type: ignore[misc]
    """Keeps the last loss of each trial, and when its first step began after its proposal."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: dict[str, float] = {}
        self.waits: list[float] = []
        self.proposed = 0.0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.proposed = time.time()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = trial.config["spec"]["name"]
        if name not in self.losses:
            self.waits.append(result["began"] + result["seconds/data"] - self.proposed)
        self.losses[name] = result["metrics/dev_loss"]
        return str(TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def trained(run: RunConfig, trials: int, found: dict[bool, Watch], *, warm: bool) -> None:
    """Train some trials; what was seen goes into `found`. End the benchmark if their losses depend on the group."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = [
            TrialSpec(name=f"{seed}", run=run.but(seed=seed), folder=f"{name}/{seed}", gpus_per_worker=1)
            for seed in range(trials)
        ]
        groups, watch = Groups(folder.name), Watch()
        fit(specs, groups, watch, folder, left=lambda: None if warm else groups.close())
        groups.close()
    found[warm] = watch
    if len(found) == 2 and not all(
        math.isclose(found[True].losses[name], loss, rel_tol=1e-5) for name, loss in found[False].losses.items()
    ):
        raise differs(f"{trials} trials")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    settle()
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as name:
        run = lora_run(Path(name)).but(epochs=2)
        found: dict[bool, Watch] = {}
        row = Comparison(
            what=f"{WARM} trials in a group that stays",
            peer="a new group for each trial",
            ours=partial(trained, run, WARM, found, warm=True),
            theirs=partial(trained, run, COLD, found, warm=False),
            part=COLD / WARM,
            reach=4,
        )
        show("trials in worker groups, from start to end", [row], turns)
    first, *later = found[True].waits
    waits = {"first trial of a group": first, "a later one, median": median(later), "a later one, longest": max(later)}
    show_by_size(
        "from a proposal to the first step", {"seconds": {what: f"{wait:.2f}" for what, wait in waits.items()}}
    )


if __name__ == "__main__":
    main()
