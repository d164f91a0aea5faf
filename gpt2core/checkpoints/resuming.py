"""Resume a run from its own checkpoints or from those of another run."""

import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gpt2core.checkpoints.best import best_epoch, best_state, repair_best
from gpt2core.checkpoints.layout import BEST, OPTIMIZER, PART, STATE, WEIGHTS, History, Record, epoch_folder
from gpt2core.checkpoints.reading import (
    belongs_to,
    check_config,
    epoch_of,
    epochs,
    is_resumable,
    load_training_state,
    read_state,
    read_training_state,
    readable_by_user,
)
from gpt2core.checkpoints.saving import write_state
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, DataError, first_line
from gpt2core.files import atomic_folder, link_or_copy, read_json, readable
from gpt2core.loss_scaling import ScaledAdamW

Say = Callable[[str], None]


class Resumed(NamedTuple):
    """A resumed run: the history of its epochs, and the epoch of its weights; epochs after it must be trained again.

    `lost` is the best epoch if its weights are lost, so that it must be trained again; else 0.
    """

    history: History
    epoch: int
    lost: int = 0


def resume(
    folder: Path, config: RunConfig, model: nn.Module, optimizer: ScaledAdamW, *, say: Say = print, writes: bool = True
) -> Resumed:
    """Load the newest undamaged checkpoint with optimizer state, before the best epoch if that is lost, into model and optimizer.

    The history is the longest undamaged one. Damage is reported to `say`. Of several workers, only one `writes` and so repairs
    `best`. Raises CheckpointError if a checkpoint belongs to another configuration.
    """
    history: History = []
    lost = 0
    for path in reversed(epochs(folder)):
        try:
            with readable_by_user():
                state = read_state(path)
                check_config(path, state, config)
                if not history:
                    history = list(state["history"])
                    lost = _restore_best(folder, state, say, writes=writes)
                if not is_resumable(path):
                    continue
                tensors = read_training_state(path)
        except (OSError, DataError) as error:
            say(f"{path} is damaged ({first_line(error)}) and skipped")
            continue
        epoch = int(state["history"][-1]["epoch"])
        if not lost or epoch < lost:
            load_training_state(path, model, optimizer, tensors)
            return Resumed(history, epoch, lost)
    return Resumed(history, 0, lost)


def _restore_best(folder: Path, state: dict[str, Any], say: Say, *, writes: bool) -> int:
    """Repair `best` if the checkpoint of the best epoch is there; return that epoch if its weights are lost, else 0."""
    best = best_epoch(state["history"])
    checkpoint = epoch_folder(folder, best)
    # A later epoch in `best` is fine: its checkpoint was damaged, and the run will reach it again.
    if (epoch_of(folder / BEST) or 0) < best and epoch_of(checkpoint) != best:
        if not checkpoint.exists():  # else `resume` reports it
            say(f"{folder / BEST} is damaged: epoch {best} is trained again")
        return best
    if writes and best:
        repair_best(folder, checkpoint, state, best)
    return 0


def resume_part(
    folder: Path, config: RunConfig, model: nn.Module, optimizer: ScaledAdamW, wanted: Container[int]
) -> tuple[int, Record] | None:
    """Load a saved unfinished epoch, if it is one of those `wanted`, into model and optimizer; return it and its progress."""
    part = folder / PART
    epoch = epoch_of(part)
    if epoch is None or epoch not in wanted:
        return None
    try:
        with readable_by_user():
            state, tensors = read_json(part / STATE), read_training_state(part)
    except (OSError, DataError):
        return None
    progress = _progress(state)
    if progress is None or not belongs_to(state, config):
        return None
    load_training_state(part, model, optimizer, tensors)
    return epoch, progress


def _progress(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the progress that `save_part` wrote, or None if it is not valid."""
    number = (int, float)
    match state:
        case {
            "config": {},
            "begun": {"steps": int(steps), "losses": losses, "seconds": seconds, "recent": [*recent]} as begun,
        }:
            valid = steps >= 0 and len(begun) == 4 and isinstance(losses, number) and isinstance(seconds, number)
            return dict(begun) if valid and all(type(loss) in number for loss in recent) else None
    return None


def adopt(source: Path, target: Path, config: RunConfig, *, most: float = math.inf) -> None:
    """Let a new run of `config` resume from the newest undamaged checkpoint of another run, unless it has its own.

    The checkpoint has optimizer state, the best weights of its history, and at most `most` epochs. Raises CheckpointError if the
    other run has none. Shapes of weights are checked when they are loaded.
    """
    if epochs(target):
        return
    for path in reversed(epochs(source)):
        try:
            for file in (STATE, WEIGHTS, OPTIMIZER):
                with readable_by_user():
                    readable(path / file)
            state = read_state(path)
            best = best_epoch(state["history"])
            places = (source / BEST, epoch_folder(source, best))
            kept = next((place for place in places if not best or epoch_of(place) == best), None)
            if kept is None or len(state["history"]) > most:
                continue
            kept_state = {**state, "history": state["history"][:best]} if best else read_state(kept)
            _link(kept, target / BEST, config, kept_state, WEIGHTS)
            _link(path, target / path.name, config, state, WEIGHTS, OPTIMIZER)  # last: once it exists, all is copied
        except (OSError, DataError):
            continue
        return
    raise CheckpointError(
        f"{source}: has no undamaged checkpoint with optimizer state and best weights to resume from; see --checkpoint-minutes"
    )


def adopt_best(source: Path, target: Path, config: RunConfig, *, most: float = math.inf) -> None:
    """Link `best` of another run, if it is of one of the first `most` epochs, to a run of `config`, unless it has its own.

    Raises CheckpointError.
    """
    if (target / BEST).exists():
        return
    state = best_state(source)
    if len(state["history"]) > most:
        raise CheckpointError(
            f"{source}: its best epoch is later than its last one with optimizer state; see --checkpoint-minutes"
        )
    try:
        _link(source / BEST, target / BEST, config, state, WEIGHTS)
    except OSError as error:
        raise CheckpointError(f"{source / BEST}: cannot be copied ({first_line(error)})") from None


def _link(source: Path, target: Path, config: RunConfig, state: dict[str, Any], *names: str) -> None:
    """Link or copy files of a checkpoint to the checkpoint of a run of `config`."""
    with atomic_folder(target) as part:
        for name in names:
            link_or_copy(source / name, part / name)
        write_state(part, state | {"config": config.model_dump()})
