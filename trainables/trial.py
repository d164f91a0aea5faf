"""A trial: its specification, its reports after each epoch, and its test scores. `trainables.executors` runs it on Ray.

All executors report the same keys: `epoch`, `objective`, `metrics/...`, `statistics`, `judged`, `samples`, `tables`, `data`,
`notes`, `seconds` and `began`, or `failure` if the trial failed. Tune flattens mappings, so counts are JSON strings:
`statistics` is the output of `gpt2core.metrics.counts.to_json`, and `judged` is None or an object of such `statistics` and of
`metrics`.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2core.checkpoints.layout import TRACE
from gpt2core.config import RunConfig
from gpt2core.errors import DataError, UserError, first_line
from gpt2core.storage import fetch, folders, is_copy, local, send
from trainables.failures import failure_of
from trainables.programs.run import ProgramRun
from trainables.runs import Run, run_of

if TYPE_CHECKING:  # PyTorch takes a second to import
    from gpt2core.steps import Events
    from gpt2core.tasks import Evaluation, TaskData
    from gpt2core.training import EpochReport

RESTARTS = 2  # times that a trial resumes from its checkpoint after its process died


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """What a trial needs to run on any node: name, configuration, folder in shared storage, and resources."""

    name: str
    run: Run
    folder: str
    parent: str | None = None  # folder of the run whose last checkpoint the trial starts from
    until: int | None = None  # epoch after which the trial ends
    workers: int = 1
    gpus_per_worker: float = 0
    cpus_per_worker: int = 1
    concurrent: int = 1  # trials that run at once
    pack: int = 1  # trials that share a process and its resources
    process: str | None = None  # name of the actor that trains it: a pack or a worker group
    data: str = ""  # digest of the search's data without generated pairs, if known
    checkpoint_minutes: float = 0.0  # between two epochs that are saved with optimizer state
    trace: bool = False  # whether to trace some steps into `trace.json.gz` in the folder

    @property
    def grouped(self) -> bool:
        """Whether this trial needs a Ray Train worker group."""
        return not self.is_program and self.pack == 1 and (self.workers > 1 or self.gpus_per_worker > 0)

    @property
    def is_program(self) -> bool:
        """Whether this trial runs a program of the user's."""
        return isinstance(self.run, ProgramRun)

    @property
    def config(self) -> RunConfig:
        """The training run of this project; a program has none."""
        assert isinstance(self.run, RunConfig)
        return self.run

    @property
    def gpus(self) -> float:
        """The GPUs of the trial; a fraction if it shares them."""
        return self.workers * self.gpus_per_worker / self.pack

    @property
    def cpus(self) -> float:
        """The CPUs of the trial; a fraction if it shares them."""
        return self.workers * self.cpus_per_worker / self.pack

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain values, which Tune can serialise."""
        return asdict(self) | {"run": self.run.model_dump()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrialSpec":
        """Return the spec with these values, the inverse of `to_dict`."""
        return cls(**(values | {"run": run_of(values["run"])}))


Payload = dict[str, Any]


def payloads(
    spec: TrialSpec, rank: int = 0, size: int = 1, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Payload]:
    """Train the trial's run and yield the report of each epoch; end before a step if the trial is `stopped`."""
    from gpt2core.steps import take_steps

    yield from take_steps(events(spec, rank, size), stopped)


def events(spec: TrialSpec, rank: int = 0, size: int = 1) -> "Events[Payload]":
    """Train the trial's run: yield the optimizer steps that it requests, and the report of each epoch.

    An error that another attempt would not avoid is reported, not raised. With several workers, it is raised if only one of
    them may have it, because the others wait for that worker: Ray Train replaces all, and the group reports the failure.
    """
    import torch

    from gpt2core import folds
    from gpt2core.machine import process_memory_gb
    from gpt2core.steps import Step, advance, traced
    from gpt2core.tasks import TASKS
    from gpt2core.tasks.base import objective_of
    from gpt2core.workers import Workers
    from trainables import worker_cache
    from trainables.nodes import Preemption

    began = time.time()
    torch.set_num_threads(spec.cpus_per_worker)
    epoch, score = 0, math.nan
    failure = None
    try:
        objective = objective_of(TASKS[spec.config.task], spec.config).name
        _, data = worker_cache.inputs(spec.config)
        check_data(spec, data)
        before = {"data": time.time() - began}
        notes = [note] if (note := data.corpus.facts.get("note")) else []
        folder = _checkpoints(spec, rank, size)
        preemption = Preemption(size)
        workers = Workers(rank, size)
        run = folds.loop(
            spec.config,
            worker_cache.start,
            data,
            folder=folder,
            workers=workers,
            preempted=preemption,
            until=spec.until,
            checkpoint_minutes=spec.checkpoint_minutes,
        )
        if spec.trace and rank == 0:
            run = traced(run, folder / TRACE)
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
                "objective": score,
                **_scored(report),
                "metrics": {**report.metrics, "process_memory_gb": process_memory_gb()},
                "best": report.best and json.dumps(_scored(report.best)),
                "data": {"digest": data.corpus.digest, **data.corpus.facts},
                "notes": [*notes, *report.notes],
                "seconds": dict(Counter(before) + Counter(report.seconds)),
                "began": began,
            }
            before, notes = {}, []
            report = advance(run, None)
    except Exception as error:
        failure = failure_of(error)
        if failure is None or (size > 1 and not failure.common):
            raise
    if failure is not None:  # outside `except`, where the error and the tensors in its frames are freed
        torch.cuda.empty_cache()
        yield {"epoch": epoch, "objective": score, "failure": failure.to_dict()}


