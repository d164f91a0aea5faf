"""Checkpoints of a run: trainable weights and optimizer state as safetensors, in one folder per epoch, written atomically.

The last two epochs are kept, so that a damaged one costs an epoch and not the run. `best` keeps the weights of the best epoch.
Its files are replaced one by one, each atomically, and the weights name their epoch. So no kill can lose the best weights, and
`resume` repairs `best` if a kill came between.

Only if its machine is about to be taken away is the part of an epoch saved, in `part`, which the end of the epoch removes.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import CheckpointError, ConfigError, DataError, first_line, shown
from gpt2core.files import atomic_path, flush_folder, read_json, readable, write_json
from gpt2core.foreign import NO_TENSORS
from gpt2core.model import GPT2
from gpt2core.weights import origin

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
BEST, PART = "best", "part"
EPOCH = "epoch"  # in the metadata of weights: which one they are of
KEPT = 2  # checkpoints of epochs
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what the optimizer keeps of a parameter
#: What a record of an epoch holds.
KINDS = {"epoch": int, "step": int, "metrics": dict, "statistics": dict, "samples": list, "tables": dict}
#: What a run is made from, by its name in the record of each epoch, and how a run is from another one.
ORIGINS = {"data": "on other data", "tokenizer": "on the tokens of another tokenizer", "base": "from another model"}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(
    folder: Path,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    *,
    best: bool,
) -> None:
    """Write the checkpoint of the last epoch in `history`, then remove older ones; with `best`, keep its weights apart as well.

    Raises CheckpointError if it cannot be written.
    """
    epoch = history[-1]["epoch"]
    try:
        _drop_unfinished(folder)
        state = {"config": config.model_dump(), "history": [*history[:-1], {**history[-1], "best": best}]}
        _write(_epoch_folder(folder, epoch), epoch, model, optimizer, state)
        if best:
            _keep_best(folder, state, epoch)
            flush_folder(folder)
        for old in (*_epochs(folder)[:-KEPT], folder / PART):
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, epoch, error) from None


def save_part(
    folder: Path,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    begun: dict[str, Any],
) -> None:
    """Save the part of an epoch that is trained, with its progress `begun`; raise CheckpointError if it cannot be written."""
    try:
        _write(folder / PART, epoch, model, optimizer, {"config": config.model_dump(), "begun": begun})
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, epoch, error) from None


def resume_part(
    folder: Path, config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int
) -> dict[str, Any] | None:
    """Load the saved part of an epoch into model and optimizer; return its progress, or None if nothing was saved."""
    part = folder / PART
    if _epoch_of(part) != epoch:
        return None
    try:
        with _permitted():
            state, tensors = read_json(part / STATE), _tensors(part)
    except (OSError, DataError):
        return None
    begun = _begun(state)
    if begun is None or _deciding(state["config"]) != _deciding(config.model_dump()):
        return None
    _load(part, model, optimizer, tensors)
    return begun


def _begun(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The progress of the epoch in `part`; None if it is not one that `save_part` wrote."""
    match state:
        case {
            "config": {},
            "begun": {
                "steps": int(steps),
                "losses": float() | int(),
                "seconds": float() | int(),
                "recent": [*recent],
            } as begun,
        } if steps >= 0 and len(begun) == 4 and all(type(loss) in (int, float) for loss in recent):
            return dict(begun)
    return None


