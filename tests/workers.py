"""Two workers that train together, each in a process."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpt2core.workers import Workers
from tests.waiting import PATIENCE


def _worker(rank: int, store: str, task: Callable[..., Any], arguments: tuple[Any, ...], answers: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    answers.put((rank, task(Workers(rank, 2), *arguments)))
    torch.distributed.destroy_process_group()


def two_workers(folder: Path, task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `task` returns in each of them."""
    context = multiprocessing.get_context("spawn")
    answers, store = context.Queue(), str(folder / "store")
    each = [(rank, store, task, arguments, answers) for rank in range(2)]
    processes = [context.Process(target=_worker, args=own, daemon=True) for own in each]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join(timeout=PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    return [found[0], found[1]]
