"""The ways to run a trial under Ray Tune: in its own process, by a worker group, in a pack of trials, or as a program."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

from trainables.trial import Payload, TrialSpec, payloads

#: A Tune function, and what Tune reserves for each trial that it runs.
Executor = tuple[Callable[[dict[str, Any]], None], dict[str, float]]

# Memory in bytes of a process that waits for its group or pack. It reserves no CPU, and Ray would place all processes that
# reserve nothing on one node.
WAITING = 120 * 2**20


def function_trial(config: dict[str, Any]) -> None:
    """Train the trial in this process, on one worker without a GPU.

    With Tune's `reuse_actors`, the process keeps its imports, base weights and tokens from trial to trial.
    """
    from gpt2core.machine import release_memory

    release_memory()  # of the previous trial
    gc.freeze()  # modules, weights and data stay; scanning them for garbage took a tenth of a short trial
    _report(payloads(TrialSpec.from_dict(config["spec"])))


def joined_trial(config: dict[str, Any]) -> None:
    """Let the actor that the spec names run the trial: a pack of trials, a worker group, or one for programs."""
    import ray

    actor = ray.get_actor(config["spec"]["process"])

    def reports() -> Iterator[Payload]:
        payload = ray.get(actor.next.remote(config["spec"], joins=True))
        while payload is not None:
            yield payload
            payload = ray.get(actor.next.remote(config["spec"], joins=False))

    _report(reports())


def _report(reports: Iterator[Payload]) -> None:
    from ray import tune

    for payload in reports:
        tune.report(payload)


def trainable(spec: TrialSpec) -> Executor:
    """Return the executor for trials of this shape."""
    if spec.grouped or spec.pack > 1 or spec.is_program:
        return joined_trial, {"memory": WAITING}
    return function_trial, {"cpu": spec.cpus_per_worker}
