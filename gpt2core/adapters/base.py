"""The shape of an entry of ADAPTERS: a function that chooses which parameters train, and the keys that it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from gpt2core.component import Component, first_clause
from gpt2core.config import BlocksKeys, RunConfig
from gpt2core.model import GPT2

#: Changes a model in place so that exactly the adapter's parameters require gradients. The task's head is left to `adapt`.
Adapt = Callable[[GPT2, RunConfig], None]

#: Changes a model after an update, while its gradients are there: model, optimizer, configuration, number of the step from 0,
#: and number of steps in the first epoch. Whatever it decides must follow from these and the optimizer's state.
AfterUpdate = Callable[[GPT2, Optimizer, RunConfig, int, int], None]


class Preset(NamedTuple):
    """A spec of blocks for `parse_blocks`, and what trains with it; `{blocks}` in `meaning` stands for the block numbers."""

    blocks: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Adapter(Component):
    """An entry of ADAPTERS."""

    apply: Adapt
    meaning: str = ""  # what trains, in a few words
    #: For adapters whose keys include BlocksKeys: `plain` is used for `blocks="default"`, `study` for "study".
    presets: Mapping[str, Preset] = field(default_factory=dict)
    resolve: Callable[[RunConfig], Mapping[str, Any]] = lambda config: {}  # overrides, as in `Component.values`
    trains: bool = True  # False if nothing trains, so that all runs share the base model itself
    shares_base: Callable[[RunConfig], bool] = lambda config: False  # whether runs can share a forward pass (`packing`)
    lr_factor: Callable[[str, RunConfig], float] = lambda name, config: 1.0  # of the learning rate of a parameter
    count: Callable[[GPT2, RunConfig], int] | None = None  # number of parameters, if known without calling `apply`
    keeps: Callable[[GPT2, RunConfig], int] | None = None  # number of parameters after training, if some are pruned
    peft_format: bool = False  # whether `export --format adapter` can write it
    before_step: Callable[[GPT2, RunConfig, int], None] | None = None  # prepares the model for a step, counted from 0
    penalty: Callable[[GPT2, RunConfig], Tensor] | None = None  # is added to the mean loss of each step
    after_update: AfterUpdate | None = None
    state: tuple[str, ...] = ()  # what `after_update` keeps in the optimizer's state of a parameter, in its shape

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return first_clause(self.apply)

    def block_spec(self, config: RunConfig) -> str:
        """Return the blocks of `config` as a spec for `parse_blocks`, presets resolved."""
        preset = {"default": "plain", "study": "study"}.get(config.blocks)
        if preset is None:
            return config.blocks
        return self.presets[preset].blocks if preset in self.presets else "all"

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return the overrides of `resolve`, and the resolved blocks if the adapter reads them."""
        blocks = {"blocks": self.block_spec(config)} if issubclass(self.keys, BlocksKeys) else {}
        return {**blocks, **self.resolve(config)}
