"""The three ways to run a trial under Ray Tune, chosen by what it needs:

- `function_trial`: a Tune function for one worker without a GPU. With `reuse_actors` its process, imports, base weights and
  tokens stay warm from trial to trial.
- `group_trial`: passes on what a Ray Train worker group reports, for GPUs or several workers (`trainables.groups`).
- `packed_trial`: passes on what a process reports that trains several trials together (`trainables.packs`).
"""

import gc
from collections.abc import Callable
from typing import Any

from trainables.trial import TrialSpec, payloads

#: A Tune function, and what Tune reserves for each trial that it runs.
Executor = tuple[Callable[[dict[str, Any]], None], dict[str, float]]

# Bytes that the process takes which waits for a group or a pack, with those that Ray Train starts beside it. It asks for no
# CPU, for others reserve those; and Ray would put all that ask for nothing on one machine.
GROUP_DRIVER, PACK_DRIVER = 800 * 2**20, 120 * 2**20


def function_trial(config: dict[str, Any]) -> None:
    """Tune function: the whole trial in this process."""
    from ray import tune

    from gpt2core.memory import release_memory

    release_memory()  # of the trial before this one
    gc.freeze()  # modules, weights and data stay; to search them for garbage took a tenth of a short trial
    for payload in payloads(TrialSpec.from_dict(config["spec"])):
        tune.report(payload)


def group_trial(config: dict[str, Any]) -> None:
    """Tune function: let a Ray Train worker group train the trial."""
    from ray import tune

    from trainables.groups import reports

    for payload in reports(TrialSpec.from_dict(config["spec"])):
        tune.report(payload)


def packed_trial(config: dict[str, Any]) -> None:
    """Tune function: let a process that has several trials train this one as well."""
    from ray import tune

    from trainables.packs import reports

    for payload in reports(TrialSpec.from_dict(config["spec"])):
        tune.report(payload)


def trainable(spec: TrialSpec) -> Executor:
    """Return the executor for trials of this shape."""
    if spec.grouped:
        return group_trial, {"memory": GROUP_DRIVER}
    if spec.pack > 1:
        return packed_trial, {"memory": PACK_DRIVER}
    return function_trial, {"cpu": spec.cpus_per_worker}
