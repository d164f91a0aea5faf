"""What an adapter trains, counted on a model without weights, with the study's Table 6 and the plain meaning side by side."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from gpt2core.config import RunConfig
from gpt2core.model import GPT2
from gpt2core.weights import shape_of

#: Blocks of each adapter: to the letter of the study, and what its words plainly mean.
PRESETS: dict[str, dict[str, str]] = {
    "study": {"lora": "0-11", "freeze": "6-11"},
    "plain": {"lora": "all", "freeze": "upper-half"},
}
MEANINGS = {
    ("lora", "study"): "LoRA on blocks 0-11, as in the study",
    ("lora", "plain"): "LoRA on all blocks",
    ("freeze", "study"): "blocks 6-11 train: the study's slip for 'first half frozen'",
    ("freeze", "plain"): "the first half is frozen, the upper half trains",
}


@dataclass(frozen=True, kw_only=True)
class Count:
    """Parameters that train under one reading, and the GPU memory that the study's formula predicts for it."""

    preset: str
    meaning: str
    blocks: str
    trainable: int
    predicted_gpu_memory_gb: float


def describe(config: RunConfig, preset: str) -> dict[str, Any]:
    """Return total and trainable parameters of `config`, the same under the other reading beside it.

    Explicit `config.blocks` win over the preset. Needs no weights; a model that is neither named nor a local folder is
    looked up on the hub. Raises ConfigError, WeightsError, HubError.
    """
    shape = shape_of(config.model)
    with torch.device("meta"):
        model = GPT2(shape)
    total = sum(p.numel() for p in model.parameters())
    pooler = shape.n_embd * shape.n_embd + shape.n_embd
    chosen = _count(config, preset, total)
    other = "plain" if preset == "study" else "study"
    beside = _count(config, other, total) if _has_readings(config, shape.n_layer) else None
    return {
        "model": config.model,
        "adapter": config.adapter,
        "preset": preset,
        "rank": config.rank if config.adapter == "lora" else None,
        "total_parameters": total,
        "total_parameters_with_pooler": total + pooler,
        "pooler": "the study's code counts a pooler that it never uses; this project has none",
        "trainable_parameters": chosen.trainable,
        "chosen": asdict(chosen),
        "beside": asdict(beside) if beside else None,
        "gpu_memory": "predicted, not measured: 4 * total + 12 * trainable bytes + 0.25 GB",
    }


def _has_readings(config: RunConfig, n_layer: int) -> bool:
    """Whether the study's blocks exist in this model and nothing was said about blocks."""
    return config.adapter in PRESETS["study"] and config.blocks == "default" and n_layer >= 12


def _count(config: RunConfig, preset: str, total: int) -> Count:
    blocks = config.blocks
    if blocks == "default" and config.adapter in PRESETS[preset]:
        blocks = PRESETS[preset][config.adapter]
    trainable = count_trainable(config.but(blocks=blocks))
    readable = blocks if config.adapter in PRESETS[preset] else "all"
    meaning = MEANINGS.get((config.adapter, preset), "every parameter trains")
    return Count(
        preset=preset,
        meaning=meaning if config.blocks == "default" else f"blocks {config.blocks}",
        blocks=readable,
        trainable=trainable,
        predicted_gpu_memory_gb=round((4 * total + 12 * trainable) / 1e9 + 0.25, 2),
    )


def count_trainable(config: RunConfig) -> int:
    """Apply the adapter of `config` to a model on the meta device and count the parameters that train."""
    from gpt2core.adapters import adapt

    with torch.device("meta"):
        model = adapt(GPT2(shape_of(config.model)), config)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
