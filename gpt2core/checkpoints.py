"""Checkpoints of a run: trainable weights and optimizer state as safetensors, in one folder per epoch, written atomically.

The last two epochs are kept, so a damaged checkpoint costs one epoch, not the run. With a `Pace`, not all epochs have optimizer
state; the last two that have are kept too, and a resumed run trains the epochs after them again.

`best` links to the weights of the best epoch. Its files are replaced one by one, each atomically, and the weights record their
epoch, so no kill can lose the best weights: `resume` repairs `best`. Files are replaced, never changed in place, so a link keeps
its content.

If the machine is about to be taken away, the unfinished epoch is saved in `part`, which the end of the epoch removes.
"""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import CheckpointError, ConfigError, DataError, first_line, shown
from gpt2core.files import atomic_path, flush_file, flush_folder, link_or_copy, read_json, readable, write_json
from gpt2core.foreign import NO_TENSORS
from gpt2core.loss_scaling import SCALING, ScaledAdamW
from gpt2core.model import GPT2
from gpt2core.weights import origin

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
BEST, PART = "best", "part"
EPOCH = "epoch"  # the key of the epoch in the metadata of weights
KEPT = 2  # checkpoints of epochs
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # optimizer state of a parameter
SCALER = "loss scaling"  # stands for a parameter's name
NOTHING = torch.empty(0)
#: Types of the values in the record of an epoch.
KINDS = {"epoch": int, "step": int, "metrics": dict, "statistics": dict, "samples": list, "tables": dict}
#: Digests in the record of each epoch, and how a run with another digest was trained.
ORIGINS = {"data": "on other data", "tokenizer": "with another tokenizer", "base": "from another model"}

Tensors = dict[str, Tensor]
Say = Callable[[str], None]
Record = dict[str, Any]
History = list[Record]  # of epochs


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


