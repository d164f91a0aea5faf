"""Worker groups: Ray Train workers that train one trial after another, on GPUs or with several workers.

A group keeps its processes with their imports, base weights, tokens and caches from trial to trial. Each trial also has a light
process under Tune, which forwards what the group reports. As in a pack, the next epoch of a trial starts only after its last
report was taken and Tune did not stop it. If a worker dies, the trial's process raises why, and Tune starts it again: the trial
resumes from its last checkpoint, in new workers of the same group.
"""

import gc
import math
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import ray
from ray import train
from ray.exceptions import RayActorError
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup, remove_placement_group

from trainables.failures import Failure, failure_of
from trainables.trial import RESTARTS, Payload, TrialSpec, payloads

DRIVER = 800 * 2**20  # bytes of memory of a group's own process and of Ray Train's processes beside the workers
IDLE = 60.0  # seconds after which a group without a trial ends its workers, so that others can use their GPUs
CLOSING = 10.0  # seconds after which workers that do not end are killed
MAX_CALLS = 20  # concurrent calls of a group, with those of workers that were killed
ASK_EVERY = 1.0  # seconds between two questions whether Tune stopped the trial
CHECK_EVERY = 10  # steps between two answers that several workers share


@dataclass
class _Member:
    """The trial of a group. `worker` is the process that trains it, `report` a report to be fetched."""

    spec: dict[str, Any]
    worker: str | None = None
    report: Payload | None = None
    epoch: int = 0  # of the last report
    wanted: bool = True  # whether its process waits for the next report
    ended: bool = False
    error: Exception | None = None

    @property
    def waits(self) -> bool:
        """Whether the trial waits for workers."""
        return self.worker is None and not self.ended and self.error is None


