"""Trials that a Ray Train worker group trains, for GPUs or several workers."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import Any

import torch
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.queue import Queue

from trainables.failures import failure_of
from trainables.trial import RESTARTS, TRAIN, Payload, TrialSpec, payloads


def reports(spec: TrialSpec) -> Iterator[Payload]:
    """Start a worker group named after its trial, and yield what its first worker reports."""
    resources = {"CPU": spec.cpus_per_worker} | ({"GPU": spec.gpus_per_worker} if spec.gpus_per_worker else {})
    queue = Queue(1, actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        _worker,
        train_loop_config=spec.to_dict(),
        torch_config=TorchConfig(backend=None if torch.cuda.is_available() else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=spec.workers, use_gpu=spec.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=train.RunConfig(
            name=spec.name,
            storage_path=f"{spec.folder}/{TRAIN}",
            callbacks=[_Forward(queue)],
            failure_config=train.FailureConfig(max_failures=RESTARTS),
        ),
    )
    try:
        yield from reports_until_end(trainer.fit, queue)
    except WorkerGroupError as error:
        failure = next(filter(None, map(failure_of, error.worker_failures.values())), None)
        if failure is None:
            raise
        yield {"epoch": 0, "objective": math.nan, "failure": failure.to_dict()}


class _Forward(train.UserCallback):  # type: ignore[misc]
    """Puts what the first worker reports into a queue.

    Ray's `TuneReportCallback` loses the last report if the group ends before Tune has taken it.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[Payload], checkpoint: Any) -> None:
        self.queue.put(metrics[0])


def reports_until_end(fit: Callable[[], Any], queue: Queue) -> Iterator[Payload]:
    """Run `fit` in a thread, and yield all reports that it puts into the queue. Raises the error of `fit`."""
    ended: Future[Any] = Future()

    def run() -> None:
        try:
            ended.set_result(fit())
        except BaseException as error:  # raised below, after the last report
            ended.set_exception(error)
        queue.put(None)

    Thread(target=run, daemon=True).start()  # a trial that Tune stops does not wait for it
    while (payload := queue.get()) is not None:
        yield payload
    ended.result()


def _worker(config: dict[str, Any]) -> None:
    context = train.get_context()
    for payload in payloads(TrialSpec.from_dict(config), context.get_world_rank(), context.get_world_size()):
        train.report(payload)
