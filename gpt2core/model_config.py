"""Read config.json and generation_config.json of a folder: the shape of a GPT-2, special tokens and class names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2core.config import ModelConfig
from gpt2core.errors import ConfigError, WeightsError, shown, visible
from gpt2core.foreign import check_values, is_there, read_json

GENERATION = "generation_config.json"

#: Aliases that transformers accepts for keys of config.json.
_ALIASES = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions"}
_ALIASES |= {"num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
#: Keys of generation_config.json that do not affect decoding, and special tokens, which are read.
_NO_DECODING = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
#: Keys of config.json that change the computation, with their supported values.
_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "is_encoder_decoder": (False,),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "auto_map": (None,),
    # Attention masks that transformers supports for any model.
    "is_causal": (True,),
    "sliding_window": (None,),
    "attention_chunk_size": (None,),
    "layer_types": (None,),
}


def read_config(folder: Path) -> ModelConfig:
    """Read config.json of a Hugging Face folder; raise WeightsError if it is missing or not that of a GPT-2."""
    path = folder / "config.json"
    values = read_json(path, missing="; a Hugging Face model folder needs one")
    if values.get("model_type") != "gpt2" and not _looks_like_gpt2(values):
        raise WeightsError(
            f"{path}: `model_type` is {shown(values.get('model_type'))}, but must be 'gpt2': GPT-2, DistilGPT2, DialoGPT and all "
            "others of this architecture"
        )
    check_values(path, values, _FIXED)
    for alias, key in _ALIASES.items():
        if alias in values and values.setdefault(key, values[alias]) != values[alias]:
            raise WeightsError(f"{path}: `{alias}` and `{key}` are aliases, but differ")
    try:
        config = ModelConfig.of({k: values[k] for k in ModelConfig.model_fields if k in values})
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        raise WeightsError(f"{path}: `n_inner` is {shown(values['n_inner'])}, but must be {4 * config.n_embd} or null")
    return config


def _looks_like_gpt2(values: Mapping[str, Any]) -> bool:
    """Return whether a configuration without `model_type` names only GPT-2 classes, or no class but keys of GPT-2."""
    classes = values.get("architectures") or []
    is_gpt2 = isinstance(classes, list) and all(isinstance(name, str) and name.startswith("GPT2") for name in classes)
    has_keys = {"n_embd", "n_layer", "n_head"} <= values.keys()
    return values.get("model_type") is None and is_gpt2 and (bool(classes) or has_keys)


def special_ids(folder: Path) -> dict[str, list[int]]:
    """Return the token numbers of BOS, EOS and padding. As in transformers, generation_config.json overrides config.json."""
    path, generation = folder / "config.json", folder / GENERATION
    config = read_json(path)
    named = read_json(generation) if is_there(generation) else {}
    token_ids = {}
    for key, default in (("bos_token_id", 50256), ("eos_token_id", 50256), ("pad_token_id", None)):
        source, value = (path, config.get(key, default)) if named.get(key) is None else (generation, named[key])
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise WeightsError(f"{source}: `{key}` is {shown(value)}, but must be a token number or a list of them")
        token_ids[key] = [number for number in numbers if number >= 0]
    return token_ids


def unused_decoding(folder: Path) -> str:
    """Return a note about the ignored decoding keys of generation_config.json, or an empty text; raise WeightsError."""
    path = folder / GENERATION
    named = read_json(path) if is_there(path) else {}
    ignored = [key for key, value in named.items() if value is not None and key not in _NO_DECODING]
    if not ignored:
        return ""
    names = ", ".join(f"`{visible(key, 60)}`" for key in ignored[:8])
    more = f" and {len(ignored) - 8} more" if len(ignored) > 8 else ""
    return f"{path}: ignored: {names}{more}; the settings of the run decide how texts are decoded"


def class_names(folder: Path, count: int) -> list[str]:
    """Return the class names in config.json; empty if classes are only numbered. Raises WeightsError."""
    path = folder / "config.json"
    named = read_json(path).get("id2label")
    if named is None:
        return []
    if not isinstance(named, dict) or named.keys() != {str(number) for number in range(count)}:
        raise WeightsError(f"{path}: `id2label` must name the classes 0 to {count - 1}, but is {shown(named)}")
    names = [named[str(number)] for number in range(count)]
    if not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path}: `id2label` must contain texts, but is {shown(named)}")
    numbered = [[f"{word}{number}" for number in range(count)] for word in ("LABEL_", "")]
    return [] if names in numbered else names
