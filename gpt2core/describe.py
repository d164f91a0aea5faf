"""What an adapter trains, counted on a model without weights, with the study's Table 6 and the plain meaning side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from gpt2core.adapters import ADAPTERS, adapt
from gpt2core.adapters.base import Preset
from gpt2core.adapters.lora import TARGETS, lora_blocks
from gpt2core.attention import ATTENTION, schedule
from gpt2core.attention.pattern import offsets, pairs
from gpt2core.builders import add_head
from gpt2core.component import nearest
from gpt2core.config import BlocksKeys, LoraKeys, ModelConfig, RunConfig, parse_blocks
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.estimates import FORMULA, predicted_gpu_memory_gb
from gpt2core.model import GPT2, without_weights
from gpt2core.weights import shape_of

PRESETS = ("plain", "study")


@dataclass(frozen=True, kw_only=True)
class Count:
    """Parameters that train under one reading, and the GPU memory that the study's formula predicts for it."""

    preset: str
    meaning: str
    blocks: str
    trainable: int
    predicted_gpu_memory_gb: float


def describe(config: RunConfig, preset: str, length: int | None = None) -> dict[str, Any]:
    """Return total and trainable parameters of `config`, the same under the other reading beside it, and attention's cost.

    A head that the task has of its own, (classes, channels), is in both. Attention is that of a text of `length` tokens, or
    of all the model's positions.
    Explicit `config.blocks` win over the preset. Needs no weights; a model that is neither named nor a local folder is
    looked up on the hub. Raises ConfigError, UnknownNameError, WeightsError, HubError.
    """
    adapter = ADAPTERS[config.adapter]
    if preset not in PRESETS:
        raise UnknownNameError(f"Unknown preset `{preset}`: {nearest(preset, PRESETS)}")
    has_lora = issubclass(adapter.keys, LoraKeys)
    shape = shape_of(config.model)
    model = _shapes(config)
    total = sum(p.numel() for p in model.parameters())
    pooler = shape.n_embd * shape.n_embd + shape.n_embd
    chosen = _count(config, preset, total, shape.n_layer)
    other = "plain" if preset == "study" else "study"
    beside = _count(config, other, total, shape.n_layer) if _has_readings(config, shape.n_layer) else None
    return {
        "model": config.model,
        "task": config.task,
        "head": None if model.head is None else list(model.head.weight.shape),
        "adapter": config.adapter,
        "preset": preset,
        "rank": config.rank if has_lora else None,
        "targets": TARGETS[config.targets] if has_lora else None,
        "variants": _variants(config) if has_lora else None,
        "total_parameters": total,
        "total_parameters_with_pooler": total + pooler,
        "pooler": f"the study's code counts a pooler of {pooler:,} that it never uses; this project has none",
        "trainable_parameters": chosen.trainable,
        "chosen": asdict(chosen),
        "beside": asdict(beside) if beside else None,
        "attention": _attention(config, shape, shape.n_positions if length is None else length),
        "gpu_memory": f"predicted, not measured: {FORMULA}",
    }


def _attention(config: RunConfig, shape: ModelConfig, length: int) -> dict[str, Any]:
    """Pairs of tokens that a head attends in each block, and the FLOPs of it beside those of dense attention."""
    if length < 1:
        raise ConfigError(f"The value of `length` is {length}, but must be >= 1")
    names = schedule(config.attention_config, shape.n_layer)
    dense = pairs(length, range(length))
    sparse = pairs(length, offsets(length, config.attention_window, config.attention_restart))
    attended = [sparse if ATTENTION[name].sparse else dense for name in names]
    return {
        "length": length,
        "schedule": names,
        "attended_pairs_by_block": attended,
        "attended_pairs": round(sum(attended) / len(attended)),
        "dense_pairs": dense,
        "share": sum(attended) / (dense * len(attended)),
        "flops": 4 * shape.n_embd * sum(attended),
        "dense_flops": 4 * shape.n_embd * dense * len(attended),
        "meaning": "pairs (query, key) of one head, mean of the blocks; FLOPs of the scores and sums of all heads and blocks, "
        "forward, one text, 2 for a product and its addition",
    }


def _shapes(config: RunConfig) -> GPT2:
    """The model of `config` without weights, with the head of its task; raise as `attention.schedule`."""
    model = without_weights(shape_of(config.model), attention=config.attention_config)
    add_head(model, config)
    return model


def _variants(config: RunConfig) -> list[str]:
    """Words for what makes `config`'s LoRA another than the first."""
    switched = [key for key in ("rslora", "dora") if getattr(config, key)]
    start = [config.lora_init] if config.lora_init != "default" else []
    return switched + start + ([f"lora_plus {config.lora_plus:g}"] if config.lora_plus > 1 else [])


def _has_readings(config: RunConfig, n_layer: int) -> bool:
    """Whether the study's blocks exist in this model and nothing was said about blocks."""
    return "study" in ADAPTERS[config.adapter].presets and config.blocks == "default" and n_layer >= 12


def _count(config: RunConfig, preset: str, total: int, n_layer: int) -> Count:
    adapter, spec, meaning = ADAPTERS[config.adapter], config.blocks, ADAPTERS[config.adapter].meaning
    if spec == "default":
        spec, meaning = adapter.presets.get(preset, Preset("all", meaning))
        if preset == "study" and preset in adapter.presets and n_layer < 12:
            raise ConfigError(
                f"The preset `study` means blocks {spec}, but `{config.model}` has blocks 0-{n_layer - 1} only; "
                "give --blocks, or --preset plain"
            )
    trainable = count_trainable(config.but(blocks=spec))
    if issubclass(adapter.keys, BlocksKeys):
        blocks = _ranges(parse_blocks(spec, n_layer))
    else:
        blocks = _ranges(range(n_layer if config.adapter == "full" else 0))
    return Count(
        preset=preset,
        meaning=meaning.format(blocks=blocks) or f"what `{config.adapter}` chooses",
        blocks=blocks,
        trainable=trainable,
        predicted_gpu_memory_gb=round(predicted_gpu_memory_gb(total, trainable), 2),
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers as `parse_blocks` reads them: 0, 1, 2, 5 is `0-2,5`."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def count_trainable(config: RunConfig) -> int:
    """Count the parameters that train under `config`'s adapter, the task's own head among them, on a model without weights.

    Raises ConfigError where the adapter cannot be applied.
    """
    model = _shapes(config)
    if config.adapter == "lora":
        return count_lora(model, config) + (0 if model.head is None else model.head.weight.numel())
    adapt(model, config)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_lora(model: GPT2, config: RunConfig) -> int:
    """Count what LoRA adds: rank * (inputs + outputs) for each projection that it adapts (Hu et al. 2021, section 4.1).

    DoRA adds a magnitude for each output. By arithmetic, for peft takes seconds to import; a test compares the two.
    """
    return sum(
        config.rank * (part.in_features + part.out_features) + (part.out_features if config.dora else 0)
        for number in lora_blocks(model, config)
        for name, part in model.blocks[number].named_modules()
        if isinstance(part, nn.Linear) and name.rsplit(".", 1)[-1] in TARGETS[config.targets]
    )
