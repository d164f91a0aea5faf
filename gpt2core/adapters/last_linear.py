"""Training the last linear layer alone, also known as linear probing."""

from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2


def last_linear(model: GPT2, config: RunConfig) -> None:
    """Train the task's own head and nothing below it; raise ConfigError for a task that has no head."""
    if model.head is None:
        raise ConfigError(
            f"The adapter `last-linear` trains the task's own head, but the task `{config.task}` has none as it is set; "
            "choose the adapter full, freeze or lora, or a task that classifies with a head"
        )
    model.requires_grad_(False)
