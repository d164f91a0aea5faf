"""Training the last linear layer alone, also known as linear probing."""

from torch import nn

from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2, Attention


def last_linear(model: GPT2, config: RunConfig) -> None:
    """Train the task's own head and nothing below it; raise ConfigError for a task that has no head.

    The trunk runs as in evaluation: nothing in it trains, so its dropout would only add noise to the head's input.
    """
    if model.head is None:
        raise ConfigError(
            f"The adapter `last-linear` trains the task's own head, but the task `{config.task}` has none as it is set; "
            "choose the adapter full, freeze or lora, or a task that classifies with a head"
        )
    model.requires_grad_(False)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, Attention):
            part.dropout = 0.0
