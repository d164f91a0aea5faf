"""What an entry of ADAPTERS is: a function that chooses what trains, and the keys that it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpt2core.component import Component
from gpt2core.config import BlocksKeys, RunConfig
from gpt2core.model import GPT2

#: Change a model in place so that exactly the adapter's parameters require gradients.
Adapt = Callable[[GPT2, RunConfig], None]


class Preset(NamedTuple):
    """Blocks that an adapter means, as `parse_blocks` reads them, and what it then does; `{blocks}` stands for their numbers."""

    blocks: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Adapter(Component):
    """An entry of ADAPTERS. `meaning` says what trains.

    An adapter whose `keys` are BlocksKeys has `presets`: `plain`, the default, and `study`. `resolve` returns overrides, see
    `Component.values`.
    """

    apply: Adapt
    meaning: str = ""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    resolve: Callable[[RunConfig], Mapping[str, Any]] = lambda config: {}
    trains: bool = True  # False: all runs share the base model itself
    shares_base: Callable[[RunConfig], bool] = lambda config: (
        False
    )  # several runs can share a forward pass, see `packing`
    count: Callable[[GPT2, RunConfig], int] | None = None  # counts its parameters without `apply`, if that is faster
    peft_format: bool = False  # whether `export --format adapter` can write it

    def block_spec(self, config: RunConfig) -> str:
        """The blocks that `config` means, for `parse_blocks`."""
        preset = {"default": "plain", "study": "study"}.get(config.blocks)
        if preset is None:
            return config.blocks
        return self.presets[preset].blocks if preset in self.presets else "all"

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Blocks by their numbers or names, and what the adapter itself resolves."""
        blocks = {"blocks": self.block_spec(config)} if issubclass(self.keys, BlocksKeys) else {}
        return {**blocks, **self.resolve(config)}
