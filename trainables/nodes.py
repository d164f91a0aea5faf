"""The nodes of the connected Ray cluster: their resources, and which are about to be taken away."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray

CHECK_EVERY = 2.0  # seconds between two checks for draining nodes
SAVE_EVERY = 20.0  # seconds between two checkpoints on a draining node: the most that is trained again


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs of a node."""

    cpus: int
    gpus: float = 0.0

    def fits(self, cpus: int, gpus: float) -> int:
        """Return how many workers with this many CPUs and GPUs each fit on the node."""
        by_gpus = math.floor(self.gpus / gpus + 1e-9) if gpus else math.inf
        return int(min(self.cpus // cpus, by_gpus))


def hide_foreign_gpus() -> None:
    """Let PyTorch find no GPU in an actor that Ray gave none; Ray by default lets it see all, so all actors would use the first.

    Must be called before PyTorch looks for GPUs. An actor with GPUs sees only those; other processes are left alone.
    """
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() and not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def machines() -> Sequence[Machine]:
    """Return the nodes that are alive."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(int(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in resources]


def nodes_with(cpus: int, gpus: float) -> list[str]:
    """Return the ids of the nodes that are alive and have room for a worker with this many CPUs and GPUs."""
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return [name for name, has in alive.items() if has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus]


def can_grow() -> bool:
    """Whether nodes may come and go: not if Ray was started on this machine for this command."""
    return bool(os.environ.get("RAY_ADDRESS"))


class Preemption:
    """Says whether a checkpoint is due because the trial's node is being drained. Worker 0 saves for all workers."""

    def __init__(self, workers: int = 1) -> None:
        context = ray.get_runtime_context() if ray.is_initialized() else None
        self.node = context.get_node_id() if context and workers == 1 else None  # with several workers, any node counts
        self.active = ray.is_initialized()
        self.next = time.monotonic()
        self.saved = False  # whether a checkpoint was due since the caller last reset this

    def __call__(self) -> bool:
        """Whether a checkpoint is due now."""
        now = time.monotonic()
        if not self.active or now < self.next:
            return False
        # Ray has no public call for this; Ray Train uses this one.
        draining = set(ray._private.state.state.get_draining_nodes())
        due = bool(draining) if self.node is None else self.node in draining
        self.next = now + (SAVE_EVERY if due else CHECK_EVERY)
        self.saved = self.saved or due
        return due
