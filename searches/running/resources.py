"""The CPUs and GPUs of each trial, and how many trials run at once."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.connect import check_shared, connect
from gpt2core.errors import ConfigError
from gpt2core.machine import cpus
from searches.options import Options
from searches.plan import Plan
from trainables.nodes import Machine, can_grow, machines
from trainables.trial import TrialSpec

PACKED = 4  # trials per pack with --pack auto


def trial_spec(options: Options, folder: Path, machines: Sequence[Machine], *, grows: bool = False) -> TrialSpec:
    """Return what every trial gets of the machines; raise ConfigError if no trial fits.

    An autoscaling cluster `grows` by machines that it does not have yet, up to --max-concurrent trials.
    """
    cpus, gpus = sum(machine.cpus for machine in machines), sum(machine.gpus for machine in machines)
    workers, per_worker = options.workers_per_trial, options.gpus_per_worker
    if per_worker is None:
        per_worker = 1.0 if any(machine.gpus >= 1 for machine in machines) else 0.0

    def fitting(cpus_per_worker: int) -> int:
        """Return how many trials fit."""
        return sum(machine.fits(cpus_per_worker, per_worker) for machine in machines) // workers

    most = options.max_concurrent
    if not fitting(1):
        if not (grows and most and options.gpus_per_worker is not None):
            raise ConfigError(
                f"A trial needs {workers} CPUs and {workers * per_worker:g} GPUs, but the cluster has {cpus} and {gpus:g}; "
                "for an autoscaling cluster, give --gpus-per-worker and --max-concurrent"
            )
        return trial_spec(options, folder, [Machine(workers, workers * per_worker)] * most, grows=True)
    pack = _packed(options, bool(per_worker))
    most_processes = fitting(1) if per_worker else max(1, fitting(pack))
    processes = max(1, min(-(-(most or cpus * pack) // pack), most_processes))
    at_once = processes * pack
    return TrialSpec(
        name="",
        run=options.plan.run(options.plan.search.reference),
        folder=str(folder),
        workers=workers,
        gpus_per_worker=per_worker,
        cpus_per_worker=next((each for each in range(cpus, 1, -1) if fitting(each) >= processes), 1),
        concurrent=most if grows and most else min(at_once, most or at_once),
        pack=pack,
        checkpoint_minutes=options.checkpoint_minutes,
        trace=options.trace,
    )


def _packed(options: Options, gpu: bool) -> int:
    """Return how many trials share a process; raise ConfigError if --pack contradicts another flag."""
    if options.trace and options.pack not in ("auto", "off"):
        raise ConfigError(
            f"The value of `--pack` is {options.pack}, but with --trace it must be off: a process traces one trial at a time"
        )
    if options.trace or options.pack == "off":
        return 1
    if options.pack == "auto" and (options.workers_per_trial > 1 or not _packing_pays(options.plan, gpu)):
        return 1
    if options.workers_per_trial > 1:
        raise ConfigError(
            f"The value of `--pack` is {options.pack}, but a trial of {options.workers_per_trial} workers has a process group "
            "of its own; leave one of the two flags out"
        )
    return PACKED if options.pack == "auto" else int(options.pack)


def _packing_pays(plan: Plan, gpu: bool) -> bool:
    """Whether packs are faster for any proposal: if nothing trains or, on a GPU, for LoRA that shares base weights."""
    run, deciding = plan.config(plan.search.reference), {"adapter", "lora_init"} & set(plan.space)
    return not deciding and (not run.trains or (gpu and run.packs))


def local_spec(options: Options, folder: Path) -> TrialSpec:
    """Return what every trial would get on this machine, without Ray; raise ConfigError as `trial_spec`."""
    from gpt2core.speed import gpu_count  # PyTorch takes a second to import

    return trial_spec(options, folder, [Machine(cpus(), gpu_count())])


def cluster_spec(options: Options, folder: Path) -> TrialSpec:
    """Return what every trial gets of the connected cluster; raise ConfigError as `trial_spec`."""
    return trial_spec(options, folder, machines(), grows=can_grow())


def connect_to_ray(options: Options, folder: Path, say: Callable[[str], None]) -> TrialSpec:
    """Connect to Ray and return what every trial gets; raise ConfigError as `trial_spec`."""
    dashboard = options.workers_per_trial > 1 or bool(options.gpus_per_worker)
    connect(dashboard=dashboard, imports=options.imports, say=say)
    check_shared(folder)
    return cluster_spec(options, folder)
