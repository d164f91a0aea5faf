"""The best epoch of a run, in the folder `best`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from gpt2core.checkpoints.layout import BEST, STATE, WEIGHTS
from gpt2core.checkpoints.reading import (
    check_origins,
    checkpoint_errors,
    epoch_of,
    load_weights,
    read_state,
    read_tensors,
)
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, ConfigError
from gpt2core.files import atomic_path, flush_folder, link_or_copy, write_json
from gpt2core.model import GPT2, trainable_parameters
from gpt2core.weights import origin
from gpt2core.workers import Workers


def load_best(folder: Path, model: nn.Module, base: GPT2 | None = None) -> int:
    """Load the weights of the best epoch into an adapted model of `base`; return the epoch.

    Raises CheckpointError, also if the run keeps some weights of its base and was trained from another one.
    """
    state = best_state(folder)
    if base is not None and not all(parameter.requires_grad for parameter in model.parameters()):
        check_origins(state["history"], {"base": origin(base)}, folder)
    path = folder / BEST / WEIGHTS
    with checkpoint_errors(path):
        weights = read_tensors(path)
    load_weights(model, weights, folder)
    return epoch_of(folder / BEST) or int(state["history"][-1]["epoch"])


def run_config(folder: Path) -> RunConfig:
    """Return the configuration of the run with checkpoints in `folder`; raise CheckpointError."""
    try:
        return RunConfig.of(best_state(folder)["config"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / BEST / STATE}: {error}") from None


def best_state(folder: Path) -> dict[str, Any]:
    """Return the state in `best`; raise CheckpointError if it is damaged or missing."""
    with checkpoint_errors(folder / BEST / STATE):
        try:
            return read_state(folder / BEST)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(
                f"{folder}: must be the folder of a run, with {BEST}/{STATE}, or of a model, with config.json; "
                "`gpt2-search train` and `gpt2-search promote` write them"
            ) from None


def load_best_on_all(folder: Path, model: nn.Module, epoch: int, workers: Workers) -> None:
    """Load the weights of the best epoch in all workers; the first one reads them. Raises CheckpointError if they are lost."""
    if workers.rank == 0:
        if epoch_of(folder / BEST) != epoch:
            raise CheckpointError(
                f"{folder / BEST / WEIGHTS}: must have the weights of epoch {epoch}, the best one, but they are damaged or "
                "missing; remove the folder of the run to train it again"
            )
        load_best(folder, model)
    if workers.size > 1:
        for parameter in trainable_parameters(model).values():
            dist.broadcast(parameter.detach(), 0)


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Return the best epoch of a history; 0 if none is the best, or the history is of an old version."""
    return max((int(past["epoch"]) for past in history if past.get("best")), default=0)


def repair_best(folder: Path, source: Path, state: dict[str, Any], epoch: int) -> None:
    """Make `best` hold the epoch whose weights are in `source`, unless it has a later one."""
    kept, former = epoch_of(folder / BEST) or 0, best_state_or_none(folder)
    if kept < epoch:
        write_best(folder, source, state, epoch)
    elif kept == epoch and (former is None or former["history"][-1]["epoch"] != epoch):
        write_best_state(folder, state, epoch)


def best_state_or_none(folder: Path) -> dict[str, Any] | None:
    """Return the state in `best`, or None if it is damaged or missing."""
    try:
        return best_state(folder)
    except CheckpointError:
        return None


def write_best(folder: Path, source: Path, state: dict[str, Any], epoch: int) -> None:
    """Link `best` to the weights in `source`, and write the history up to their epoch."""
    with atomic_path(folder / BEST / WEIGHTS) as part:
        part.unlink()
        link_or_copy(source / WEIGHTS, part)
    write_best_state(folder, state, epoch)


def write_best_state(folder: Path, state: dict[str, Any], epoch: int) -> None:
    """Write the history up to the epoch of the weights in `best`."""
    write_json(folder / BEST / STATE, {**state, "history": state["history"][:epoch]})
    flush_folder(folder)