class Group:
    """The trial of a worker group; a Ray actor. A thread runs Ray Train while calls come and go.

    `next` and `leave` are for the trial's process and the driver, the other methods for the group's first worker, which calls
    itself by a name of its own, so that the workers of a failed start are told to end.
    """

    def __init__(self, name: str, shape: dict[str, Any]) -> None:
        self.name, self.shape = name, TrialSpec.from_dict(shape)
        self.changed = threading.Condition()
        self.member: _Member | None = None
        self.worker: str | None = None
        self.running = self.closing = False
        threading.Thread(target=self._run, daemon=True).start()

    def next(self, values: dict[str, Any], *, joins: bool) -> Payload | None:
        """Return the trial's next report, or None at its end. Registers the trial first if it `joins` or is unknown."""
        with self.changed:
            if joins or self.member is None or self.member.spec["name"] != values["name"]:
                self.member = _Member(values)
            member = self.member
            member.wanted = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: member.report or member.ended or member.error or member is not self.member)
            report, member.report = member.report, None
            member.wanted = False
        if report is None and member.error is not None:
            raise member.error
        return report

    def leave(self, name: str) -> None:
        """Forget a trial; its workers end it at their next step or report."""
        with self.changed:
            if self.member is not None and self.member.spec["name"] == name:
                self.member = None
                self.changed.notify_all()

    def close(self) -> bool:
        """Tell the workers to end; return whether Ray Train still frees their resources, after which this process ends."""
        with self.changed:
            self.closing, self.member = True, None
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.worker is None or not self.running)
            return self.running

    # -- calls of the first worker

    def take(self, worker: str) -> dict[str, Any] | None:
        """Return the next trial, after the end of the last one; None if the workers are to end."""
        with self.changed:
            if self.member is not None and self.member.worker == worker:
                self.member.ended = True
                self.changed.notify_all()
            self.changed.wait_for(lambda: worker != self.worker or self.closing or self._waiting(), timeout=IDLE)
            member = self.member
            if worker == self.worker and not self.closing and member is not None and member.waits:
                member.worker = worker
                return member.spec
            if worker == self.worker:
                self.worker = None
                self.changed.notify_all()
            return None

    def put(self, worker: str, report: Payload) -> bool:
        """Hand over a report, and wait until the trial's process wants the next one; return whether the trial goes on."""
        with self.changed:
            member = self.member
            if member is None or not self.trains(worker):
                return False
            if "failure" in report or report["epoch"] > member.epoch:  # an interrupted run reports its history again
                member.report, member.epoch, member.wanted = report, report["epoch"], False
                self.changed.notify_all()
                self.changed.wait_for(lambda: member.wanted or not self.trains(worker))
            return self.trains(worker)

    def trains(self, worker: str) -> bool:
        """Whether the trial that these workers train is still wanted."""
        return worker == self.worker and self.member is not None and self.member.worker == worker

    def begin(self, worker: str, resources: PlacementGroup) -> None:
        """Register new workers and their `resources`; they take over the trial of those before them."""
        _note_resources(self.name, resources)
        with self.changed:
            self.worker = worker
            if self.member is not None:
                self.member.worker = None
            self.changed.notify_all()

    # -- Ray Train

    def failed(self, failure: Failure | None, reason: str) -> None:
        """Note that the workers failed, and end the trial by its `failure`, or by an error with the `reason` if it has none."""
        with self.changed:
            self.worker, member = None, self.member
            if member is not None and not member.ended:
                if failure is None:
                    member.error = RuntimeError(reason)
                else:
                    member.report = {"epoch": 0, "objective": math.nan, "failure": failure.to_dict()}
                    member.ended = True
            self.changed.notify_all()

    def _waiting(self) -> bool:
        return self.member is not None and self.member.waits

    def _run(self) -> None:
        """Keep Ray Train running while there are trials."""
        while not self.closing:
            with self.changed:
                self.running = False
                self.changed.notify_all()
                self.changed.wait_for(self._waiting)
                self.running = True
            try:
                self._fit()
            except Exception as error:
                self.failed(failure_of(error), f"{type(error).__name__}: {error}")
        ray.kill(ray.get_runtime_context().current_actor)

    def _fit(self) -> None:
        """Train trials until none came for a while. Ray Train replaces workers that fail."""
        from ray.train.torch import TorchConfig, TorchTrainer

        _free_resources(self.name)  # if this process has replaced a dead one
        spec, group = self.shape, ray.get_runtime_context().current_actor
        resources = {"CPU": spec.cpus_per_worker} | ({"GPU": spec.gpus_per_worker} if spec.gpus_per_worker else {})
        with tempfile.TemporaryDirectory() as folder:  # for Ray Train, which has nothing to store
            TorchTrainer(
                _worker,
                train_loop_config={"group": group},
                # This process may see no GPU, so PyTorch chooses between NCCL and Gloo in the workers.
                torch_config=TorchConfig(backend="undefined" if spec.gpus_per_worker else "gloo"),
                scaling_config=train.ScalingConfig(
                    num_workers=spec.workers, use_gpu=spec.gpus_per_worker > 0, resources_per_worker=resources
                ),
                run_config=train.RunConfig(
                    name="group",
                    storage_path=folder,
                    callbacks=[_Failures(group)],
                    failure_config=train.FailureConfig(max_failures=-1),
                ),
            ).fit()


