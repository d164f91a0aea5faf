"""What the machines of the connected cluster have for trials."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import ray


@dataclass(frozen=True)
class Machine:
    """What a machine has."""

    cpus: int
    gpus: float = 0.0

    def fits(self, cpus: int, gpus: float) -> int:
        """How many workers of so many CPUs and GPUs each fit on it."""
        by_gpus = math.floor(self.gpus / gpus + 1e-9) if gpus else math.inf
        return int(min(self.cpus // cpus, by_gpus))


def machines() -> Sequence[Machine]:
    """Those that are there now."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(int(one.get("CPU", 0)), float(one.get("GPU", 0))) for one in there]


def grows() -> bool:
    """Whether machines may come and go: the Ray is one that was there before, and not this machine's for this command."""
    return bool(os.environ.get("RAY_ADDRESS"))