def _write(target: Path, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    with whole_folder(target) as part:
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in trained(model).items()}
        save_file(weights, part / WEIGHTS, {EPOCH: str(epoch)})
        save_file(_optimizer_tensors(model, optimizer), part / OPTIMIZER)
        (part / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")


def _unwritten(folder: Path, epoch: int, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: the checkpoint of epoch {epoch} cannot be written ({first_line(error)}); see that there is room, "
        "and that the folder may be written to, or choose another one"
    )


class whole_folder:  # noqa: N801  # reads as a verb at its use
    """Give a new folder to fill, which is then renamed to `target`, where nothing or a damaged folder is."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            mode = self.part.stat().st_mode & 0o666  # safetensors lets nobody else read what it writes
            for path in self.part.iterdir():
                path.chmod(mode)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            flush_folder(self.part)
            shutil.rmtree(self.target, ignore_errors=True)
            self.part.replace(self.target)
            flush_folder(self.target.parent)
        shutil.rmtree(self.part, ignore_errors=True)


def _drop_unfinished(folder: Path) -> None:
    """Remove what killed processes left unfinished."""
    for path in (*folder.glob(".epoch-*"), *folder.glob(f".{PART}.*")):
        shutil.rmtree(path, ignore_errors=True)
    for path in (folder / BEST).glob(".*"):
        path.unlink(missing_ok=True)


def _keep_best(folder: Path, state: dict[str, Any], epoch: int) -> None:
    """Copy an epoch's weights, from its checkpoint, and the history up to it to `best`."""
    _copy_best(folder, _epoch_folder(folder, epoch))
    _tell_of_best(folder, state, epoch)


def _copy_best(folder: Path, source: Path) -> None:
    with atomic_path(folder / BEST / WEIGHTS) as part:
        shutil.copyfile(source / WEIGHTS, part)


def keep_best_of(source: Path, folder: Path, config: RunConfig, history: list[dict[str, Any]]) -> None:
    """Make `best` of `folder` hold the last epoch in `history` of the run of `config` whose checkpoints are in `source`.

    Nothing changes if it holds that epoch or a later one. If that epoch's checkpoint is gone, the `best` of `source` is taken.
    Raises CheckpointError if `folder` belongs to another configuration or cannot be written.
    """
    epoch = history[-1]["epoch"]
    state: dict[str, Any] = {"config": config.model_dump(), "history": history}
    kept, told = _epoch_of(folder / BEST) or 0, _told_of_best(folder)
    if told and _deciding(told["config"]) != _deciding(state["config"]):
        raise CheckpointError(f"{folder / BEST}: belongs to another configuration; choose another folder or --name")
    try:
        if kept < epoch:
            there = _epoch_of(_epoch_folder(source, epoch)) == epoch
            _copy_best(folder, _epoch_folder(source, epoch) if there else source / BEST)
        if kept < epoch or (kept == epoch and (told is None or told["history"][-1]["epoch"] != epoch)):
            _tell_of_best(folder, state, epoch)
            flush_folder(folder)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, epoch, error) from None


def _told_of_best(folder: Path) -> dict[str, Any] | None:
    """The state beside the best weights; None if it is damaged or missing."""
    try:
        return _best_state(folder)
    except CheckpointError:
        return None


def _tell_of_best(folder: Path, state: dict[str, Any], epoch: int) -> None:
    write_json(folder / BEST / STATE, {**state, "history": state["history"][:epoch]})


def _epoch_of(folder: Path) -> int | None:
    """The epoch of weights; None if they are damaged or missing."""
    try:
        with _permitted(), safe_open(readable(folder / WEIGHTS), "pt") as file:
            return int((file.metadata() or {})[EPOCH])
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


def _epoch_folder(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:04d}"


def _epochs(folder: Path) -> list[Path]:
    try:
        with _permitted():
            names = [path.name for path in folder.iterdir()]  # which says what a glob keeps to itself
    except OSError:
        return []
    return sorted(folder / name for name in names if re.fullmatch(r"epoch-\d+", name))


@contextmanager
def _permitted() -> Iterator[None]:
    """Raise CheckpointError if something may not be read: that is not a damaged or missing file."""
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(
            f"{error.filename}: may not be read ({error.strerror}); ask its owner for the right"
        ) from None


def resume(
    folder: Path,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    say: Callable[[str], None] = lambda text: None,
    writes: bool = True,
) -> list[dict[str, Any]]:
    """Load the newest undamaged checkpoint into model and optimizer; return its history, empty if there is none.

    Damaged checkpoints are skipped and reported by `say`. Only one of several workers `writes`: it repairs `best`. Raises
    CheckpointError if the checkpoint belongs to another configuration.
    """
    for path in reversed(_epochs(folder)):
        try:
            with _permitted():
                state = _read_state(path)
                tensors = _tensors(path)
        except (OSError, DataError) as error:
            say(f"{path} is damaged ({first_line(error)}) and passed over")
            continue
        if _deciding(state["config"]) != _deciding(config.model_dump()):
            raise CheckpointError(f"{path}: belongs to another configuration; choose another folder or --name")
        if not _best_is_there(folder, state):
            say(f"{folder / BEST} is damaged: the run starts again")
            return []
        if writes:
            _mend_best(folder, state)
        _load(path, model, optimizer, tensors)
        return list(state["history"])
    return []


