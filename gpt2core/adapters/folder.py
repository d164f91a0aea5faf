"""LoRA adapters in peft's format for transformers' GPT-2: adapter_config.json and adapter_model.safetensors in a folder.

Query, key and value are separate projections here, but one in transformers, c_attn. Three pairs of rank r become one of rank 3r
with A stacked, B block-diagonal and DoRA's magnitudes concatenated, so that the product of each pair stays the same.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt2core.adapters.lora import Pair, lora_layers
from gpt2core.adapters.peft_config import NAME, PeftConfig, read_peft_config
from gpt2core.errors import WeightsError
from gpt2core.files import atomic_path
from gpt2core.foreign import read_tensors
from gpt2core.model import GPT2
from gpt2core.weights import THEIR_HEAD, their_name

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
T = TypeVar("T")
_QUERY, _KEY, _VALUE = "attention.query", "attention.key", "attention.value"


@torch.no_grad()
def pairs(model: GPT2) -> dict[str, Pair]:
    """Return copies of a model's pairs on the CPU, by projection, such as `blocks.0.attention.query`."""
    copies = {}
    for name, layer in lora_layers(model):
        pair = layer.pair()
        magnitude = None if pair.magnitude is None else pair.magnitude.cpu().clone()
        copies[name] = Pair(pair.down.cpu().clone(), pair.up.cpu().clone(), pair.scale, magnitude)
    return copies


def save_adapter(pairs: Mapping[str, Pair], head: Tensor | None, folder: Path, base_model: str) -> None:
    """Write pairs, and the classification head (K, C) if any, so that `peft.PeftModel.from_pretrained` loads them.

    `base_model` is the base model's hub repository or folder. The weights are written last, atomically.
    """
    joined = _joined(pairs)
    tensors = {}
    for name, pair in joined.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = pair.down.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = pair.up.contiguous()
        if pair.magnitude is not None:
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = pair.magnitude
    if head is not None:
        tensors[PREFIX + THEIR_HEAD] = head.detach().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    values = _config(joined, base_model, head is not None)
    (folder / NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    with atomic_path(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})


def _joined(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Rename pairs to transformers' projections, join those of query, key and value, and leave out those of rank 0."""
    joined = {}
    for name, pair in pairs.items():
        if name.endswith((_KEY, _VALUE)):
            continue
        if name.endswith(_QUERY):
            three = [pairs[name.replace(_QUERY, part)] for part in (_QUERY, _KEY, _VALUE)]
            pair = Pair(
                torch.cat([p.down for p in three]),
                torch.block_diag(*(p.up for p in three)),
                pair.scale,
                None if pair.magnitude is None else torch.cat([p.magnitude for p in three if p.magnitude is not None]),
            )
        joined["transformer." + their_name(f"{name}.weight")[0].removesuffix(".weight")] = pair
    return {name: pair for name, pair in joined.items() if len(pair.down)}


def _config(joined: Mapping[str, Pair], base_model: str, has_head: bool) -> dict[str, Any]:
    """Return the content of adapter_config.json. A projection's scale is alpha / rank; both may differ between blocks."""
    places = {name: _place(name) for name in joined}
    blocks, kinds = sorted({block for block, _ in places.values()}), list(dict.fromkeys(k for _, k in places.values()))
    has_all = len(joined) == len(blocks) * len(kinds)
    ranks = {name: len(pair.down) for name, pair in joined.items()}
    alphas = {name: pair.scale * ranks[name] for name, pair in joined.items()}
    first = next(iter(joined))
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if has_head else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "fan_in_fan_out": True,  # transformers' Conv1D stores its weight as (in, out)
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": _pattern(ranks),
        "alpha_pattern": _pattern(alphas),
        "target_modules": kinds if has_all else list(joined),
        **({"layers_to_transform": blocks, "layers_pattern": "h"} if has_all else {}),
        "use_dora": joined[first].magnitude is not None,
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": ["score"] if has_head else None,
    }


def _place(name: str) -> tuple[int, str]:
    """Return block and kind of a projection: (0, attn.c_attn) of `transformer.h.0.attn.c_attn`."""
    _, _, block, kind = name.split(".", maxsplit=3)
    return int(block), kind


def _pattern(values: Mapping[str, T]) -> dict[str, T]:
    """Return the values by projection that differ from the first one: by kind if all blocks agree, else by name."""
    by_kind: dict[str, dict[str, T]] = {}
    for name, value in values.items():
        by_kind.setdefault(_place(name)[1], {})[name] = value
    pattern: dict[str, T] = {}
    for kind, of_blocks in by_kind.items():
        value, *others = set(of_blocks.values())
        pattern |= of_blocks if others else {kind: value}
    first = next(iter(values.values()))
    return {key: value for key, value in pattern.items() if value != first}


