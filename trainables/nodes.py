"""The nodes of the connected Ray cluster: what they have for trials, and which are about to be taken away."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray

LOOK = 2.0  # seconds between two checks
AGAIN = 20.0  # seconds between two checkpoints on a draining node: at most so much is trained again


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs of a node."""

    cpus: int
    gpus: float = 0.0

    def fits(self, cpus: int, gpus: float) -> int:
        """How many workers of so many CPUs and GPUs each fit on it."""
        by_gpus = math.floor(self.gpus / gpus + 1e-9) if gpus else math.inf
        return int(min(self.cpus // cpus, by_gpus))


def machines() -> Sequence[Machine]:
    """The nodes that are alive."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(int(one.get("CPU", 0)), float(one.get("GPU", 0))) for one in there]


def can_grow() -> bool:
    """Whether nodes may come and go: Ray was not started on this machine for this command."""
    return bool(os.environ.get("RAY_ADDRESS"))


class Preemption:
    """Says, every few seconds, that a checkpoint is due because the trial's node is being drained. Worker 0 saves for all."""

    def __init__(self, workers: int = 1) -> None:
        context = ray.get_runtime_context() if ray.is_initialized() else None
        self.node = context.get_node_id() if context and workers == 1 else None  # with several workers, any node counts
        self.checks = ray.is_initialized()
        self.next = time.monotonic()
        self.saved = False  # since somebody last asked for it

    def __call__(self) -> bool:
        """Whether a checkpoint is due now."""
        now = time.monotonic()
        if not self.checks or now < self.next:
            return False
        draining = draining_nodes()
        due = bool(draining) if self.node is None else self.node in draining
        self.next = now + (AGAIN if due else LOOK)
        self.saved = self.saved or due
        return due


def draining_nodes() -> set[str]:
    """The ids of the nodes that Ray was asked to drain. Ray has no public call for this; Ray Train uses this one."""
    return set(ray._private.state.state.get_draining_nodes())
