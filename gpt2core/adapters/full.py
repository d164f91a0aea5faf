"""Full fine-tuning."""

from gpt2core.config import RunConfig
from gpt2core.model import GPT2


def full(model: GPT2, config: RunConfig) -> None:
    """Train every parameter."""
    model.requires_grad_(True)
