"""The workers of a data-parallel group, and how they share an evaluation.

Each worker takes its share of the batches or prompts of a single worker, and the results of all are collected in every worker. So
scores are exactly those of a single worker, up to texts whose generation depends on the rounding of a batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process's rank in its data-parallel group, and the size of the group (default: 1)."""

    rank: int = 0
    size: int = 1


ALONE = Workers()
_sharing: ContextVar[Workers] = ContextVar("workers", default=ALONE)


@contextmanager
def sharing(workers: Workers) -> Iterator[None]:
    """Let these workers share what they compute within; all of them must be within it."""
    token = _sharing.set(workers)
    try:
        yield
    finally:
        _sharing.reset(token)


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this worker's share of a list that all workers have."""
    workers = _sharing.get()
    return items[workers.rank :: workers.size]


def collected(items: Sequence[T]) -> list[T]:
    """Return the results for a whole list, in its order, given those for this worker's share."""
    workers = _sharing.get()
    if workers.size == 1:
        return list(items)
    parts: list[Sequence[T] | None] = [None] * workers.size
    dist.all_gather_object(parts, items)
    shares = [cast(Sequence[T], part) for part in parts]
    return [shares[place % workers.size][place // workers.size] for place in range(sum(map(len, shares)))]


def summed(numbers: np.ndarray, device: torch.device) -> np.ndarray:
    """Return the sum of the workers' arrays; `device` is one that they can exchange tensors of."""
    if _sharing.get().size == 1:
        return numbers
    total = torch.from_numpy(numbers).to(device)
    dist.all_reduce(total)
    return np.asarray(total.cpu().numpy())
