"""Read adapter_config.json by peft's rules: which projections have a LoRA pair, and its rank and scale.

Refused are all other settings that change what peft computes, and patterns that could take exponential time to match.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
from pyarrow.compute import match_substring_regex
from pydantic import Field

from gpt2core.component import Config
from gpt2core.errors import ConfigError, WeightsError, shown
from gpt2core.foreign import read_json

NAME = "adapter_config.json"
#: Keys that do not change the output of a trained adapter.
_UNREAD = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
}
_HEADS = frozenset({"score", "classifier"})
#: Values of `init_lora_weights` that leave the base weight unchanged.
_STARTS = (True, False, "gaussian", "orthogonal")

#: Regular expressions that mean the same to `re`, which peft uses, and to RE2.
_SIMPLE = re.compile(r"(?:\\[.dw]|\(\?:|\{\d+(?:,\d*)?\}|\[\^?[\w-]+\]|[\w.()|^$*+?])*", re.ASCII)
_LONGEST, _PATTERNS = 200, 1024

Block = Annotated[int, Field(ge=0, strict=True)]
T = TypeVar("T")


class PeftConfig(Config):
    """The supported keys of adapter_config.json, with peft's defaults."""

    peft_type: Literal["LORA"]
    base_model_name_or_path: str | None = None
    revision: Literal["main"] | None = None
    task_type: Literal["CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"] | None = None
    r: int = Field(8, ge=1, le=2**16, strict=True)
    lora_alpha: float = Field(8, strict=True)
    use_rslora: bool = Field(False, strict=True)
    use_dora: bool = Field(False, strict=True)
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[Block] | Block | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=2**16, strict=True)]] | None = None
    alpha_pattern: dict[str, Annotated[float, Field(strict=True)]] | None = None
    modules_to_save: list[str] | None = None

    def model_post_init(self, _: Any) -> None:
        """Raise ConfigError for unsupported patterns and for combinations that peft refuses."""
        whole = [text for text in (self.target_modules, self.exclude_modules) if isinstance(text, str)]
        patterns = [*whole, *_listed(self.layers_pattern), *(self.rank_pattern or {}), *(self.alpha_pattern or {})]
        if len(patterns) > _PATTERNS:
            raise ConfigError(f"There are {len(patterns)} name patterns, but must be at most {_PATTERNS}")
        for pattern in patterns:
            _check_simple(pattern)
        if self.layers_to_transform not in (None, []) and isinstance(self.target_modules, str):
            raise ConfigError("The value of `layers_to_transform` must be null where `target_modules` is one pattern")
        if self.layers_pattern and self.layers_to_transform in (None, []):
            raise ConfigError("The value of `layers_pattern` must be null where `layers_to_transform` is")
        if others := set(self.modules_to_save or []) - _HEADS:
            raise ConfigError(
                f"The value of `modules_to_save` names {min(others)!r}, but may name only the classification head, `score`"
            )

    @property
    def has_head(self) -> bool:
        """Whether peft loads a classification head from the adapter's file."""
        return self.task_type == "SEQ_CLS" or (self.task_type is None and "score" in (self.modules_to_save or []))

    def adapts(self, module: str) -> bool:
        """Whether a projection, such as `transformer.h.0.attn.c_attn`, has a pair."""
        if self.exclude_modules and _named(self.exclude_modules, module):
            return False
        targets = ["c_attn"] if self.target_modules is None else self.target_modules  # peft's choice for GPT-2
        if isinstance(targets, str):
            return targets.lower() == "all-linear" or _named(targets, module)
        in_all_blocks = module in targets or self.layers_to_transform in (None, [])
        return _named(targets, module) and (in_all_blocks or self._block(module) in _listed(self.layers_to_transform))

    def _block(self, module: str) -> int | None:
        """Return a projection's block number as `layers_pattern` matches it; by default, the first number in its name."""
        words = _listed(self.layers_pattern)
        rules = [rf"(?:^|.*?\.){word}\.(?P<number>\d+)\." for word in words] or [r".*?\.[^.]*\.(?P<number>\d+)\."]
        first = next((match for rule in rules if (match := re.match(rule, module))), None)
        number = first and first["number"]  # None where a pattern such as `h|x` matches without the group
        return int(number) if number else None

    def rank(self, module: str) -> int:
        """Return the rank of a projection's pair."""
        return _of_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Return the factor of a projection's up @ down."""
        alpha, rank = _of_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_peft_config(folder: Path) -> PeftConfig:
    """Read adapter_config.json; raise WeightsError for other kinds of adapters and for unsupported keys."""
    path = folder / NAME
    values = read_json(path)
    if values.get("peft_type") != "LORA" or values.get("bias", "none") != "none":
        raise WeightsError(f"{path}: must describe a LoRA adapter without biases")
    start = values.get("init_lora_weights", True)
    if start not in _STARTS:
        raise WeightsError(
            f"{path}: `init_lora_weights` {shown(start)} changes the base weights; save it as plain LoRA"
        )
    read = PeftConfig.model_fields.keys() & values.keys()
    for key in values.keys() - read - _UNREAD - {"bias", "init_lora_weights"}:
        if values[key] not in (None, False, [], {}):
            raise WeightsError(f"{path}: `{key}` is {shown(values[key])}, which is not supported; leave it out")
    try:
        return PeftConfig.of({key: values[key] for key in read})
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None


def _named(targets: list[str] | str, module: str) -> bool:
    """Whether a pattern matches a module's whole name, or one of several targets is a suffix of it."""
    if isinstance(targets, str):
        return _matches(targets, module)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _of_pattern(patterns: Mapping[str, T] | None, module: str, default: T) -> T:
    """Return the value of the first pattern that matches a module's name or a suffix of it."""
    matching = (value for pattern, value in (patterns or {}).items() if _matches(rf"(?:.*\.)?(?:{pattern})", module))
    return next(matching, default)


def _listed(value: list[T] | T | None) -> list[T]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _matches(pattern: str, module: str) -> bool:
    """Whether a pattern matches a whole name, by RE2, whose time is linear; that of `re` has no bound."""
    return bool(match_substring_regex(pa.scalar(module), pattern=f"^(?:{pattern})$").as_py())


def _check_simple(pattern: str) -> None:
    """Raise ConfigError unless a pattern is a regular expression that means the same to `re` and RE2."""
    try:
        if len(pattern) > _LONGEST or not _SIMPLE.fullmatch(pattern):
            raise ValueError("other characters")
        re.compile(pattern)
        _matches(rf"(?:.*\.)?(?:{pattern})", "")
    except (ValueError, re.error, RecursionError, OverflowError):
        raise ConfigError(
            f"The pattern {shown(pattern)} must be a regular expression of names, wildcards, repetitions and alternatives, of at "
            f"most {_LONGEST} characters"
        ) from None