# -- writing


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
            target = _epoch_folder(self.folder, self.epoch)
            with atomic_folder(target) as part:
                for path in self.staged.iterdir():
                    path.replace(part / path.name)
                _write_state(part, state)
            for path in (self.folder / BEST).glob(".*"):  # of killed processes
                path.unlink(missing_ok=True)
            if best:
                _write_best(self.folder, target, state, self.epoch)
            _remove_old(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.shutdown()
        shutil.rmtree(self.staged, ignore_errors=True)


def _remove_old(folder: Path) -> None:
    """Remove all epochs but the last ones and the last ones with optimizer state, and `part` once it has a successor."""
    epochs = _epochs(folder)
    resumable = [path for path in epochs if _is_resumable(path)]
    old = [path for path in epochs if path not in epochs[-KEPT:] and path not in resumable[-KEPT:]]
    if epochs[-1] in resumable:
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
        _write_state(part, {"config": config.model_dump(), "begun": progress})


def keep_best_of(source: Path, folder: Path, config: RunConfig, history: History) -> None:
    """Keep the last epoch in `history` as `best` of `folder`; its checkpoint, of a run of `config`, is in `source`.

    Changes nothing if `best` has that epoch or a later one. If the checkpoint of the epoch is gone, `best` of `source` is used.
    Raises CheckpointError if `folder` belongs to another configuration or cannot be written.
    """
    epoch = history[-1]["epoch"]
    state: dict[str, Any] = {"config": config.model_dump(), "history": history}
    former = _best_state_or_none(folder)
    if former and _deciding(former["config"]) != _deciding(state["config"]):
        raise CheckpointError(f"{folder / BEST}: belongs to another configuration; choose another folder or --name")
    with _writing(folder, epoch):
        checkpoint = _epoch_folder(source, epoch)
        _repair_best(folder, checkpoint if _epoch_of(checkpoint) == epoch else source / BEST, state, epoch)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which then atomically becomes `target`. Any folder there before is removed."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        mode = part.stat().st_mode & 0o666  # safetensors makes its files unreadable to others
        for path in part.iterdir():
            path.chmod(mode)
            flush_file(path)
        flush_folder(part)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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

    weights: Tensors
    moments: Tensors | None
    epoch: int
    wait: Callable[[], None]

    def write(self, folder: Path) -> None:
        self.wait()
        save_file(self.weights, folder / WEIGHTS, {EPOCH: str(self.epoch)})
        if self.moments is not None:
            save_file(self.moments, folder / OPTIMIZER)


def _files(model: nn.Module, optimizer: ScaledAdamW | None, epoch: int) -> _Files:
    """Start copying weights and optimizer state to the host. Tensors of a CPU are not copied."""
    weights: Tensors = dict(trained(model))
    moments: Tensors | None = None
    if optimizer is not None:
        states = {name: optimizer.state[parameter] for name, parameter in trained(model).items()}
        states[SCALER] = optimizer.scaling()
        moments = {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}
    device = next(iter(weights.values()), NOTHING).device
    if device.type != "cuda":
        return _Files(_on_host(weights), None if moments is None else _on_host(moments), epoch, lambda: None)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        return _Files(_on_host(weights), None if moments is None else _on_host(moments), epoch, stream.synchronize)


def _on_host(tensors: Tensors) -> Tensors:
    """Return the tensors on the host. Those of a GPU follow on its current stream, in pinned memory that PyTorch reuses."""
    return {n: t.detach().contiguous().to("cpu", non_blocking=t.device.type == "cuda") for n, t in tensors.items()}


def _write_state(part: Path, state: Mapping[str, Any]) -> None:
    (part / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")


def _write_best(folder: Path, source: Path, state: dict[str, Any], epoch: int) -> None:
    """Link `best` to the weights in `source`, and write the history up to their epoch."""
    with atomic_path(folder / BEST / WEIGHTS) as part:
        part.unlink()
        link_or_copy(source / WEIGHTS, part)
    _write_best_state(folder, state, epoch)


def _write_best_state(folder: Path, state: dict[str, Any], epoch: int) -> None:
    write_json(folder / BEST / STATE, {**state, "history": state["history"][:epoch]})
    flush_folder(folder)


def _repair_best(folder: Path, source: Path, state: dict[str, Any], epoch: int) -> None:
    """Make `best` hold the epoch whose weights are in `source`, unless it has a later one."""
    kept, former = _epoch_of(folder / BEST) or 0, _best_state_or_none(folder)
    if kept < epoch:
        _write_best(folder, source, state, epoch)
    elif kept == epoch and (former is None or former["history"][-1]["epoch"] != epoch):
        _write_best_state(folder, state, epoch)


# -- resuming


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
    for path in reversed(_epochs(folder)):
        try:
            with _readable_by_user():
                state = _read_state(path)
                if _deciding(state["config"]) != _deciding(config.model_dump()):
                    raise CheckpointError(f"{path}: belongs to another configuration; choose another folder or --name")
                if not history:
                    history = list(state["history"])
                    lost = _restore_best(folder, state, say, writes=writes)
                if not _is_resumable(path):
                    continue
                tensors = _tensors(path)
        except (OSError, DataError) as error:
            say(f"{path} is damaged ({first_line(error)}) and skipped")
            continue
        epoch = int(state["history"][-1]["epoch"])
        if not lost or epoch < lost:
            _load(path, model, optimizer, tensors)
            return Resumed(history, epoch, lost)
    return Resumed(history, 0, lost)


def _restore_best(folder: Path, state: dict[str, Any], say: Say, *, writes: bool) -> int:
    """Repair `best` if the checkpoint of the best epoch is there; return that epoch if its weights are lost, else 0."""
    best = _best_of(state)
    checkpoint = _epoch_folder(folder, best)
    # A later epoch in `best` is fine: its checkpoint was damaged, and the run will reach it again.
    if (_epoch_of(folder / BEST) or 0) < best and _epoch_of(checkpoint) != best:
        if not checkpoint.exists():  # else `resume` reports it
            say(f"{folder / BEST} is damaged: epoch {best} is trained again")
        return best
    if writes and best:
        _repair_best(folder, checkpoint, state, best)
    return 0


def resume_part(
    folder: Path, config: RunConfig, model: nn.Module, optimizer: ScaledAdamW, epochs: Container[int]
) -> tuple[int, Record] | None:
    """Load a saved unfinished epoch, if it is one of `epochs`, into model and optimizer; return it and its progress."""
    part = folder / PART
    epoch = _epoch_of(part)
    if epoch is None or epoch not in epochs:
        return None
    try:
        with _readable_by_user():
            state, tensors = read_json(part / STATE), _tensors(part)
    except (OSError, DataError):
        return None
    progress = _progress(state)
    if progress is None or _deciding(state["config"]) != _deciding(config.model_dump()):
        return None
    _load(part, model, optimizer, tensors)
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
    if _epochs(target):
        return
    for path in reversed(_epochs(source)):
        try:
            for file in (STATE, WEIGHTS, OPTIMIZER):
                with _readable_by_user():
                    readable(path / file)
            state = _read_state(path)
            best, places = _best_of(state), (source / BEST, _epoch_folder(source, _best_of(state)))
            kept = next((place for place in places if not best or _epoch_of(place) == best), None)
            if kept is None or len(state["history"]) > most:
                continue
            best_state = {**state, "history": state["history"][:best]} if best else _read_state(kept)
            _link(kept, target / BEST, config, best_state, WEIGHTS)
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
    state = _best_state(source)
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
        _write_state(part, state | {"config": config.model_dump()})


def newest_resumable(folder: Path) -> int:
    """Return the last epoch with optimizer state, or 0."""
    return max((int(path.name.rpartition("-")[2]) for path in _epochs(folder) if _is_resumable(path)), default=0)


def check_origins(history: Sequence[Mapping[str, Any]], origins: Mapping[str, str], folder: Path) -> None:
    """Raise CheckpointError if the epochs so far were trained on other data or tokens, or from another model."""
    for key, digest in origins.items():
        former = next((past[key] for past in history if past.get(key, digest) != digest), None)
        if former is not None:
            raise CheckpointError(
                f"{folder}: was trained {ORIGINS[key]}, with digest {former[:12]} instead of {digest[:12]}; restore that, or "
                "choose another folder or --name"
            )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that may not change on resuming: all but places and, unless it affects single epochs, `epochs`."""
    planned = config.get("growth", 1.0) > 1 or config.get("schedule", "constant") != "constant"
    free = {*keys_that_decide("place"), *([] if planned else ["epochs"])}
    return {key: value for key, value in json.loads(json.dumps(config)).items() if key not in free}


# -- the best epoch


def load_best(folder: Path, model: nn.Module, base: GPT2 | None = None) -> int:
    """Load the weights of the best epoch into an adapted model of `base`; return the epoch.

    Raises CheckpointError, also if the run keeps some weights of its base and was trained from another one.
    """
    state = _best_state(folder)
    if base is not None and not all(parameter.requires_grad for parameter in model.parameters()):
        check_origins(state["history"], {"base": origin(base)}, folder)
    path = folder / BEST / WEIGHTS
    with reading(path):
        weights = _read_tensors(path)
    _load_weights(model, weights, folder)
    return _epoch_of(folder / BEST) or int(state["history"][-1]["epoch"])


def run_config(folder: Path) -> RunConfig:
    """Return the configuration of the run with checkpoints in `folder`; raise CheckpointError."""
    try:
        return RunConfig.of(_best_state(folder)["config"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / BEST / STATE}: {error}") from None


def _best_state(folder: Path) -> dict[str, Any]:
    with reading(folder / BEST / STATE):
        try:
            return _read_state(folder / BEST)
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder}: must be the folder of a run, with {BEST}/{STATE}, or of a model, with config.json; "
                "`python -m gpt2core train` and `python -m searches promote` write them"
            ) from None


def _best_of(state: Mapping[str, Any]) -> int:
    """Return the best epoch of a checkpoint's history; 0 if none is the best, or the checkpoint is an old one."""
    return max((int(past["epoch"]) for past in state["history"] if past.get("best")), default=0)


def _best_state_or_none(folder: Path) -> dict[str, Any] | None:
    """Return the state in `best`, or None if it is damaged or missing."""
    try:
        return _best_state(folder)
    except CheckpointError:
        return None


# -- reading


def _epoch_folder(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:04d}"


def _epochs(folder: Path) -> list[Path]:
    try:
        with _readable_by_user():
            names = [path.name for path in folder.iterdir()]  # unlike `glob`, it raises PermissionError
    except OSError:
        return []
    return sorted(folder / name for name in names if re.fullmatch(r"epoch-\d+", name))


def _is_resumable(path: Path) -> bool:
    """Return whether a checkpoint has optimizer state, damaged or not."""
    return (path / OPTIMIZER).exists()


def _epoch_of(folder: Path) -> int | None:
    """Return the epoch of the weights in `folder`, or None if they are damaged or missing."""
    try:
        with _readable_by_user(), safe_open(readable(folder / WEIGHTS), "pt") as file:
            return int((file.metadata() or {})[EPOCH])
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


@contextmanager
def _readable_by_user() -> Iterator[None]:
    """Turn PermissionError into CheckpointError, since such a file is neither damaged nor missing."""
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); ask its owner for access"
        ) from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into CheckpointError."""
    try:
        with _readable_by_user():
            yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except DataError as error:
        raise CheckpointError(str(error)) from None


def _read_state(folder: Path) -> dict[str, Any]:
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


def _tensors(folder: Path) -> tuple[Tensors, Tensors]:
    return _read_tensors(folder / WEIGHTS), _read_tensors(folder / OPTIMIZER)


def _read_tensors(path: Path) -> Tensors:
    try:
        return dict(load_file(readable(path)))
    except OSError:
        raise
    except NO_TENSORS as error:
        raise DataError(f"{path}: is truncated or not a safetensors file ({first_line(error)})") from None


def _load(path: Path, model: nn.Module, optimizer: ScaledAdamW, tensors: tuple[Tensors, Tensors]) -> None:
    """Load the tensors of a checkpoint; raise CheckpointError, and change nothing, if they do not fit."""
    weights, moments = tensors
    parameters = trained(model)
    scaling = {key: tensor for key in SCALING if (tensor := moments.pop(f"{SCALER}/{key}", None)) is not None}
    for place, tensor in moments.items():
        name, _, key = place.rpartition("/")
        if name not in parameters or key not in MOMENTS or tensor.shape not in (parameters[name].shape, ()):
            raise CheckpointError(f"{path}: does not fit the optimizer state of this configuration: {shown(place)}")
    for name in {place.rpartition("/")[0] for place in moments}:
        if not all(f"{name}/{key}" in moments for key in MOMENTS):
            raise CheckpointError(f"{path}: lacks some optimizer state of {shown(name)}")
    _load_weights(model, weights, path)
    optimizer.load_scaling(scaling)
    for place, tensor in moments.items():
        name, key = place.rsplit("/", 1)
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)


def _load_weights(model: nn.Module, weights: Tensors, path: Path) -> None:
    parameters = trained(model)
    if {name: p.shape for name, p in parameters.items()} != {name: w.shape for name, w in weights.items()}:
        raise CheckpointError(f"{path}: does not have the parameters that this configuration trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
