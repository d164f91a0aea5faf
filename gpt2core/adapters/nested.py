"""Nested LoRA: pairs of which every smaller rank can be cut out after one training, as in DyLoRA (Valipour et al. 2023)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from gpt2core.adapters.base import Adapter
from gpt2core.adapters.lora import LORA, LoRALinear, lora_layers, projections
from gpt2core.config import LowRankKeys, RunConfig, parse_blocks
from gpt2core.model import GPT2
from gpt2core.projection import Projection


class NestedLinear(LoRALinear):
    """A projection with a LoRA pair whose first `width` directions are used: base(x) + alpha / width * B[:, :width] A[:width] x.

    Without a width, all directions are used; with 0, the output is that of the base. `scales` has alpha / width by width.
    """

    joins = False

    def __init__(self, base: Projection, *, scales: list[float], dropout: float) -> None:
        super().__init__(base, rank=len(scales) - 1, scale=scales[-1], dropout=dropout, dora=False)
        self.scales = scales
        self.width: int | None = None

    def adapt(self, out: Tensor, x: Tensor) -> Tensor:
        width = len(self.scales) - 1 if self.width is None else self.width
        down, up = self.lora_A.weights[0][:width], self.lora_B.weights[0][:, :width]
        inner = functional.linear(self.dropout(x), down)
        return torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), up.T, alpha=self.scales[width]).view_as(out)


def nested(model: GPT2, config: RunConfig) -> None:
    """Add a nested pair of rank `rank` to each target projection of `config.blocks` (default: all); only the pairs train.

    As in DyLoRA (arXiv 2210.07558, section 4), each optimizer step trains the first directions of a pair only, up to a width that
    is drawn uniformly, so that early directions matter more. Unlike there, each block draws its own width, and 0 is a width too,
    so that any pattern of ranks by block can be cut out (`gpt2core.cutting`). Evaluations use all directions.

    Raises ConfigError for blocks that the model lacks.
    """
    model.requires_grad_(False)
    scales = [0.0, *(config.alpha_of(width) / width for width in range(1, config.rank + 1))]
    for block in parse_blocks(NESTED.block_spec(config), model.config.n_layer):
        for name, base in projections(model, block, config):
            model.set_submodule(name, NestedLinear(base, scales=scales, dropout=config.lora_dropout))


def draw_widths(model: GPT2, config: RunConfig, number: int) -> None:
    """Let each block use a width from 0 to `config.rank` in step `number`, drawn from the run's seed and this number."""
    random = np.random.default_rng((config.seed, number))
    widths = random.integers(0, config.rank, size=model.config.n_layer, endpoint=True)
    set_widths(model, dict(enumerate(map(int, widths))))


def set_widths(model: GPT2, widths: Mapping[int, int]) -> None:
    """Let the pairs of each block use a width; those of blocks that are missing use all directions."""
    for name, layer in lora_layers(model):
        if isinstance(layer, NestedLinear):
            layer.width = widths.get(int(name.split(".")[1]))


def use_all(model: GPT2, optimizer: Optimizer, config: RunConfig, number: int, steps: int) -> None:
    """After a step, let all pairs use all directions again."""
    set_widths(model, {})


NESTED = Adapter(
    apply=nested,
    keys=LowRankKeys,
    meaning="nested LoRA on blocks {blocks}, as configured",
    presets=LORA.presets,
    before_step=draw_widths,
    after_update=use_all,
    peft_format=True,
)