def check_data(spec: TrialSpec, data: "TaskData") -> None:
    """Raise DataError if this process has read other data than the search began with."""
    digest = data.corpus.digest
    if spec.data and not spec.config.learns_from_pairs and digest != spec.data:
        raise DataError(
            f"{data.corpus.origin}: the data's digest is {digest[:12]}, but the search began with {spec.data[:12]}; restore "
            "that data on all machines, or start a search of another --name"
        )


def _scored(report: "EpochReport") -> dict[str, Any]:
    """Return an epoch and its scores. Counts are JSON text, which Tune does not flatten."""
    return {
        "epoch": report.epoch,
        "metrics": report.metrics,
        "statistics": json.dumps(_scores(report.evaluation)["statistics"]),
        "judged": report.judged and json.dumps(_scores(report.judged)),
        "samples": report.evaluation.samples,
        "tables": report.evaluation.tables,
    }


def _scores(evaluation: "Evaluation") -> dict[str, Any]:
    """Return metrics and counts as JSON values."""
    from gpt2core.metrics import counts

    return {"metrics": evaluation.metrics, "statistics": counts.to_json(evaluation.statistics)}


def _checkpoints(spec: TrialSpec, rank: int, size: int) -> Path:
    """Return the folder of the trial's checkpoints, with those of an earlier process or of its parent."""
    import torch.distributed as dist

    from gpt2core.folds import adopt

    folder = local(spec.folder)
    if rank == 0:
        _fetch_checkpoints(folder)
        if spec.parent is not None:
            _fetch_checkpoints(local(spec.parent))
            adopt(local(spec.parent), folder, spec.config)
            send(folder)
    if size > 1 and is_copy(folder):  # other workers may be on other machines, or share this copy
        dist.barrier()
        if rank:
            _fetch_checkpoints(folder)
    return folder


def _fetch_checkpoints(folder: Path) -> None:
    if is_copy(folder):
        for name in folders(folder):
            fetch(folder / name)


def score_all(specs: Sequence[TrialSpec]) -> list[dict[str, Any]]:
    """Return metrics and counts of each trial's best epoch on the test split, scored by Ray tasks. Raises UserError.

    Nothing else reads that split while a search runs.
    """
    import ray

    resources = {"num_cpus": specs[0].cpus_per_worker, "num_gpus": specs[0].gpus_per_worker}
    task = ray.remote(max_retries=RESTARTS, **resources)(_score)
    try:
        return list(ray.get([task.remote(spec.to_dict()) for spec in specs]))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        raise UserError(f"The test split could not be scored ({reason}); the same command tries again") from None


def _score(values: dict[str, Any]) -> dict[str, Any]:
    import torch

    from gpt2core.builders import build_model, device
    from gpt2core.checkpoints.best import load_best
    from gpt2core.checkpoints.layout import BEST
    from gpt2core.tasks import TASKS
    from trainables import worker_cache

    spec = TrialSpec.from_dict(values)
    torch.set_num_threads(spec.cpus_per_worker)
    base, data = worker_cache.inputs(spec.config)
    check_data(spec, data)
    model = build_model(spec.config, base, device())
    folder = local(spec.folder)
    fetch(folder / BEST)
    load_best(folder, model, base)
    evaluation = TASKS[spec.config.task].evaluate(model.train(False).requires_grad_(False), data, spec.config, "test")
    return _scores(evaluation)
