"""What the trials of one process share: the models that runs start from, and tokenised data."""

import functools
from typing import Any

import torch

from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.model import GPT2
from gpt2core.pretrain_stage import first_stage, run_data, trained_first
from gpt2core.tasks import TaskData
from gpt2core.weights import load_model


@functools.lru_cache(maxsize=2)
def starting_model(model: str, stage: RunConfig | None) -> GPT2:
    """Return the model that runs start from, after its first stage if it has one. Runs share it, so do not change it."""
    return load_model(model) if stage is None else trained_first(stage)


def train_stage(values: dict[str, Any], threads: int) -> None:
    """Train a first stage into this machine's cache; raise UserError, DivergedError."""
    torch.set_num_threads(threads)
    trained_first(RunConfig.of(values))


_cached_data = functools.lru_cache(maxsize=4)(run_data)


def task_data(config: RunConfig) -> TaskData:
    """Return a run's tokenised corpus, shared by all runs with equal values of the keys that decide it.

    `TaskData.divided` later splits the dev texts into those that choose and those that judge.
    """
    keys = keys_that_decide("data")
    return _cached_data(RunConfig(**{key: value for key, value in config if key in keys}))


def start(config: RunConfig) -> GPT2:
    """Return the model that a run starts from; for a round of cross-validation, that of its first sub-run."""
    return starting_model(config.model, first_stage(config))


def inputs(config: RunConfig) -> tuple[GPT2, TaskData]:
    """Return the model that a run starts from, and its tokenised corpus."""
    return start(config), task_data(config)