class _Failures(train.UserCallback):  # type: ignore[misc]  # Ray ships no types
    """Tells a group that its workers failed."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        errors = [getattr(error, "health_check_failure", error) for error in worker_exceptions.values()]
        if any(isinstance(error, RayActorError) and error.preempted for error in errors):
            return  # the trial goes on when Ray Train has replaced the workers, however often
        failure = next(filter(None, map(failure_of, errors)), None)
        reason = "\n".join(dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors))
        ray.get(self.group.failed.remote(failure, reason))


def _note_resources(group: str, resources: PlacementGroup) -> None:
    internal_kv._internal_kv_put(_key(group), ray.cloudpickle.dumps(resources))


def _free_resources(group: str) -> None:
    """Remove the placement group of a killed group: Ray would keep it until the driver ends."""
    if (resources := internal_kv._internal_kv_get(_key(group))) is not None:
        remove_placement_group(ray.cloudpickle.loads(resources))


def _key(group: str) -> str:
    return f"gpt2-search/{ray.get_runtime_context().get_job_id()}/{group}"


# -- in the workers


def _worker(config: dict[str, Any]) -> None:
    """Train the trials of a group, on every worker. The first one asks the group; all do what it answers."""
    import torch

    from gpt2core.machine import release_memory

    context, group, name = train.get_context(), config["group"], uuid4().hex
    rank, size = context.get_world_rank(), context.get_world_size()

    def ask(method: Any, *given: Any) -> Any:
        return _of_first(ray.get(method.remote(name, *given)) if rank == 0 else None, size)

    stopped = _Stopped(lambda: not ray.get(group.trains.remote(name)), rank, size)
    ask(group.begin, ray.util.get_current_placement_group())
    while (spec := ask(group.take)) is not None:
        release_memory()  # of the previous trial
        torch.cuda.empty_cache()
        gc.freeze()  # as in `executors.function_trial`
        for payload in payloads(TrialSpec.from_dict(spec), rank, size, stopped):
            if not ask(group.put, payload if rank == 0 else None):
                break


class _Stopped:
    """Says before each step whether Tune has stopped the trial; all workers say the same at the same step."""

    def __init__(self, ask: Callable[[], bool], rank: int, size: int) -> None:
        self.ask, self.rank, self.size = ask, rank, size
        self.steps, self.due = 0, time.monotonic()

    def __call__(self) -> bool:
        """Ask the group if a second has passed since the last time."""
        self.steps += 1
        if self.size > 1 and self.steps % CHECK_EVERY:
            return False
        answer = False
        if self.rank == 0 and time.monotonic() >= self.due:
            answer = self.ask()
            self.due = time.monotonic() + ASK_EVERY
        return bool(_of_first(answer, self.size))


def _of_first(value: Any, size: int) -> Any:
    """Return the first worker's value on all workers."""
    if size == 1:
        return value
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


# -- in the driver


class Groups:
    """The worker groups of a search, and the group of each trial. A group starts when a trial needs it."""

    def __init__(self, name: str) -> None:
        self.name, self.started = name, 0
        self.actors: dict[str, Any] = {}
        self.gpus: dict[str, float] = {}  # of each worker of a group
        self.idle: list[str] = []
        self.places: dict[str, str] = {}  # trial -> group, of trials that run
        self.needed = 0.0  # GPUs of each worker of the latest trial

    def place(self, spec: TrialSpec) -> TrialSpec:
        """Assign a trial to an idle group with its part of a GPU, or to a new one; close idle groups with other parts."""
        self.needed = spec.gpus_per_worker
        self._close([name for name in self.idle if self.gpus[name] != self.needed])
        group = self.idle.pop() if self.idle else self._start(spec)
        self.places[spec.name] = group
        return replace(spec, process=group)

    def leave(self, name: str) -> None:
        """Let a trial's group end it, for the next one."""
        group = self.places.pop(name)
        with suppress(RayActorError):  # a group that died has forgotten the trial
            ray.get(self.actors[group].leave.remote(name))
        if self.gpus[group] == self.needed:
            self.idle.append(group)
        else:
            self._close([group])

    def close(self) -> None:
        """Close all groups."""
        self._close(list(self.actors))

    def _start(self, spec: TrialSpec) -> str:
        name, self.started = f"{self.name}-group-{self.started}", self.started + 1
        self.actors[name], self.gpus[name] = self._new_actor(name, spec), spec.gpus_per_worker
        return name

    def _new_actor(self, name: str, spec: TrialSpec) -> Any:
        again = {"max_restarts": -1, "max_task_retries": RESTARTS}
        options = {"name": name, "num_cpus": 0, "memory": DRIVER, "max_concurrency": MAX_CALLS}
        return ray.remote(Group).options(**options, **again).remote(name, spec.to_dict())

    def _close(self, names: list[str]) -> None:
        self.idle = [name for name in self.idle if name not in names]
        actors = {self.actors[name].close.remote(): name for name in names}
        ended = ray.wait(list(actors), num_returns=len(actors), timeout=CLOSING)[0] if actors else []
        for reference, name in actors.items():
            actor = self.actors.pop(name)
            if reference not in ended:
                ray.kill(actor)
                _free_resources(name)
            elif not ray.get(reference):
                ray.kill(actor)
