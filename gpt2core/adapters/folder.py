"""LoRA pairs in peft's format: a folder of adapter_config.json and adapter_model.safetensors, for transformers' GPT-2.

Our query, key and value are projections of their own, transformers' c_attn is all three. A pair of rank r for each is one of
rank 3r for the three: A stacked, B block by block. So each keeps its product, and DoRA's magnitudes, one an output, theirs.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2core.adapters.lora import Pair, lora_layers
from gpt2core.errors import WeightsError
from gpt2core.files import atomic_path, readable
from gpt2core.model import GPT2
from gpt2core.weights import THEIR_HEAD, their_name

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_QUERY, _KEY, _VALUE = "attention.query", "attention.key", "attention.value"


@torch.no_grad()
def pairs(model: GPT2) -> dict[str, Pair]:
    """Return copies of a model's pairs, by projection, such as `blocks.0.attention.query`."""
    found = {}
    for name, layer in lora_layers(model):
        pair = layer.pair()
        magnitude = None if pair.magnitude is None else pair.magnitude.cpu().clone()
        found[name] = Pair(pair.down.cpu().clone(), pair.up.cpu().clone(), pair.scale, magnitude)
    return found


def save_adapter(pairs: Mapping[str, Pair], head: Tensor | None, folder: Path, base_model: str) -> None:
    """Write pairs, and a head (K, C) if there is one, so that `peft.PeftModel.from_pretrained` loads them.

    `base_model` says what they belong to: a name of the hub or a folder. The weights come last, atomically.
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
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    with atomic_path(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})


def _joined(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Pairs by the names of transformers' projections, those of query, key and value joined."""
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
    return joined


def _config(joined: Mapping[str, Pair], base_model: str, has_head: bool) -> dict[str, Any]:
    """What adapter_config.json says; each projection has one rank in all blocks, and the scale is alpha / rank."""
    places = {name: re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", name) for name in joined}
    blocks = sorted({int(place[1]) for place in places.values() if place})
    kinds = {place[2]: joined[name] for name, place in places.items() if place}
    ranks = {kind: len(pair.down) for kind, pair in kinds.items()}
    alphas = {kind: pair.scale * ranks[kind] for kind, pair in kinds.items()}
    first, *others = kinds
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if has_head else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "fan_in_fan_out": True,  # a Conv1D keeps its weight as (in, out)
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": {kind: ranks[kind] for kind in others if ranks[kind] != ranks[first]},
        "alpha_pattern": {kind: alphas[kind] for kind in others if alphas[kind] != alphas[first]},
        "target_modules": list(kinds),
        "layers_to_transform": blocks,
        "layers_pattern": "h",
        "use_dora": kinds[first].magnitude is not None,
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": ["score"] if has_head else None,
    }


@torch.no_grad()
def load_adapter(folder: Path, model: GPT2) -> GPT2:
    """Fold the LoRA of a folder in peft's format, ours or another's, into `model`, in place; return it, a plain GPT2.

    A head of classes is put where the folder holds one. Raises WeightsError where the folder is no such adapter, or of
    another model.
    """
    values, tensors = _read_config(folder), _read_tensors(folder)
    if (head := tensors.pop(THEIR_HEAD, None)) is not None:
        model.head = nn.Linear(head.shape[1], head.shape[0], bias=False)
        model.head.weight.copy_(head)
    placed = set()
    for key, weight in model.named_parameters():
        theirs = their_name(key)[0].removesuffix(".weight")
        if f"{theirs}.lora_A.weight" in tensors:
            placed |= {name for name in tensors if name.startswith(f"{theirs}.lora_")}
            pair = _part_for(key, _pair(theirs, tensors, values))
            if (len(pair.up), pair.down.shape[1]) != weight.shape:
                raise WeightsError(f"{folder}: the pair of `{theirs}` does not fit a weight of {tuple(weight.shape)}")
            weight.data = pair.applied_to(weight)
    if left := sorted(set(tensors) - placed):
        raise WeightsError(f"{folder}: the tensor `{left[0]}` has no place in this model")
    return model


def base_model(folder: Path) -> str:
    """Return what the adapter in `folder` says that it belongs to; raise WeightsError where it says nothing."""
    name = _read_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise WeightsError(f"{folder / CONFIG}: `base_model_name_or_path` must name the model that the adapter is of")
    return name


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from None
    if values.get("peft_type") != "LORA" or values.get("bias", "none") != "none":
        raise WeightsError(f"{path}: must be of LoRA, without biases")
    if values.get("init_lora_weights", True) not in (True, False, "gaussian"):
        start = values["init_lora_weights"]
        raise WeightsError(
            f"{path}: `init_lora_weights` is {start!r}, which changes the weights; save it as plain LoRA"
        )
    return values


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Float32 tensors by the names of transformers' GPT2Model."""
    try:
        tensors = load_file(readable(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS}: cannot be read ({error})") from None
    return {name.removeprefix(PREFIX).removeprefix("transformer."): tensor.float() for name, tensor in tensors.items()}


def _pair(name: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Pair:
    """The pair of transformers' projection `name`."""
    down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
    patterns = values.get("alpha_pattern") or {}
    alpha = next((patterns[end] for end in patterns if re.fullmatch(rf"(.*\.)?({end})", name)), values["lora_alpha"])
    scale = alpha / (math.sqrt(len(down)) if values.get("use_rslora") else len(down))
    return Pair(down, up, scale, tensors.get(f"{name}.lora_magnitude_vector"))


def _part_for(key: str, pair: Pair) -> Pair:
    """What a pair is for our weight `key`: of one for query, key and value together, a third of the outputs."""
    which = next((i for i, part in enumerate((_QUERY, _KEY, _VALUE)) if part in key), None)
    if which is None:
        return pair
    magnitude = None if pair.magnitude is None else pair.magnitude.chunk(3)[which]
    return replace(pair, up=pair.up.chunk(3)[which], magnitude=magnitude)
