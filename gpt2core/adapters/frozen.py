"""No tuning at all: the model is judged as it is."""

from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2


def frozen(model: GPT2, config: RunConfig) -> None:
    """Train nothing, as a search of decoding parameters wants it; what the model computes of prompts may be kept.

    Raises ConfigError for a task with a head of its own, which starts at random.
    """
    if model.head is not None:
        raise ConfigError(
            f"The adapter `frozen` trains nothing, but the head of the task `{config.task}` starts at random; "
            "choose last-linear, which trains that head alone"
        )
    model.requires_grad_(False)
    model.prefixes = model.prefixes or {}
