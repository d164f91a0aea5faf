"""Train the first stage that all trials start from before they start: otherwise one would train it while the others hold GPUs."""

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from gpt2core.config import RunConfig
from gpt2core.pretrain_stage import first_stage
from searches.plan import Plan
from searches.planning.measure import configurations
from searches.running.ledger import Ledger
from searches.showing.screen import print_line, waiting_for
from trainables.nodes import nodes_with
from trainables.trial import TrialSpec
from trainables.worker_cache import train_stage


def make_stage(plan: Plan, ledger: Ledger, spec: TrialSpec, console: Console) -> None:
    """Train the first stage that all trials share, once for the cache of each node, before the first trial of a search.

    A stage that fails is left to the trials, which report why.
    """
    stage = shared_stage(plan)
    if stage is None or ledger.state.trials:
        return
    task = ray.remote(num_cpus=spec.cpus_per_worker, num_gpus=spec.gpus_per_worker, max_calls=1)(train_stage)
    with waiting_for(console, f"Training the first stage, on {stage.task}, from which all trials start"):
        trained = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                stage.model_dump(), spec.cpus_per_worker
            )
            for node in nodes_with(spec.cpus_per_worker, spec.gpus_per_worker)
        ]
        for node in trained:
            try:
                ray.get(node)
            except RayError as error:
                reason = str(error).strip().rpartition("\n")[2]
                print_line(console, f"note: the first stage could not be trained before the trials ({reason})")


def shared_stage(plan: Plan) -> RunConfig | None:
    """Return the first stage of all trials, if they have the same one."""
    stages = {first_stage(part) for runs in configurations(plan) for run in runs for part in run.sub_runs}
    return stages.pop() if len(stages) == 1 else None
