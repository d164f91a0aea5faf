"""No tuning at all: the model is judged as it is."""

from gpt2core.config import RunConfig
from gpt2core.model import GPT2


def frozen(model: GPT2, config: RunConfig) -> None:
    """Train nothing, as a search of decoding parameters wants it."""
    model.requires_grad_(False)
