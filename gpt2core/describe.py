"""Parameter counts and memory of a run, computed without weights: under the study's Table 6 preset and under the plain one."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch

from gpt2core.adapters import ADAPTERS, adapt
from gpt2core.adapters.base import Preset
from gpt2core.adapters.lora import TARGETS
from gpt2core.adapters.ranks import parse_ranks, rank_text
from gpt2core.attention import ATTENTION, schedule
from gpt2core.attention.pattern import offsets, pairs
from gpt2core.builders import add_head, build_model
from gpt2core.component import nearest
from gpt2core.config import BlocksKeys, LowRankKeys, ModelConfig, RunConfig, parse_blocks
from gpt2core.data.batches import Batch
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.memory import META, predicted_gpu_memory_gb
from gpt2core.model import GPT2, trainable_size, without_weights
from gpt2core.tasks import TASKS
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import shape_of

PRESETS = ("plain", "study")
STUDY_BLOCKS = 12  # the study's presets name blocks 0 to 11


def describe(config: RunConfig, preset: str, length: int | None = None) -> dict[str, Any]:
    """Return the total and trainable parameters of `config` under both presets, and the cost of attention.

    The counts include the task's own head, (classes, channels). Attention is that of a text of `length` tokens (default: the
    model's `n_positions`). Explicit `config.blocks` win over the preset. Needs no weights, but looks up an unknown model on the
    hub. Raises ConfigError, UnknownNameError, WeightsError, HubError.
    """
    if parts := TASKS[config.task].parts(config):
        raise ConfigError(
            f"The value of `task` is {config.task!r}, but must be a single task, such as {next(iter(parts))}"
        )
    adapter = ADAPTERS[config.adapter]
    if preset not in PRESETS:
        raise UnknownNameError(f"Unknown preset `{preset}`: {nearest(preset, PRESETS)}")
    has_lora = issubclass(adapter.keys, LowRankKeys)
    shape = shape_of(config.model)
    model = _shapes(config)
    total = sum(p.numel() for p in model.parameters())
    pooler = shape.n_embd * shape.n_embd + shape.n_embd
    chosen = _count(config, preset, shape.n_layer)
    has_both = "study" in adapter.presets and config.blocks == "default" and shape.n_layer >= STUDY_BLOCKS
    other = _count(config, "plain" if preset == "study" else "study", shape.n_layer) if has_both else None
    return {
        "model": config.model,
        "task": config.task,
        "head": None if model.head is None else list(model.head.weight.shape),
        "adapter": config.adapter,
        "preset": preset,
        "rank": config.rank if has_lora else None,
        "ranks": rank_text(config) if has_lora else None,
        "ranks_by_block": _ranks_by_block(config, chosen["blocks"], shape.n_layer) if has_lora else None,
        "targets": TARGETS[config.targets] if has_lora else None,
        "variants": _lora_variants(config) if has_lora else None,
        "total_parameters": total,
        "total_parameters_with_pooler": total + pooler,
        "pooler": f"the study's code counts a pooler of {pooler:,} that it never uses; this project has none",
        "trainable_parameters": chosen["trainable"],
        "chosen": chosen,
        "beside": other,
        "attention": _attention(config, shape, shape.n_positions if length is None else length),
    }


def with_memory(described: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return the result of `describe` with the GPU memory of each preset's steps, which takes a second for gpt2-large.

    A step has `config.batch_size` texts, as long as those of which attention is described.
    """
    length = described["attention"]["length"]
    rows = {
        key: described[key] and described[key] | {"predicted_gpu_memory_gb": _memory_gb(config, described[key], length)}
        for key in ("chosen", "beside")
    }
    precision = config.precision if config.precision != "auto" else "bfloat16"
    meaning = (
        f"predicted, not measured: the peak of a step of {config.batch_size} texts of {length:,} tokens in {precision}"
    )
    return described | rows | {"gpu_memory": meaning}


def _memory_gb(config: RunConfig, described: dict[str, Any], length: int) -> float:
    config = config.but(
        blocks=described["blocks"] or "default", lora_init="default"
    )  # PiSSA needs weights, but no more memory
    base = without_weights(shape_of(config.model))
    model = build_model(config, base, META)
    rows = math.ceil(config.batch_size / config.accumulation) * TASKS[config.task].passes(config)
    numbers = torch.full((rows,), length)
    tokens = torch.zeros(len(numbers), length, dtype=torch.long)
    predicted = torch.arange(tokens.numel()).view_as(tokens)[:, :-1].flatten()
    batch = Batch(tokens, lengths=numbers, labels=0 * numbers, given=0 * numbers, predicted=predicted)
    tokenizer, batches = cast(Tokenizer, _AnyTokenizer()), [batch] * min(2, config.accumulation)
    return round(predicted_gpu_memory_gb(model, base, TASKS[config.task], tokenizer, config, batches), 2)


