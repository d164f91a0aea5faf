"""LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2core.adapters.base import Adapter, Preset
from gpt2core.adapters.ranks import has_own_ranks, parse_ranks
from gpt2core.config import LoraKeys, RunConfig, parse_blocks
from gpt2core.dropout import Dropout
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2
from gpt2core.projection import Projection, adapt_each

#: The model's projections that each choice of `targets` adapts.
QKV = ["query", "key", "value"]
TARGETS = {"qkv": QKV, "qkv+dense": [*QKV, "dense"], "all": [*QKV, "dense", "mlp_in", "mlp_out"]}


@dataclass(frozen=True)
class Pair:
    """A LoRA update of a weight (out, in): scale * up @ down, with down (r, in), up (out, r) and DoRA's magnitude (out,)."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    def minus(self, start: "Pair") -> "Pair":
        """Return the difference as a pair of rank 2r: the update of the original weight that PiSSA has learnt."""
        return replace(self, down=torch.cat([self.down, start.down]), up=torch.cat([self.up, -start.up], dim=1))

    def applied_to(self, weight: Tensor) -> Tensor:
        """Return the adapted weight (out, in)."""
        adapted = weight + self.scale * self.up @ self.down
        return adapted if self.magnitude is None else adapted * (self.magnitude / adapted.norm(dim=1))[:, None]