@torch.no_grad()
def load_adapter(folder: Path, model: GPT2) -> GPT2:
    """Merge a LoRA adapter in peft's format, whoever wrote it, into `model` in place; return the model, a plain GPT2.

    Adds the classification head if the folder has one. Raises WeightsError if the folder holds no such adapter or does not fit
    the model: each projection that its configuration names must have a pair, and there must be no other tensors.
    """
    config, tensors = read_peft_config(folder), read_tensors(folder / WEIGHTS)
    is_wrapped = all(name.startswith((f"{PREFIX}transformer.", PREFIX + THEIR_HEAD)) for name in tensors)
    prefix = (
        "transformer." if is_wrapped or config.task_type in ("CAUSAL_LM", "SEQ_CLS") else ""
    )  # else a bare GPT2Model
    head = tensors.pop(PREFIX + THEIR_HEAD, None)
    if config.has_head != (head is not None):
        exists = "no" if head is None else "a"
        raise WeightsError(f"{folder}: `task_type` is {config.task_type}, but there is {exists} head `{THEIR_HEAD}`")
    if head is not None:
        if head.ndim != 2 or head.shape[1] != model.config.n_embd:
            raise WeightsError(f"{folder}: the head `{THEIR_HEAD}` of shape {tuple(head.shape)} does not fit the model")
        model.head = nn.Linear(head.shape[1], head.shape[0], bias=False)
        model.head.weight.copy_(head)
    placed: set[str] = set()
    for key, weight in model.named_parameters():
        module, is_projection = their_name(key)
        module = prefix + module.removesuffix(".weight")
        if is_projection and key.endswith(".weight") and config.adapts(module):
            pair = _part_for(key, _pair(folder, module, tensors, config))
            if (len(pair.up), pair.down.shape[1]) != weight.shape:
                raise WeightsError(f"{folder}: the pair of `{module}` does not fit a weight of {tuple(weight.shape)}")
            weight.data = pair.applied_to(weight)
            placed.update(_names(module))
    if not placed:
        raise WeightsError(f"{folder / NAME}: `target_modules` names no projection of this model")
    if left := sorted(set(tensors) - placed):
        raise WeightsError(
            f"{folder}: the tensor `{left[0].removeprefix(PREFIX)}` belongs to no projection of this model that {NAME} names"
        )
    return model


def base_model(folder: Path) -> str:
    """Return the name of the model that the adapter in `folder` was trained on; raise WeightsError if it has none."""
    name = read_peft_config(folder).base_model_name_or_path
    if not name:
        raise WeightsError(f"{folder / NAME}: `base_model_name_or_path` must name the adapter's base model")
    return name


def _names(module: str) -> list[str]:
    """Return the names of a module's tensors: A, B and DoRA's magnitude."""
    return [f"{PREFIX}{module}.{part}" for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")]


def _pair(folder: Path, module: str, tensors: Mapping[str, Tensor], config: PeftConfig) -> Pair:
    """Return the pair of transformers' projection `module`; raise WeightsError if it is incomplete or misshapen."""
    down, up, magnitude = (tensors.get(name) for name in _names(module))
    if down is None or up is None or config.use_dora != (magnitude is not None):
        raise WeightsError(f"{folder}: the pair of `{module}` is incomplete or does not match `use_dora` of {NAME}")
    rank = config.rank(module)
    if down.ndim != 2 or up.ndim != 2 or (len(down), up.shape[1]) != (rank, rank):
        raise WeightsError(
            f"{folder}: the pair of `{module}` has the shapes {tuple(down.shape)} and {tuple(up.shape)}, but its rank is {rank}"
        )
    if magnitude is not None and magnitude.shape != (len(up),):
        raise WeightsError(f"{folder}: `{module}` has magnitudes of shape {tuple(magnitude.shape)}, not ({len(up)},)")
    return Pair(down, up, config.scale(module), magnitude)


def _part_for(key: str, pair: Pair) -> Pair:
    """Return the part of a projection's pair for our weight `key`: for query, key or value, a third of c_attn's outputs."""
    for third, part in enumerate((_QUERY, _KEY, _VALUE)):
        if part in key:
            magnitude = None if pair.magnitude is None else pair.magnitude.chunk(3)[third]
            return replace(pair, up=pair.up.chunk(3)[third], magnitude=magnitude)
    return pair
