"""Checkpoints of a run: trained weights and optimizer state as safetensors, one folder per epoch, whole or absent."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, ConfigError

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
BEST = "best"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name."""
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
    """Write the checkpoint of the last epoch in `history`, then drop older ones; `best` keeps its weights apart as well."""
    epoch = history[-1]["epoch"]
    target = folder / f"epoch-{epoch:04d}"
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in trained(model).items()}
    with whole_folder(target) as part:
        save_file(weights, part / WEIGHTS)
        save_file(_optimizer_tensors(model, optimizer), part / OPTIMIZER)
        state = {"config": config.model_dump(), "history": history}
        (part / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    if best:
        with whole_folder(folder / BEST) as part:
            save_file(weights, part / WEIGHTS)
            (part / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    for old in _epochs(folder)[:-1]:
        shutil.rmtree(old, ignore_errors=True)


class whole_folder:  # noqa: N801  # reads as a verb at its use
    """Give a new folder to fill; on success it takes `target`'s place by a rename."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for path in self.part.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            shutil.rmtree(self.target, ignore_errors=True)
            self.part.replace(self.target)
        shutil.rmtree(self.part, ignore_errors=True)


def _epochs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d+", path.name))


def resume(folder: Path, config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Load the newest checkpoint that is whole into model and optimizer; return its history, empty where there is none.

    A damaged checkpoint is passed over. Raises CheckpointError where it belongs to another configuration.
    """
    for path in reversed(_epochs(folder)):
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            weights, moments = load_file(path / WEIGHTS), load_file(path / OPTIMIZER)
        except (OSError, ValueError, SafetensorError):
            continue
        if _deciding(state["config"]) != _deciding(config.model_dump()):
            raise CheckpointError(f"{path}: belongs to another configuration; choose another folder or --name")
        _load_weights(model, weights, path)
        _load_optimizer(model, optimizer, moments)
        return list(state["history"])
    return []


def adopt(source: Path, target: Path, config: RunConfig) -> None:
    """Let a new run of `config` go on from the newest whole checkpoint of another run; where it has one of its own, from that.

    Raises CheckpointError where the other run has none. Whether its weights fit is seen when they are loaded.
    """
    if _epochs(target):
        return
    for path in reversed(_epochs(source)):
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8")) | {"config": config.model_dump()}
            for folder in (source / BEST, path):  # the epoch last: where it is, all is
                best = json.loads((folder / STATE).read_text(encoding="utf-8"))
                with whole_folder(target / folder.name) as part:
                    for file in (WEIGHTS, OPTIMIZER):
                        if (folder / file).exists():
                            shutil.copyfile(folder / file, part / file)
                    written = state if folder == path else best | {"config": config.model_dump()}
                    (part / STATE).write_text(json.dumps(written, indent=2), encoding="utf-8")
        except (OSError, ValueError):
            continue
        return
    raise CheckpointError(f"{source}: there is no whole checkpoint to go on from")


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """What may not change when a run goes on: all but how many epochs there are, unless each trains on more than the last."""
    growing = config.get("growth", 1.0) > 1
    return {key: value for key, value in json.loads(json.dumps(config)).items() if growing or key != "epochs"}


def load_best(folder: Path, model: nn.Module) -> int:
    """Load the weights of the best epoch into an adapted model; return that epoch. Raises CheckpointError."""
    state = _best_state(folder)
    try:
        weights = load_file(folder / BEST / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / BEST / WEIGHTS}: cannot be read ({error})") from None
    _load_weights(model, weights, folder)
    return int(state["history"][-1]["epoch"])


def run_config(folder: Path) -> RunConfig:
    """Return the configuration of the run whose checkpoints are in `folder`; raise CheckpointError."""
    try:
        return RunConfig.of(_best_state(folder)["config"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / BEST / STATE}: {error}") from None


def _best_state(folder: Path) -> dict[str, Any]:
    path = folder / BEST / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"{path}: there is no such file; `python -m gpt2core train` writes it") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is no JSON ({error})") from None
    match state:
        case {"config": {}, "history": [*_, {"epoch": int()}]}:
            return dict(state)
    raise CheckpointError(f"{path}: must hold `config` and a `history` of epochs")


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    parameters = trained(model)
    if {name: p.shape for name, p in parameters.items()} != {name: w.shape for name, w in weights.items()}:
        raise CheckpointError(f"{path}: does not hold the parameters that this configuration trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


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
