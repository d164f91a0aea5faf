"""What is expensive to start, kept between the trials of one process: base weights and tokenised data."""

import functools

from gpt2core.config import RunConfig
from gpt2core.lookup import lookup
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import load_data
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, model_folder


@functools.lru_cache(maxsize=2)
def base_model(name: str) -> GPT2:
    """Return the untouched base model of that name; runs share it, so nothing may change it."""
    return load_model(name)


@functools.lru_cache(maxsize=4)
def task_data(task: str, data_dir: str | None, model: str) -> TaskData:
    """Return a task's corpus, tokenised for a model."""
    tokenizer = Tokenizer.load(model_folder(model))
    return load_data(lookup(TASKS, task, "task"), data_dir, tokenizer, base_model(model).config.n_positions)


def inputs(config: RunConfig) -> tuple[GPT2, TaskData]:
    """Return the base model and the data of a run."""
    return base_model(config.model), task_data(config.task, config.data_dir, config.model)
