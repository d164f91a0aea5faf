"""What a trial gets of the CPUs and GPUs that there are, and how many trials run at once."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.connect import check_shared, connect
from gpt2core.errors import ConfigError
from gpt2core.machine import cpus
from searches.options import Options
from searches.question import Plan
from trainables.nodes import Machine, can_grow, machines
from trainables.trial import TrialSpec

PACKED = 4  # trials of a pack where nobody says how many


def share(options: Options, folder: Path, machines: Sequence[Machine], *, grows: bool = False) -> TrialSpec:
    """What every trial gets of the machines; raise ConfigError where that is not enough for one.

    To a cluster that `grows`, machines may come that are not there yet, for as many trials as --max-concurrent says.
    """
    cpus, gpus = sum(machine.cpus for machine in machines), sum(machine.gpus for machine in machines)
    workers, per_worker = options.workers_per_trial, options.gpus_per_worker
    if per_worker is None:
        per_worker = 1.0 if any(machine.gpus >= 1 for machine in machines) else 0.0

    def fitting(each: int) -> int:
        """How many trials fit with so many CPUs for each worker."""
        return sum(machine.fits(each, per_worker) for machine in machines) // workers

    asked = options.max_concurrent
    if not fitting(1):
        if not (grows and asked and options.gpus_per_worker is not None):
            raise ConfigError(
                f"A trial needs {workers} CPUs and {workers * per_worker:g} GPUs, but the cluster has {cpus} and {gpus:g}; "
                "of one that grows, --gpus-per-worker and --max-concurrent say what it is to grow to"
            )
        return share(options, folder, [Machine(workers, workers * per_worker)] * asked, grows=True)
    pack = _packed(options, bool(per_worker))
    most = fitting(1) if per_worker else max(1, fitting(pack))
    processes = max(1, min(-(-(asked or cpus * pack) // pack), most))
    at_once = processes * pack
    return TrialSpec(
        name="",
        run=options.plan.config(options.plan.search.reference),
        folder=str(folder),
        workers=workers,
        gpus_per_worker=per_worker,
        cpus_per_worker=next((each for each in range(cpus, 1, -1) if fitting(each) >= processes), 1),
        concurrent=asked if grows and asked else min(at_once, asked or at_once),
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
    run, deciding = plan.config(plan.search.reference), {"adapter", "lora_init"} & set(plan.space)
    return not deciding and (not run.trains or (gpu and run.packs))


def local_share(options: Options, folder: Path) -> TrialSpec:
    """What every trial would get on this machine alone, without Ray; raise ConfigError as `share`."""
    from gpt2core.speed import gpu_count  # PyTorch takes a second to import

    return share(options, folder, [Machine(cpus(), gpu_count())])


def connect_and_share(options: Options, folder: Path, say: Callable[[str], None]) -> TrialSpec:
    """Connect to Ray and return what every trial gets; raise ConfigError where the cluster cannot give it."""
    wants_group = options.workers_per_trial > 1 or bool(options.gpus_per_worker)
    connect(dashboard=wants_group, say=say)
    check_shared(folder)
    return share_of_cluster(options, folder)


def share_of_cluster(options: Options, folder: Path) -> TrialSpec:
    """What every trial gets of the cluster; raise ConfigError as `share`."""
    return share(options, folder, machines(), grows=can_grow())
