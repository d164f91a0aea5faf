"""What a trial gets of the CPUs and GPUs that there are, and how many trials run at once."""

import os
from pathlib import Path

from gpt2core.errors import ConfigError
from searches.options import Options
from trainables.trial import TrialSpec


def share(options: Options, folder: Path, cpus: int, gpus: float) -> TrialSpec:
    """What every trial gets of `cpus` and `gpus`; raise ConfigError where that is not enough for one."""
    per_worker = options.gpus_per_worker
    if per_worker is None:
        per_worker = 1.0 if gpus >= 1 else 0.0
    workers = options.workers_per_trial
    if workers * per_worker > gpus or workers > cpus:
        raise ConfigError(
            f"A trial needs {workers} CPUs and {workers * per_worker:g} GPUs, but the cluster has {cpus} and {gpus:g}"
        )
    fitting = int(gpus // (workers * per_worker)) if per_worker else cpus // workers
    concurrent = max(1, min(options.max_concurrent or fitting, fitting))
    return TrialSpec(
        name="",
        run=options.plan.config(options.plan.search.baseline),
        folder=str(folder),
        workers=workers,
        gpus_per_worker=per_worker,
        cpus_per_worker=max(1, cpus // (concurrent * workers)),
        concurrent=concurrent,
    )


def local_share(options: Options, folder: Path) -> TrialSpec:
    """What every trial would get on this machine alone, without Ray; raise ConfigError as `share`."""
    from gpt2core.speed import gpu_count  # PyTorch takes a second to import

    return share(options, folder, os.cpu_count() or 1, gpu_count())
