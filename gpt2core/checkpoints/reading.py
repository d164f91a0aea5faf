"""Read the files of a checkpoint, check that they are undamaged and belong to a run, and load them into its model."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gpt2core.checkpoints.layout import EPOCH, KINDS, MOMENTS, OPTIMIZER, ORIGINS, SCALER, STATE, WEIGHTS
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import CheckpointError, DataError, first_line, shown
from gpt2core.files import read_json, readable
from gpt2core.foreign import NO_TENSORS
from gpt2core.loss_scaling import SCALING, ScaledAdamW
from gpt2core.model import trainable_parameters


def epochs(folder: Path) -> list[Path]:
    """Return the folders of a run's checkpoints of epochs, in order; raise CheckpointError if the user may not list them."""
    try:
        with readable_by_user():
            names = [path.name for path in folder.iterdir()]  # unlike `glob`, it raises PermissionError
    except OSError:
        return []
    return sorted(folder / name for name in names if re.fullmatch(r"epoch-\d+", name))


def is_resumable(path: Path) -> bool:
    """Return whether a checkpoint has optimizer state, damaged or not."""
    return (path / OPTIMIZER).exists()


def newest_resumable(folder: Path) -> int:
    """Return the last epoch with optimizer state, or 0."""
    return max((int(path.name.rpartition("-")[2]) for path in epochs(folder) if is_resumable(path)), default=0)


def epoch_of(folder: Path) -> int | None:
    """Return the epoch of the weights in `folder`, or None if they are damaged or missing."""
    try:
        with readable_by_user(), safe_open(readable(folder / WEIGHTS), "pt") as file:
            return int((file.metadata() or {})[EPOCH])
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


@contextmanager
def readable_by_user() -> Iterator[None]:
    """Turn PermissionError into CheckpointError, since such a file is neither damaged nor missing."""
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); ask its owner for access"
        ) from None


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into CheckpointError."""
    try:
        with readable_by_user():
            yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except DataError as error:
        raise CheckpointError(str(error)) from None


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state of a checkpoint. Raises OSError or DataError."""
    path = folder / STATE
    match read_json(path):
        case {"config": {}, "history": [_, *_] as history} as state:
            if all(_is_record(past) and past.get("epoch") == number for number, past in enumerate(history, start=1)):
                return dict(state)
    raise DataError(f"{path}: must have a `config`, and a `history` of epochs from 1 on, each with its `metrics`")


def _is_record(past: object) -> bool:
    return (
        isinstance(past, dict)
        and all(isinstance(past[key], kind) for key, kind in KINDS.items() if key in past)
        and all(type(value) in (int, float) for value in past.get("metrics", {}).values())
        and all(isinstance(past[key], str) for key in ORIGINS if key in past)
        and (past.get("judged") is None or _is_record(past["judged"]))
    )


def read_training_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the optimizer state of a checkpoint. Raises OSError or DataError."""
    return read_tensors(folder / WEIGHTS), read_tensors(folder / OPTIMIZER)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file. Raises OSError or DataError."""
    try:
        return dict(load_file(readable(path)))
    except OSError:
        raise
    except NO_TENSORS as error:
        raise DataError(f"{path}: is truncated or not a safetensors file ({first_line(error)})") from None


def load_training_state(
    path: Path, model: nn.Module, optimizer: ScaledAdamW, tensors: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    """Load the tensors of a checkpoint; raise CheckpointError, and change nothing, if they do not fit."""
    weights, moments = tensors
    parameters = trainable_parameters(model)
    scaling = {key: tensor for key in SCALING if (tensor := moments.pop(f"{SCALER}/{key}", None)) is not None}
    for place, tensor in moments.items():
        name, _, key = place.rpartition("/")
        if (
            name not in parameters
            or key not in (*MOMENTS, *optimizer.more)
            or tensor.shape not in (parameters[name].shape, ())
        ):
            raise CheckpointError(f"{path}: does not fit the optimizer state of this configuration: {shown(place)}")
    for name in {place.rpartition("/")[0] for place in moments}:
        if not all(f"{name}/{key}" in moments for key in MOMENTS):
            raise CheckpointError(f"{path}: lacks some optimizer state of {shown(name)}")
    load_weights(model, weights, path)
    optimizer.load_scaling(scaling)
    for place, tensor in moments.items():
        name, key = place.rsplit("/", 1)
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights by name into the trainable parameters; raise CheckpointError, which names `path`, if they do not fit."""
    parameters = trainable_parameters(model)
    if {name: p.shape for name, p in parameters.items()} != {name: w.shape for name, w in weights.items()}:
        raise CheckpointError(f"{path}: does not have the parameters that this configuration trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def check_config(path: Path, state: Mapping[str, Any], config: RunConfig) -> None:
    """Raise CheckpointError, which names `path`, if a checkpoint with `state` does not belong to a run of `config`."""
    if not belongs_to(state, config):
        raise CheckpointError(f"{path}: belongs to another configuration; choose another folder or --name")


def belongs_to(state: Mapping[str, Any], config: RunConfig) -> bool:
    """Return whether a run of `config` may resume from a checkpoint with `state`."""
    return _deciding(state["config"]) == _deciding(config.model_dump())


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that may not change on resuming: all but places and, unless it affects single epochs, `epochs`."""
    planned = config.get("growth", 1.0) > 1 or config.get("schedule", "constant") != "constant"
    free = {*keys_that_decide("place"), *([] if planned else ["epochs"])}
    newer = {key: field.default for key, field in keys_that_decide("if set").items()}
    known = json.loads(json.dumps(newer | config))
    return {key: value for key, value in known.items() if key not in free}


def check_origins(history: Sequence[Mapping[str, Any]], origins: Mapping[str, str], folder: Path) -> None:
    """Raise CheckpointError if the epochs so far were trained on other data or tokens, or from another model."""
    for key, digest in origins.items():
        former = next((past[key] for past in history if past.get(key, digest) != digest), None)
        if former is not None:
            raise CheckpointError(
                f"{folder}: was trained {ORIGINS[key]}, with digest {former[:12]} instead of {digest[:12]}; restore that, or "
                "choose another folder or --name"
            )