def _best_is_there(folder: Path, state: dict[str, Any]) -> bool:
    """Whether the best weights are kept, or can be taken from the epoch's own checkpoint.

    Those of a later epoch will do: its checkpoint was damaged, and the run will reach it again.
    """
    best = _best_epoch(state)
    return (_epoch_of(folder / BEST) or 0) >= best or _epoch_of(_epoch_folder(folder, best)) == best


def _mend_best(folder: Path, state: dict[str, Any]) -> None:
    """Repair `best` if a kill came between an epoch's checkpoint and it, or if it is damaged."""
    best, kept = _best_epoch(state), _epoch_of(folder / BEST) or 0
    if kept < best:
        _keep_best(folder, state, best)
    elif kept == best:
        told = _told_of_best(folder)
        if told is None or told["history"][-1]["epoch"] != best:
            _tell_of_best(folder, state, best)


def _best_epoch(state: dict[str, Any]) -> int:
    """The best epoch so far; 0 if the checkpoint is too old to say."""
    return max((past["epoch"] for past in state["history"] if past.get("best")), default=0)


def adopt(source: Path, target: Path, config: RunConfig) -> None:
    """Let a new run of `config` resume from the newest undamaged checkpoint of another run, unless it has one of its own.

    Raises CheckpointError if the other run has none. Whether its weights fit is checked when they are loaded.
    """
    if _epochs(target):
        return
    for path in reversed(_epochs(source)):
        try:
            for needed in (STATE, WEIGHTS, OPTIMIZER):
                with _permitted():
                    readable(path / needed)
            state = _read_state(path) | {"config": config.model_dump()}
            for folder in (source / BEST, path):  # the epoch last: where it is, all is
                best = _read_state(folder)
                with whole_folder(target / folder.name) as part:
                    for file in (WEIGHTS, OPTIMIZER):
                        if (folder / file).exists():
                            shutil.copyfile(folder / file, part / file)
                    written = state if folder == path else best | {"config": config.model_dump()}
                    (part / STATE).write_text(json.dumps(written, indent=2), encoding="utf-8")
        except (OSError, DataError):
            continue
        return
    raise CheckpointError(f"{source}: there is no whole checkpoint to go on from")


