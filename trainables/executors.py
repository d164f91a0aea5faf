"""The three ways to run a trial under Ray Tune: as a function, by a Ray Train worker group, or in a pack of trials."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

from trainables.trial import Payload, TrialSpec, payloads

#: A Tune function, and what Tune reserves for each trial that it runs.
Executor = tuple[Callable[[dict[str, Any]], None], dict[str, float]]

# Memory in bytes of a process that waits for its group or pack, and of what Ray Train starts for it. Such a process reserves no
# CPU, and Ray would place all processes that reserve nothing on one node.
GROUP_DRIVER, PACK_DRIVER = 800 * 2**20, 120 * 2**20


def function_trial(config: dict[str, Any]) -> None:
    """Train the trial in this process, on one worker without a GPU.

    With Tune's `reuse_actors`, the process keeps its imports, base weights and tokens from trial to trial.
    """
    from gpt2core.machine import release_memory

    release_memory()  # of the previous trial
    gc.freeze()  # modules, weights and data stay; scanning them for garbage took a tenth of a short trial
    _report(payloads(TrialSpec.from_dict(config["spec"])))


def group_trial(config: dict[str, Any]) -> None:
    """Let a Ray Train worker group train the trial, on GPUs or several workers."""
    from trainables.groups import reports

    _report(reports(TrialSpec.from_dict(config["spec"])))


def packed_trial(config: dict[str, Any]) -> None:
    """Let a process that trains several trials together train the trial."""
    from trainables.packs import reports

    _report(reports(TrialSpec.from_dict(config["spec"])))


def _report(reports: Iterator[Payload]) -> None:
    from ray import tune

    for payload in reports:
        tune.report(payload)


def trainable(spec: TrialSpec) -> Executor:
    """Return the executor for trials of this shape."""
    if spec.grouped:
        return group_trial, {"memory": GROUP_DRIVER}
    if spec.pack > 1:
        return packed_trial, {"memory": PACK_DRIVER}
    return function_trial, {"cpu": spec.cpus_per_worker}
