"""LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants, through peft; the only importer of peft."""

from collections.abc import Iterator
from typing import Any

import torch

from gpt2core.config import RunConfig, parse_blocks
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2

#: Our names of the projections that each choice of `targets` adapts.
TARGETS = {
    "qkv": ["query", "key", "value"],
    "qkv+dense": ["query", "key", "value", "dense"],
    "all": ["query", "key", "value", "dense", "mlp_in", "mlp_out"],
}
ADAPTER = "default"  # peft's name of a module's first adapter


def lora(model: GPT2, config: RunConfig) -> None:
    """Add a pair of rank `config.rank` to the target projections of `config.blocks` (default: all); only pairs train.

    The pair starts at zero effect: A is random by torch's global generator, B is zero. Scale: lora_alpha / rank.

    - `rslora`: scale lora_alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732).
    - `dora`: the magnitude of each output trains as well, and the pair changes the direction alone (Liu et al. 2024, arXiv
      2402.09353).
    - `lora_init` pissa: A and B start as the largest singular directions of the weight, which keeps the rest (Meng et al.
      2024, arXiv 2404.02948).

    `lora_plus` is of the optimizer (`gpt2core.training`). Raises ConfigError as `lora_blocks`.
    """
    from peft import LoraConfig, inject_adapter_in_model

    blocks = lora_blocks(model, config)
    model.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.lora_alpha,  # peft annotates int and computes with any number
            lora_dropout=config.lora_dropout,
            target_modules=TARGETS[config.targets],
            layers_to_transform=blocks,
            layers_pattern="blocks",
            use_rslora=config.rslora,
            use_dora=config.dora,
        ),
        model,
        adapter_name=ADAPTER,
    )
    if config.lora_init == "pissa":
        for _, layer in lora_layers(model):
            _start_at_singular_directions(layer)


def lora_blocks(model: GPT2, config: RunConfig) -> list[int]:
    """Return the blocks that LoRA adapts.

    Raises ConfigError where they are not there, or where a weight has fewer singular directions than pissa is to take.
    """
    if config.lora_init == "pissa" and config.rank > model.config.n_embd:
        raise ConfigError(
            f"The value of `rank` is {config.rank}, but must be at most {model.config.n_embd} with lora_init pissa: "
            "a weight of this model has no more singular directions"
        )
    return parse_blocks(config.block_spec, model.config.n_layer)


@torch.no_grad()
def _start_at_singular_directions(layer: Any) -> None:
    """Move the largest singular directions of a weight (out, in) into its pair: A (r, in), B (out, r).

    In float64, so that what is left is the same in float32 on every device, and a checkpoint need not hold it: in float32,
    each device mixes directions of nearly equal singular values in its own way.
    """
    down, up, base = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.get_base_layer().weight
    rank, scale = layer.r[ADAPTER], layer.scaling[ADAPTER]
    left, values, right = torch.linalg.svd(base.double(), full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    down.data.copy_(root[:, None] * right[:rank])
    up.data.copy_(left[:, :rank] * root)
    base.data = (base.double() - scale * up.double() @ down.double()).float()  # a copy: models share their base


def lora_layers(model: GPT2) -> Iterator[tuple[str, Any]]:
    """Yield name and layer of every projection that LoRA adapts, such as `blocks.0.attention.query`."""
    from peft.tuners.lora import LoraLayer

    for name, part in model.named_modules():
        if isinstance(part, LoraLayer):
            yield name, part


def merge_lora(model: GPT2) -> GPT2:
    """Fold every LoRA pair of `model` into the projection that it adapts, in place; a plain GPT2 is left."""
    for name, layer in list(lora_layers(model)):
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    return model
