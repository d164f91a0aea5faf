"""The model that a run starts from: a published model, or one that a first stage trained on another task.

The first stage (`RunConfig.pretrain`) is a run like any other. It is trained once and cached under a hash of everything that
decides it, so all trials that start from it share it.
"""

import functools
import hashlib
import json
from collections.abc import Callable

import torch

from gpt2core.builders import build_model, device
from gpt2core.checkpoints.best import load_best
from gpt2core.component import declared_keys
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.files import cache_folder, locked, mark_used, trim
from gpt2core.identity import identity
from gpt2core.model import GPT2
from gpt2core.precision import narrow_type
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import load_data
from gpt2core.tokenizer import Tokenizer
from gpt2core.training import train
from gpt2core.weights import load_model, model_folder, origin, shape_of

CACHE_SIZE = 50 * 10**9  # bytes of cached first stages, see `files.trim`; one of gpt2-large has 12e9


def first_stage(config: RunConfig) -> RunConfig | None:
    """Return the first stage of `config`, full fine-tuning on the task `config.pretrain`; None if it has no first stage.

    Each sub-run of cross-validation has its own first stage; a round has that of its first sub-run, whose weights are kept.
    """
    if config.first_task is None:
        return None
    config, *_ = config.sub_runs
    keys = keys_that_decide("stage").keys() | declared_keys("attention").keys()
    if config.first_task == config.task and (config.dev_part != "all" or config.folds > 1):
        keys |= keys_that_decide("division").keys()  # so that the first stage does not see texts that judge
    shared = {key: value for key, value in config if key in keys}
    stage = RunConfig(
        **shared,
        task=config.first_task,
        lr=config.pretrain_lr,
        batch_size=config.pretrain_batch_size,
        epochs=config.pretrain_epochs,
        train_examples=config.pretrain_examples,
        seed=config.pretrain_seed,
        adapter="full",
        decode_seeds=0,  # the loss chooses its epoch, so it need not generate texts
    )
    return RunConfig(**identity(stage))  # so that runs share it even if they differ in keys that it does not read


def starting_model(config: RunConfig) -> GPT2:
    """Return the model that `config` starts from, trained by its first stage if it has one; raise UserError, DivergedError."""
    return _load_start(config.model, first_stage(config))


def cached_starting_model() -> Callable[[RunConfig], GPT2]:
    """Return `starting_model` with a cache of one model, for sub-runs that start from the same model."""
    load = functools.lru_cache(maxsize=1)(_load_start)
    return lambda config: load(config.model, first_stage(config))


def _load_start(model: str, stage: RunConfig | None) -> GPT2:
    return load_model(model) if stage is None else trained_first(stage)


def trained_first(stage: RunConfig) -> GPT2:
    """Return the model of the best epoch of a first stage, by its own objective; raise UserError, DivergedError."""
    base, data = load_model(stage.model), run_data(stage)
    # All keys, which are canonical: a stage from a version with other keys cannot be resumed.
    precision = str(narrow_type(stage, device()) or torch.float32).removeprefix("torch.")
    deciding = [stage.model_dump(), precision, data.corpus.digest, data.tokenizer.digest, origin(base)]
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    folder = cache_folder("stages") / digest
    with locked(folder / ".lock"):
        mark_used(folder)
        trim(folder.parent, CACHE_SIZE)
        for _ in train(stage, base, data, folder=folder):
            pass  # a cached stage only reports its history
        model = build_model(stage, base, torch.device("cpu"))
        load_best(folder, model, base)
    model.head, model.origin = None, digest
    return model.requires_grad_(False).train(False)


def run_data(config: RunConfig) -> TaskData:
    """Return the corpus of a run's task, tokenised for its model; raise UserError."""
    folder = model_folder(config.model)
    data = load_data(TASKS[config.task], config, Tokenizer.load(folder), shape_of(config.model).n_positions)
    return data.with_dev(config.dev_examples)
