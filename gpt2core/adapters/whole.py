"""Adapters that add nothing to a model: all of it trains, some whole blocks, the task's own head alone, or nothing."""

from gpt2core.adapters.base import Adapter, Preset
from gpt2core.config import BlocksKeys, RunConfig, parse_blocks
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2


def full(model: GPT2, config: RunConfig) -> None:
    """Train every parameter."""
    model.requires_grad_(True)


def freeze(model: GPT2, config: RunConfig) -> None:
    """Train the blocks that `config.blocks` names, by default the upper half; raise ConfigError for none.

    The other blocks, the embeddings and the last LayerNorm stay.
    """
    model.requires_grad_(False)
    for number in parse_blocks(FREEZE.block_spec(config), model.config.n_layer):
        model.blocks[number].requires_grad_(True)


def last_linear(model: GPT2, config: RunConfig) -> None:
    """Linear probing: train the task's own head and nothing below it; raise ConfigError for a task that has no head."""
    if model.head is None:
        raise ConfigError(
            f"The adapter `last-linear` trains the task's own head, but the task `{config.task}` has none as it is set; "
            "choose the adapter full, freeze or lora, or a task that classifies with a head"
        )
    model.requires_grad_(False)


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


FULL = Adapter(apply=full, meaning="every parameter trains")
FREEZE = Adapter(
    apply=freeze,
    keys=BlocksKeys,
    meaning="blocks {blocks} train, as asked",
    presets={
        "plain": Preset("upper-half", "the first half is frozen, blocks {blocks} train"),
        "study": Preset("6-11", "blocks {blocks} train, as in the study, which calls it 'freeze first half'"),
    },
)
LAST_LINEAR = Adapter(
    apply=last_linear,
    meaning="the task's own head alone trains",
    resolve=lambda config: {"dropout": None},  # what lies below the head runs without
)
FROZEN = Adapter(apply=frozen, meaning="nothing trains", trains=False)
