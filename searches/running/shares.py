"""What a trial gets of the CPUs and GPUs that there are, and how many trials run at once."""

import os
from pathlib import Path

from gpt2core.errors import ConfigError
from searches.options import Options
from searches.question import Plan
from trainables.trial import TrialSpec

PACKED = 4  # trials of a pack where nobody says how many


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
    pack = _packed(options, bool(per_worker))
    fitting = int(gpus // (workers * per_worker)) if per_worker else max(1, cpus // (workers * pack))
    processes = max(1, min(-(-(options.max_concurrent or cpus * pack) // pack), fitting))
    return TrialSpec(
        name="",
        run=options.plan.config(options.plan.search.baseline),
        folder=str(folder),
        workers=workers,
        gpus_per_worker=per_worker,
        cpus_per_worker=max(1, cpus // (processes * workers)),
        concurrent=min(processes * pack, options.max_concurrent or processes * pack),
        pack=pack,
        trace=options.trace,
    )


def _packed(options: Options, gpu: bool) -> int:
    """Trials that share a process; raise ConfigError where a trial is to have several."""
    if options.trace and options.pack not in ("auto", "off"):
        raise ConfigError(
            f"The value of `--pack` is {options.pack}, but with --trace it must be off: a process traces one trial at a time"
        )
    fit = options.workers_per_trial == 1 and _all_pack(options.plan, gpu)
    if options.trace or options.pack == "off" or (options.pack == "auto" and not fit):
        return 1
    if options.workers_per_trial > 1:
        raise ConfigError(
            f"The value of `--pack` is {options.pack}, but trials of {options.workers_per_trial} workers have a group of "
            "processes each; leave one of the two flags out"
        )
    return PACKED if options.pack == "auto" else int(options.pack)


def _all_pack(plan: Plan, gpu: bool) -> bool:
    """Whether that pays for whatever is proposed: where nothing trains, and on a GPU for LoRA that packs; other trials would
    each have weights of their own there."""
    run, deciding = plan.config(plan.search.baseline), {"adapter", "lora_init"} & set(plan.space)
    return not deciding and (run.adapter == "frozen" or (gpu and run.packs))


def local_share(options: Options, folder: Path) -> TrialSpec:
    """What every trial would get on this machine alone, without Ray; raise ConfigError as `share`."""
    from gpt2core.speed import gpu_count  # PyTorch takes a second to import

    return share(options, folder, os.cpu_count() or 1, gpu_count())
