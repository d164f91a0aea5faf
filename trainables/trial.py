"""A trial: its specification, and what it reports after each epoch. `trainables.executors` runs it on Ray.

All executors report the same: `epoch`, `objective`, `metrics/...`, `statistics`, `judged`, `samples`, `tables`, `data`, `notes`,
and `failure` if the trial failed. Tune flattens mappings, so counts are JSON strings: `statistics` as by
`gpt2core.metrics.counts.to_json`, and `judged` an object of such `statistics` and of `metrics`, or None.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2core.config import RunConfig
from gpt2core.errors import DataError
from gpt2core.storage import fetch, folders, is_copy, local, send
from trainables.failures import failure_of

if TYPE_CHECKING:  # PyTorch takes a second to import
    from gpt2core.steps import Events
    from gpt2core.tasks import Evaluation, TaskData

TRAIN = "train"  # the folder of what Ray Train keeps of a group, beside the trial's checkpoints
RESTARTS = 2  # times that a trial goes on from its checkpoint after its process died


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """What a trial needs to run anywhere: name, configuration, folder in shared storage, and resources.

    `parent` is the folder of the run whose last checkpoint it starts from, `until` the epoch after which it ends.
    """

    name: str
    run: RunConfig
    folder: str
    parent: str | None = None
    until: int | None = None
    workers: int = 1
    gpus_per_worker: float = 0
    cpus_per_worker: int = 1
    concurrent: int = 1  # trials of this shape at once
    pack: int = 1  # trials that share a process, and what is said above of a trial
    process: str | None = None  # the name of that process, where there are several trials to it
    data: str = ""  # the digest of the search's data, where it is known; what generated pairs add is not in it
    trace: bool = False  # whether some of its steps are traced into `trace.json.gz` in its folder

    @property
    def grouped(self) -> bool:
        """Whether this trial needs a Ray Train worker group."""
        return self.pack == 1 and (self.workers > 1 or self.gpus_per_worker > 0)

    @property
    def gpus(self) -> float:
        """The GPUs, or the part of one, that the trial takes."""
        return self.workers * self.gpus_per_worker / self.pack

    @property
    def cpus(self) -> float:
        """The CPUs, or the part of them, that the trial takes."""
        return self.workers * self.cpus_per_worker / self.pack

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, which Tune can pass on."""
        return asdict(self) | {"run": self.run.model_dump()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrialSpec":
        """The inverse of `to_dict`."""
        if values["run"].keys() - RunConfig.model_fields.keys():
            # One that a component declares: its table is imported for it alone, for PyTorch takes a second.
            import gpt2core.identity  # noqa: F401

        return cls(**(values | {"run": RunConfig.of(values["run"])}))


Payload = dict[str, Any]


def payloads(spec: TrialSpec, rank: int = 0, size: int = 1) -> Iterator[Payload]:
    """Train the trial's run and yield the report of each epoch."""
    from gpt2core.steps import take_steps

    yield from take_steps(events(spec, rank, size))


def events(spec: TrialSpec, rank: int = 0, size: int = 1) -> "Events[Payload]":
    """The trial's run: it yields the steps that it waits for, and the report of each epoch.

    An error that another attempt would not avoid is reported, not raised. If only one of several workers fails, it raises all the
    same, since the others wait for it: the group ends, and its driver reports the failure.
    """
    import torch

    from gpt2core import folds
    from gpt2core.memory import process_memory_gb
    from gpt2core.run import Workers
    from gpt2core.steps import Step, advance
    from gpt2core.tasks import TASKS
    from gpt2core.tasks.base import objective_of
    from gpt2core.tracing import traced
    from trainables import worker_cache
    from trainables.nodes import Preemption

    began = time.time()
    torch.set_num_threads(spec.cpus_per_worker)
    epoch, score = 0, math.nan
    failure = None
    try:
        objective = objective_of(TASKS[spec.run.task], spec.run).name
        _, data = worker_cache.inputs(spec.run)
        check_data(spec, data)
        before = {"data": time.time() - began}
        notes = [note] if (note := data.corpus.facts.get("note")) else []
        folder = _checkpoints(spec, rank, size)
        preemption = Preemption(size)
        run = folds.loop(
            spec.run, worker_cache.start, data, folder=folder, workers=Workers(rank, size), preempted=preemption
        )
        if spec.trace and rank == 0:
            run = traced(run, folder / "trace.json.gz")
        report = advance(run, None)
        while report is not None:
            if isinstance(report, Step):
                report = advance(run, (yield report))
                if preemption.saved:
                    send(folder)
                    preemption.saved = False
                continue
            if rank == 0:
                send(folder)
            epoch, score = report.epoch, report.metrics.get(objective, math.nan)
            yield {
                "epoch": epoch,
                "objective": score,
                "metrics": {**report.metrics, "process_memory_gb": process_memory_gb()},
                "statistics": json.dumps(_scores(report.evaluation)["statistics"]),
                "judged": report.judged and json.dumps(_scores(report.judged)),
                "samples": report.evaluation.samples,
                "tables": report.evaluation.tables,
                "data": {"digest": data.corpus.digest, **data.corpus.facts},
                "notes": [*notes, *report.notes],
                "seconds": dict(Counter(before) + Counter(report.seconds)),
                "began": began,
            }
            before, notes = {}, []
            if epoch == spec.until:
                return
            report = advance(run, None)
    except Exception as error:
        failure = failure_of(error)
        if failure is None or (size > 1 and not failure.common):
            raise
    if failure is not None:  # here the error is forgotten, and with it the tensors that its frames held
        torch.cuda.empty_cache()
        yield {"epoch": epoch, "objective": score, "failure": failure.to_dict()}


def check_data(spec: TrialSpec, data: "TaskData") -> None:
    """Raise DataError where this process has read other data than the search began with."""
    if spec.data and not spec.run.learns_from_pairs and data.corpus.digest != spec.data:
        raise DataError(
            f"{data.corpus.origin}: the data is not that of the search: its digest is {data.corpus.digest[:12]}, and was "
            f"{spec.data[:12]}; it has changed, or is another on this machine"
        )


def _scores(evaluation: "Evaluation") -> dict[str, Any]:
    """Metrics and counts as JSON values."""
    from gpt2core.metrics import counts

    return {"metrics": evaluation.metrics, "statistics": counts.to_json(evaluation.statistics)}


def _checkpoints(spec: TrialSpec, rank: int, size: int) -> Path:
    """The folder of the trial's checkpoints, with those of an earlier process, or of its parent."""
    import torch.distributed as dist

    from gpt2core.folds import adopt

    folder = local(spec.folder)
    if rank == 0:
        _fetch_checkpoints(folder)
        if spec.parent is not None:
            _fetch_checkpoints(local(spec.parent))
            adopt(local(spec.parent), folder, spec.run)
            send(folder)
    if size > 1 and is_copy(folder):  # the others may be on other machines, or have the same copy
        dist.barrier()
        if rank:
            _fetch_checkpoints(folder)
    return folder


def _fetch_checkpoints(folder: Path) -> None:
    if is_copy(folder):
        for name in folders(folder):
            if name != TRAIN:
                fetch(folder / name)
