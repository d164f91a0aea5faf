"""What is expensive to start, kept between the trials of one process: the model that runs start from and tokenised data."""

import functools

from gpt2core.config import RunConfig
from gpt2core.model import GPT2
from gpt2core.stages import first_stage, run_data, trained_first
from gpt2core.tasks import TaskData
from gpt2core.weights import load_model


@functools.lru_cache(maxsize=2)
def starting_model(model: str, stage: RunConfig | None) -> GPT2:
    """Return an untouched model, after a first stage if there is one; runs share it, so nothing may change it."""
    return load_model(model) if stage is None else trained_first(stage)


@functools.lru_cache(maxsize=4)
def task_data(task: str, data_dir: str | None, model: str, dev_examples: int | None) -> TaskData:
    """Return a task's corpus, tokenised for a model."""
    return run_data(RunConfig(task=task, data_dir=data_dir, model=model, dev_examples=dev_examples))


def inputs(config: RunConfig) -> tuple[GPT2, TaskData]:
    """Return the model that a run starts from, and its data."""
    base = starting_model(config.model, first_stage(config))
    return base, task_data(config.task, config.data_dir, config.model, config.dev_examples)
