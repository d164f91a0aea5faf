"""A cache of what the trials of one process share: the models that runs start from, and tokenised data."""

import functools

from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.model import GPT2
from gpt2core.pretrain_stage import first_stage, run_data, trained_first
from gpt2core.tasks import TaskData
from gpt2core.weights import load_model


@functools.lru_cache(maxsize=2)
def starting_model(model: str, stage: RunConfig | None) -> GPT2:
    """Return the model that runs start from, after its first stage if it has one; they share it, so it must not be changed."""
    return load_model(model) if stage is None else trained_first(stage)


@functools.lru_cache(maxsize=4)
def _data(config: RunConfig) -> TaskData:
    return run_data(config)


def task_data(config: RunConfig) -> TaskData:
    """Return a run's tokenised corpus, shared by runs whose keys that decide it are the same.

    It is divided later, in memory, into texts that choose and that judge.
    """
    keys = keys_that_decide("data")
    return _data(RunConfig(**{key: value for key, value in config if key in keys}))


def start(config: RunConfig) -> GPT2:
    """Return the model that a run starts from; that of a round of cross-validation is its first sub-run's."""
    return starting_model(config.model, first_stage(config))


def inputs(config: RunConfig) -> tuple[GPT2, TaskData]:
    """Return the model that a run starts from, and its data."""
    return start(config), task_data(config)
