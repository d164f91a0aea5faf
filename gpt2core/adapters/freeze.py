"""Freezing: some whole blocks train, the rest, the embeddings and the last LayerNorm stay."""

from gpt2core.config import RunConfig, parse_blocks
from gpt2core.model import GPT2


def freeze(model: GPT2, config: RunConfig) -> None:
    """Train the blocks that `config.blocks` names, by default the upper half; raise ConfigError for none."""
    model.requires_grad_(False)
    for number in parse_blocks(config.block_spec, model.config.n_layer):
        model.blocks[number].requires_grad_(True)