class LoRALinear(nn.Module):
    """A projection with a LoRA pair: base(x) + scale * B A x, with A (r, in) and B (out, r); a seed gives the same A as in peft.

    With DoRA, each row of W + scale * B A is rescaled to the norm in `lora_magnitude` (out,), which trains; the norm before is
    treated as a constant (section 4.3 of the paper). peft itself is not used because it takes three seconds to import.
    """

    joins = True  # whether the pairs of several layers can be applied in one product

    def __init__(self, base: Projection, *, rank: int, scale: float, dropout: float, dora: bool) -> None:
        super().__init__()
        weight = base.weight
        self.base, self.scale = base, scale
        self.dropout = Dropout(dropout)
        self.lora_A, self.lora_B = Projection(base.in_features, rank, False), Projection(rank, base.out_features, False)
        self.lora_A.reset_parameters()  # peft draws A twice
        nn.init.zeros_(self.lora_B.weight)
        self.lora_magnitude = nn.Parameter(weight.detach().norm(dim=1)) if dora else None
        self.to(weight.device, weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.adapt(cast(Tensor, self.base(x)), x)

    def adapt(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the adapted output (..., out) for the input x (..., in), given the output `out` of the base."""
        dropped = self.dropout(x)
        inner = self.reduced(dropped)
        if self.lora_magnitude is None:
            rows, pairs = out.flatten(0, -2), inner.flatten(0, -2)
            return torch.addmm(rows, pairs, self.lora_B.weights[0].T, alpha=self.scale).view_as(out)
        length = (self.base.weight + self.scale * self.lora_B.weight @ self.lora_A.weight).norm(dim=1).detach()
        ratio = self.lora_magnitude / length
        plain = out - self.base.bias if dropped is x else functional.linear(dropped, self.base.weight)
        return cast(Tensor, out + (ratio - 1) * plain + ratio * self.scale * self.lora_B(inner)).to(out.dtype)

    def reduced(self, x: Tensor) -> Tensor:
        """Return the input (..., in) in the pair's inner dimensions (..., r)."""
        return cast(Tensor, self.lora_A(x))

    @property
    def joined(self) -> tuple[Tensor, Tensor | None] | None:
        """The joined weights of the base and those beside it, if a pass reads them."""
        return self.base.joined

    @property
    def parts(self) -> list[Projection]:
        """The base, A and B."""
        return [self.base, self.lora_A, self.lora_B]

    def adapt_joined(self, layers: Sequence["LoRALinear"], out: Tensor, x: Tensor) -> Sequence[Tensor] | Tensor:
        """Return the outputs (layers, ..., out) for one input, given the joined output of the bases (..., layers * out)."""
        down, up = self.lora_A.joined, self.lora_B.joined
        count = len(layers)
        if not self.joins or self.lora_magnitude is not None or down is None or up is None:
            return adapt_each(layers, out, x)
        dropped = self.dropout.copies(x, count).flatten(1, -2)
        a, b = (joined.unflatten(0, (count, -1)) for joined in (down[0], up[0] * self.scale))
        bases = out.flatten(0, -2).unflatten(-1, (count, -1)).transpose(0, 1)
        adapted: Tensor = torch.baddbmm(bases, torch.bmm(dropped, a.mT), b.mT).unflatten(1, x.shape[:-1])
        return adapted

    def pair(self) -> Pair:
        """Return the current pair, detached."""
        magnitude = None if self.lora_magnitude is None else self.lora_magnitude.detach()
        return Pair(self.lora_A.weight.detach(), self.lora_B.weight.detach(), self.scale, magnitude)


def lora(model: GPT2, config: RunConfig) -> None:
    """Add a pair to the target projections of `config.blocks` (default: all); only the pairs train.

    A pair has the rank that `config.ranks` gives its block, by default `config.rank`. It has no effect at first: A is drawn from
    torch's global generator, B is zero. The scale is alpha / rank.

    - `rslora`: the scale is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732).
    - `dora`: the magnitude of each output trains too; the pair changes only the direction (Liu et al. 2024, arXiv 2402.09353).
    - `lora_init` pissa: A and B start as the largest singular directions of the weight, and the frozen base keeps the rest
      (Meng et al. 2024, arXiv 2404.02948).
    - `lora_plus`: B has `lora_plus` times the learning rate of A (Hayou et al. 2024, arXiv 2402.12354).

    Raises ConfigError for blocks that the model lacks, for ranks that do not fit the blocks or are too large for pissa.
    """
    targets = _targets(model, config)
    model.requires_grad_(False)
    for name, base, rank in targets:
        scale = config.alpha_of(rank) / (math.sqrt(rank) if config.rslora else rank)
        adapted = LoRALinear(base, rank=rank, scale=scale, dropout=config.lora_dropout, dora=config.dora)
        model.set_submodule(name, adapted)
    if config.lora_init == "pissa":
        for _, layer in lora_layers(model):
            _start_at_singular_directions(layer)


def _targets(model: GPT2, config: RunConfig) -> list[tuple[str, Projection, int]]:
    """Return the name, the layer and the rank of each projection to adapt; raise ConfigError."""
    blocks = parse_blocks(LORA.block_spec(config), model.config.n_layer)
    ranks = {block: rank for block, rank in parse_ranks(config.ranks, config.rank, blocks).items() if rank}
    if config.lora_init == "pissa" and max(ranks.values()) > model.config.n_embd:
        key = "rank" if config.ranks == "uniform" else "ranks"
        raise ConfigError(
            f"The value of `{key}` is {getattr(config, key)}, but must be at most {model.config.n_embd} with lora_init pissa, "
            "the number of singular directions of this model's weights"
        )
    return [(name, part, rank) for block, rank in ranks.items() for name, part in projections(model, block, config)]


def projections(model: GPT2, block: int, config: RunConfig) -> Iterator[tuple[str, Projection]]:
    """Yield the name and the layer of each projection of a block that `config.targets` adapts."""
    for name, part in model.blocks[block].named_modules():
        if isinstance(part, Projection) and name.split(".")[-1] in TARGETS[config.targets]:
            yield f"blocks.{block}.{name}", part


@torch.no_grad()
def _start_at_singular_directions(layer: LoRALinear) -> None:
    """Move the largest singular directions of a weight (out, in) into its pair: A (r, in), B (out, r).

    Computed in float64, so that every device gets the same float32 base and checkpoints need not store it: in float32, each
    device mixes directions of nearly equal singular values differently.
    """
    down, up, base, scale = layer.lora_A.weight, layer.lora_B.weight, layer.base.weight, layer.scale
    rank = len(down)
    wide = (base.cpu() if base.device.type == "mps" else base).double()  # Apple's GPUs have no float64
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    down.copy_(root[:, None] * right[:rank])
    up.copy_(left[:, :rank] * root)
    pair = scale * up.to(wide) @ down.to(wide)
    base.data = (wide - pair).to(base)  # not in place: models share their base


def lora_layers(model: GPT2) -> Iterator[tuple[str, LoRALinear]]:
    """Yield the name, such as `blocks.0.attention.query`, and the layer of every projection with LoRA."""
    for name, part in model.named_modules():
        if isinstance(part, LoRALinear):
            yield name, part


@torch.no_grad()
def merge_lora(model: GPT2) -> GPT2:
    """Merge every LoRA pair into its projection, in place; return the model, now a plain GPT2."""
    for name, layer in list(lora_layers(model)):
        layer.base.weight.data = layer.pair().applied_to(layer.base.weight)  # not in place: models share their base
        model.set_submodule(name, layer.base)
    return model


def count_lora(model: GPT2, config: RunConfig) -> int:
    """Return the number of LoRA parameters: rank * (inputs + outputs) per projection; DoRA adds one magnitude per output."""
    return sum(
        rank * (base.in_features + base.out_features) + (base.out_features if config.dora else 0)
        for _, base, rank in _targets(model, config)
    )


def _resolved(config: RunConfig) -> dict[str, float | None]:
    """Return alpha as a number if all blocks have the same; `rank` is unread if `ranks` has numbers."""
    if config.ranks == "uniform":
        return {"alpha": config.lora_alpha}
    return {"rank": None} if has_own_ranks(config.ranks) else {}


LORA = Adapter(
    apply=lora,
    keys=LoraKeys,
    meaning="LoRA on blocks {blocks}, as configured",
    presets={
        "plain": Preset("all", "LoRA on all blocks, {blocks}"),
        "study": Preset("0-11", "LoRA on blocks {blocks}, as in the study"),
    },
    resolve=_resolved,
    shares_base=lambda config: config.lora_init == "default",  # PiSSA changes the base weights
    lr_factor=lambda name, config: config.lora_plus if ".lora_B." in name else 1.0,
    count=count_lora,
    peft_format=True,
)
