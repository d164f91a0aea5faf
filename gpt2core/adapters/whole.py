"""Adapters that add no parameters: they train the whole model, whole blocks, only the task's head, or nothing."""

from gpt2core.adapters.base import Adapter, Preset
from gpt2core.config import BlocksKeys, RunConfig, parse_blocks
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2


def full(model: GPT2, config: RunConfig) -> None:
    """Train every parameter."""
    model.requires_grad_(True)


def freeze(model: GPT2, config: RunConfig) -> None:
    """Train only the blocks of `config.blocks`, by default the upper half; raise ConfigError as `parse_blocks` does."""
    model.requires_grad_(False)
    for number in parse_blocks(FREEZE.block_spec(config), model.config.n_layer):
        model.blocks[number].requires_grad_(True)


def last_linear(model: GPT2, config: RunConfig) -> None:
    """Train only the task's own head (linear probing); raise ConfigError if the task has none."""
    if model.head is None:
        raise ConfigError(
            f"The adapter `last-linear` trains the task's own head, but the task `{config.task}` has no head in this "
            "configuration; choose the adapter full, freeze or lora, or a task that classifies with a head"
        )
    model.requires_grad_(False)


def frozen(model: GPT2, config: RunConfig) -> None:
    """Train nothing, and let the model cache hidden states of prompts; raise ConfigError if the task has a head of its own."""
    if model.head is not None:
        raise ConfigError(
            f"The adapter `frozen` trains nothing, but the head of the task `{config.task}` starts at random; "
            "choose last-linear, which trains only that head"
        )
    model.requires_grad_(False)
    model.prefixes = model.prefixes or {}


FULL = Adapter(apply=full, meaning="every parameter trains")
FREEZE = Adapter(
    apply=freeze,
    keys=BlocksKeys,
    meaning="blocks {blocks} train, as configured",
    presets={
        "plain": Preset("upper-half", "the first half is frozen, blocks {blocks} train"),
        "study": Preset("6-11", "blocks {blocks} train, as in the study, which calls it 'freeze first half'"),
    },
)
LAST_LINEAR = Adapter(
    apply=last_linear,
    meaning="only the task's own head trains",
    resolve=lambda config: {"dropout": None},  # the model below the head runs without dropout
)
FROZEN = Adapter(apply=frozen, meaning="nothing trains", trains=False)