class _AnyTokenizer:
    """Stands for the model's tokenizer: memory does not depend on which tokens words have."""

    eos = 0

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        return [[self.eos] for _ in texts]


def _attention(config: RunConfig, shape: ModelConfig, length: int) -> dict[str, Any]:
    """Return the (query, key) pairs that a head attends to in each block, and the FLOPs, also for dense attention."""
    if not 1 <= length <= shape.n_positions:
        rule = f"1 to {shape.n_positions:,}, the context of {config.model}"
        raise ConfigError(f"The value of `length` is {length}, but must be {rule}")
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
        "meaning": "pairs (query, key) of one head, averaged over blocks; FLOPs of the scores and weighted sums of all heads and "
        "blocks in one forward pass of one text, with 2 for a multiplication and its addition",
    }


def _shapes(config: RunConfig) -> GPT2:
    """Return the model of `config` without weights, with the head of its task; raise as `attention.schedule`."""
    model = without_weights(shape_of(config.model), attention=config.attention_config)
    add_head(model, config)
    return model


def _ranks_by_block(config: RunConfig, blocks: str | None, n_layer: int) -> list[int]:
    """Return the rank of each block, 0 for one that is not adapted."""
    adapted = parse_blocks(blocks or "all", n_layer)
    ranks = parse_ranks(config.ranks, config.rank, adapted)
    return [ranks.get(block, 0) for block in range(n_layer)]


def _lora_variants(config: RunConfig) -> list[str]:
    """Return the settings by which the LoRA of `config` differs from the original one."""
    switched = [key for key in ("rslora", "dora") if getattr(config, key)]
    start = [config.lora_init] if config.lora_init != "default" else []
    return switched + start + ([f"lora_plus {config.lora_plus:g}"] if config.lora_plus > 1 else [])


def _count(config: RunConfig, preset: str, n_layer: int) -> dict[str, Any]:
    """Return the trainable parameters under one preset."""
    adapter, spec, meaning = ADAPTERS[config.adapter], config.blocks, ADAPTERS[config.adapter].meaning
    if spec == "default":
        spec, meaning = adapter.presets.get(preset, Preset("all", meaning))
        if preset == "study" and preset in adapter.presets and n_layer < STUDY_BLOCKS:
            raise ConfigError(
                f"The preset `study` means blocks {spec}, but `{config.model}` has only blocks 0-{n_layer - 1}; "
                "give --blocks, or --preset plain"
            )
    trainable = count_trainable(config.but(blocks=spec))
    if issubclass(adapter.keys, BlocksKeys):
        blocks = _ranges(parse_blocks(spec, n_layer))
    else:
        model = adapt(_shapes(config), config)
        blocks = _ranges([n for n, b in enumerate(model.blocks) if any(p.requires_grad for p in b.parameters())])
    return {
        "preset": preset,
        "meaning": meaning.format(blocks=blocks) or f"the parameters that `{config.adapter}` chooses",
        "blocks": blocks,
        "trainable": trainable,
    }


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers in the form that `parse_blocks` reads: 0, 1, 2, 5 is `0-2,5`."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def count_trainable(config: RunConfig) -> int:
    """Return the number of trainable parameters, including the task's own head; raise ConfigError."""
    return _count_by(ADAPTERS[config.adapter].count, config)


def count_kept(config: RunConfig) -> int:
    """Return the number of parameters that the trained adapter keeps, including the task's own head; raise ConfigError."""
    adapter = ADAPTERS[config.adapter]
    return _count_by(adapter.keeps or adapter.count, config)


def _count_by(count: Callable[[GPT2, RunConfig], int] | None, config: RunConfig) -> int:
    if TASKS[config.task].parts(config):  # whose models share parameters
        plain = config.but(lora_init="default")  # PiSSA needs weights, but trains as many parameters
        return trainable_size(build_model(plain, without_weights(shape_of(config.model)), META))
    model = _shapes(config)
    if count is not None:
        return count(model, config) + (0 if model.head is None else model.head.weight.numel())
    return trainable_size(adapt(model, config))
