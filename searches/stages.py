"""Train first stages that several trials share before the trials: otherwise one would train it while others hold GPUs."""

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from gpt2core.config import RunConfig
from gpt2core.console import print_line
from gpt2core.pretrain_stage import first_stage
from searches.formatting import count
from searches.plan import Plan
from searches.planning.forecast import trials_of
from searches.planning.measure import configurations
from searches.running.ledger import Ledger
from searches.showing.screen import waiting_for
from trainables.nodes import nodes_with
from trainables.trial import TrialSpec
from trainables.worker_cache import train_stage


def make_stages(plan: Plan, ledger: Ledger, spec: TrialSpec, console: Console) -> None:
    """Train the first stages that trials share, once for the cache of each node, before the first trial of a search.

    A stage that fails is left to the trials, which report why.
    """
    if ledger.state.trials:
        return
    nodes = nodes_with(spec.cpus_per_worker, spec.gpus_per_worker)
    stages = shared_stages(plan, len(nodes))
    if not stages:
        return
    task = ray.remote(num_cpus=spec.cpus_per_worker, num_gpus=spec.gpus_per_worker, max_calls=1)(train_stage)
    tasks = " and ".join(dict.fromkeys(stage.task for stage in stages))
    with waiting_for(
        console, f"Training {count(len(stages), 'first stage')}, on {tasks}, from which several trials start"
    ):
        trained = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                stage.model_dump(), spec.cpus_per_worker
            )
            for stage in stages
            for node in nodes
        ]
        for node in trained:
            try:
                ray.get(node)
            except RayError as error:
                reason = str(error).strip().rpartition("\n")[2]
                print_line(console, f"note: a first stage could not be trained before the trials ({reason})")


def shared_stages(plan: Plan, nodes: int) -> list[RunConfig]:
    """Return the first stages from which at least two trials on each node are expected to start."""
    known, drawn = configurations(plan)
    of_drawn = max(0, trials_of(plan) - len(known)) / len(drawn)  # trials for which each drawn point stands
    expected: dict[RunConfig, float] = {}
    for runs, trials in ((known, 1.0), (drawn, of_drawn)):
        for run in runs:
            for stage in {stage for part in run.sub_runs if (stage := first_stage(part))}:
                expected[stage] = expected.get(stage, 0.0) + trials
    return [stage for stage, trials in expected.items() if trials >= 2 * nodes]