def adopt_best(source: Path, target: Path, config: RunConfig) -> None:
    """Copy another run's best weights to `target` as those of a run of `config`, unless it has some; raise CheckpointError."""
    if (target / BEST).exists():
        return
    try:
        state = _best_state(source) | {"config": config.model_dump()}
        with whole_folder(target / BEST) as part:
            shutil.copyfile(source / BEST / WEIGHTS, part / WEIGHTS)
            (part / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{source / BEST}: cannot be taken over ({first_line(error)})") from None


def check_origins(history: Sequence[Mapping[str, Any]], origins: Mapping[str, str], folder: Path) -> None:
    """Raise CheckpointError if the epochs so far were trained on other data or tokens, or from another model."""
    for key, found in origins.items():
        former = next((past[key] for past in history if past.get(key, found) != found), None)
        if former is not None:
            raise CheckpointError(
                f"{folder}: was trained {ORIGINS[key]}, of digest {former[:12]} and not {found[:12]}; put that back, or choose "
                "another folder or --name"
            )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that may not change when a run resumes: all but places, and `epochs` unless what an epoch learns depends on it."""
    planned = config.get("growth", 1.0) > 1 or config.get("schedule", "constant") != "constant"
    free = {*keys_that_decide("place"), *([] if planned else ["epochs"])}
    return {key: value for key, value in json.loads(json.dumps(config)).items() if key not in free}


def load_best(folder: Path, model: nn.Module, base: GPT2 | None = None) -> int:
    """Load the weights of the best epoch into an adapted model of `base`; return that epoch.

    Raises CheckpointError, also if the run was trained from another base and keeps some of its weights.
    """
    state = _best_state(folder)
    if base is not None and not all(parameter.requires_grad for parameter in model.parameters()):
        check_origins(state["history"], {"base": origin(base)}, folder)
    try:
        with _permitted():
            weights = _read_tensors(folder / BEST / WEIGHTS)
    except OSError as error:
        raise CheckpointError(
            f"{folder / BEST / WEIGHTS}: cannot be read ({error.strerror or first_line(error)})"
        ) from None
    except DataError as error:
        raise CheckpointError(str(error)) from None
    _load_weights(model, weights, folder)
    return _epoch_of(folder / BEST) or int(state["history"][-1]["epoch"])


def run_config(folder: Path) -> RunConfig:
    """Return the configuration of the run whose checkpoints are in `folder`; raise CheckpointError."""
    try:
        return RunConfig.of(_best_state(folder)["config"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / BEST / STATE}: {error}") from None


def _best_state(folder: Path) -> dict[str, Any]:
    path = folder / BEST / STATE
    try:
        with _permitted():
            return _read_state(path.parent)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: must be a run's folder, with {BEST}/{STATE} in it, or a model's, with config.json; "
            "`python -m gpt2core train` and `python -m searches promote` write them"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise CheckpointError(str(error)) from None


def _read_state(folder: Path) -> dict[str, Any]:
    """The state beside the weights of a checkpoint. Raises OSError or DataError."""
    path = folder / STATE
    match read_json(path):
        case {"config": {}, "history": [_, *_] as history} as state if _numbered(history):
            return dict(state)
    raise DataError(f"{path}: must hold `config` and a `history` of epochs from 1 on, each with its `metrics`")


def _numbered(history: list[Any]) -> bool:
    """Whether these are the records of the epochs from 1 on."""
    return all(_is_record(past) and past.get("epoch") == number for number, past in enumerate(history, start=1))


def _is_record(past: object) -> bool:
    """Whether the values of an epoch's record have the types that are written."""
    return (
        isinstance(past, dict)
        and all(isinstance(past[key], kind) for key, kind in KINDS.items() if key in past)
        and all(type(value) in (int, float) for value in past.get("metrics", {}).values())
        and all(isinstance(past[key], str) for key in ORIGINS if key in past)
        and (past.get("judged") is None or _is_record(past["judged"]))
    )


def _tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights and optimizer state of a checkpoint. Raises OSError, and DataError for damaged ones."""
    weights, moments = (_read_tensors(folder / name) for name in (WEIGHTS, OPTIMIZER))
    return weights, moments


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(readable(path)))
    except OSError:
        raise
    except NO_TENSORS as error:
        raise DataError(f"{path}: is truncated or no safetensors file ({first_line(error)})") from None


def _load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    """Load a checkpoint's tensors; raise CheckpointError, and change nothing, if they do not fit."""
    weights, moments = tensors
    _check_moments(model, moments, path)
    _load_weights(model, weights, path)
    _load_optimizer(model, optimizer, moments)


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    parameters = trained(model)
    if {name: p.shape for name, p in parameters.items()} != {name: w.shape for name, w in weights.items()}:
        raise CheckpointError(f"{path}: does not hold the parameters that this configuration trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _check_moments(model: nn.Module, moments: dict[str, Tensor], path: Path) -> None:
    parameters = trained(model)
    for place, tensor in moments.items():
        name, _, key = place.rpartition("/")
        if name not in parameters or key not in MOMENTS or tensor.shape not in (parameters[name].shape, ()):
            raise CheckpointError(
                f"{path}: does not hold the optimizer's state of this configuration, but {shown(place)}"
            )
    for name in {place.rpartition("/")[0] for place in moments}:
        if not all(f"{name}/{key}" in moments for key in MOMENTS):
            raise CheckpointError(f"{path}: lacks a part of the optimizer's state of {shown(name)}")


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in trained(model).items()
        for key, value in optimizer.state[parameter].items()
    }


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = trained(model)
    for address, tensor in tensors.items():
        name, key = address.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = tensor.to(parameter.device)
