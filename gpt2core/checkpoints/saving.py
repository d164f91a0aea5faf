"""Write the checkpoints of a run."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt2core.checkpoints.best import best_state_or_none, repair_best, write_best, write_best_state
from gpt2core.checkpoints.layout import (
    BEST,
    EPOCH,
    KEPT,
    OPTIMIZER,
    PART,
    SCALER,
    STATE,
    WEIGHTS,
    History,
    epoch_folder,
)
from gpt2core.checkpoints.reading import check_config, epoch_of, epochs, is_resumable
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, first_line
from gpt2core.files import atomic_folder, flush_file, write_json
from gpt2core.loss_scaling import ScaledAdamW
from gpt2core.model import trainable_parameters

NOTHING = torch.empty(0)


class Pace:
    """Chooses the epochs that are saved with optimizer state: one in so many minutes. The sub-runs of a round share a pace."""

    def __init__(self, minutes: float = 0.0) -> None:
        self.seconds, self.last = 60 * minutes, time.monotonic()
        self.epoch, self.chosen = 0, False

    def chooses(self, epoch: int) -> bool:
        """Whether an epoch that has just ended is saved with optimizer state."""
        if epoch != self.epoch:
            now = time.monotonic()
            self.epoch, self.chosen = epoch, now - self.last >= self.seconds
            self.last = now if self.chosen else self.last
        return self.chosen


class Saving:
    """The checkpoint of an epoch. A thread writes weights and, if given, optimizer state while the caller evaluates them.

    Nothing may change them until `finish` returns. Used as a context, which drops the checkpoint unless it is finished.
    """

    def __init__(
        self, folder: Path, config: RunConfig, model: nn.Module, optimizer: ScaledAdamW | None, epoch: int
    ) -> None:
        self.folder, self.config, self.epoch = folder, config, epoch
        self.staged = folder / f".epoch-{epoch:04d}.staged"
        self.files = _files(model, optimizer, epoch)
        self.writer = ThreadPoolExecutor(1)
        self.written = self.writer.submit(self._write)

    def _write(self) -> None:
        with _writing(self.folder, self.epoch):
            for path in (*self.folder.glob(".epoch-*"), *self.folder.glob(f".{PART}.*")):  # of killed processes
                shutil.rmtree(path, ignore_errors=True)
            self.staged.mkdir(parents=True)
            self.files.write(self.staged)
            for path in self.staged.iterdir():
                flush_file(path)

    def finish(self, history: History, *, best: bool) -> None:
        """Wait until the checkpoint is on disk with `history`, which ends with its epoch, and remove old ones.

        With `best`, its weights replace those in `best`. Raises CheckpointError if it cannot be written.
        """
        self.written.result()
        with _writing(self.folder, self.epoch):
            state = {"config": self.config.model_dump(), "history": history}
            target = epoch_folder(self.folder, self.epoch)
            with atomic_folder(target) as part:
                for path in self.staged.iterdir():
                    path.replace(part / path.name)
                write_state(part, state)
            for path in (self.folder / BEST).glob(".*"):  # of killed processes
                path.unlink(missing_ok=True)
            if best:
                write_best(self.folder, target, state, self.epoch)
            _remove_old(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.shutdown()
        shutil.rmtree(self.staged, ignore_errors=True)


def _remove_old(folder: Path) -> None:
    """Remove all epochs but the last ones and the last ones with optimizer state, and `part` once it has a successor."""
    saved = epochs(folder)
    resumable = [path for path in saved if is_resumable(path)]
    old = [path for path in saved if path not in saved[-KEPT:] and path not in resumable[-KEPT:]]
    if saved[-1] in resumable:
        old.append(folder / PART)
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def save(
    folder: Path, config: RunConfig, model: nn.Module, optimizer: ScaledAdamW | None, history: History, *, best: bool
) -> None:
    """Write the checkpoint of the last epoch in `history`, see `Saving.finish`."""
    with Saving(folder, config, model, optimizer, history[-1]["epoch"]) as saving:
        saving.finish(history, best=best)


def save_part(
    folder: Path, config: RunConfig, model: nn.Module, optimizer: ScaledAdamW, epoch: int, progress: dict[str, Any]
) -> None:
    """Save an unfinished epoch with its progress; raise CheckpointError if it cannot be written."""
    with _writing(folder, epoch), atomic_folder(folder / PART) as part:
        _files(model, optimizer, epoch).write(part)
        write_state(part, {"config": config.model_dump(), "begun": progress})


def rewrite_history(folder: Path, config: RunConfig, history: History) -> None:
    """Write a history whose records have changed into the newest checkpoint, and up to its epoch into `best`."""
    state = {"config": config.model_dump(), "history": history}
    newest, best = epoch_folder(folder, len(history)), epoch_of(folder / BEST)
    with _writing(folder, len(history)):
        if newest.exists():
            write_json(newest / STATE, state)
        if best:
            write_best_state(folder, state, best)


def keep_best_of(source: Path, folder: Path, config: RunConfig, history: History) -> None:
    """Keep the last epoch in `history` as `best` of `folder`; its checkpoint, of a run of `config`, is in `source`.

    Changes nothing if `best` has that epoch or a later one, or if neither the checkpoint nor `best` of `source` has it any more.
    Raises CheckpointError if `folder` belongs to another configuration or cannot be written.
    """
    epoch = history[-1]["epoch"]
    state: dict[str, Any] = {"config": config.model_dump(), "history": history}
    former = best_state_or_none(folder)
    if former:
        check_config(folder / BEST, former, config)
    with _writing(folder, epoch):
        places = (epoch_folder(source, epoch), source / BEST)
        if kept := next((place for place in places if epoch_of(place) == epoch), None):
            repair_best(folder, kept, state, epoch)


@contextmanager
def _writing(folder: Path, epoch: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint of epoch {epoch} cannot be written ({first_line(error)}); check the free space and the "
            "permissions, or choose another folder"
        ) from None


@dataclass(frozen=True)
class _Files:
    """The tensors of a checkpoint on the host, with or without optimizer state. `wait` returns when they are there."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor] | None
    epoch: int
    wait: Callable[[], None]

    def write(self, folder: Path) -> None:
        self.wait()
        save_file(self.weights, folder / WEIGHTS, {EPOCH: str(self.epoch)})
        if self.moments is not None:
            save_file(self.moments, folder / OPTIMIZER)


def _files(model: nn.Module, optimizer: ScaledAdamW | None, epoch: int) -> _Files:
    """Start copying weights and optimizer state to the host. Tensors of a CPU are not copied."""
    weights: dict[str, Tensor] = dict(trainable_parameters(model))
    moments: dict[str, Tensor] | None = None
    if optimizer is not None:
        states = {name: optimizer.state[parameter] for name, parameter in trainable_parameters(model).items()}
        states[SCALER] = optimizer.scaling()
        moments = {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}
    device = next(iter(weights.values()), NOTHING).device
    if device.type != "cuda":
        return _Files(_on_host(weights), None if moments is None else _on_host(moments), epoch, lambda: None)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        return _Files(_on_host(weights), None if moments is None else _on_host(moments), epoch, stream.synchronize)


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the host. Those of a GPU follow on its current stream, in pinned memory that PyTorch reuses."""
    return {n: t.detach().contiguous().to("cpu", non_blocking=t.device.type == "cuda") for n, t in tensors.items()}


def write_state(part: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a checkpoint into its new folder."""
    (part / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
