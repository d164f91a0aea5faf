"""What adapter_config.json says of LoRA: which projections have a pair, of which rank and scale, by peft's own rules.

Whatever else changes what peft computes is refused. So are patterns that could take for ever to match.
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
#: Keys that change nothing of what an adapter computes, or whose value matters only to how it was trained.
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
#: How a pair may have started without a change to the weight beside it.
_STARTS = (True, False, "gaussian", "orthogonal")

#: A regular expression that `re`, which peft matches with, and RE2 read alike.
_SIMPLE = re.compile(r"(?:\\[.dw]|\(\?:|\{\d+(?:,\d*)?\}|\[\^?[\w-]+\]|[\w.()|^$*+?])*", re.ASCII)
_LONGEST, _PATTERNS = 200, 1024

Block = Annotated[int, Field(ge=0, strict=True)]
T = TypeVar("T")


class PeftConfig(Config):
    """The keys of adapter_config.json that this project reads, with peft's defaults."""

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
        """Raise ConfigError for patterns that are not simple, and for what peft refuses."""
        words = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or []
        whole = [text for text in (self.target_modules, self.exclude_modules) if isinstance(text, str)]
        patterns = [*whole, *words, *(self.rank_pattern or {}), *(self.alpha_pattern or {})]
        if len(patterns) > _PATTERNS:
            raise ConfigError(f"There are {len(patterns)} patterns of names, but must be at most {_PATTERNS}")
        for pattern in patterns:
            _check_simple(pattern)
        if self.layers_to_transform not in (None, []) and isinstance(self.target_modules, str):
            raise ConfigError("The value of `layers_to_transform` must be null where `target_modules` is one pattern")
        if self.layers_pattern and self.layers_to_transform in (None, []):
            raise ConfigError("The value of `layers_pattern` must be null where `layers_to_transform` is")
        if others := set(self.modules_to_save or []) - _HEADS:
            raise ConfigError(
                f"The value of `modules_to_save` names {min(others)!r}, but must name the head of classes, `score`, alone"
            )

    @property
    def has_head(self) -> bool:
        """Whether peft takes a head of classes from the adapter's file."""
        return self.task_type == "SEQ_CLS" or (self.task_type is None and "score" in (self.modules_to_save or []))

    def adapts(self, module: str) -> bool:
        """Whether a projection, such as `transformer.h.0.attn.c_attn`, has a pair."""
        if self.exclude_modules and _named(self.exclude_modules, module):
            return False
        targets = ["c_attn"] if self.target_modules is None else self.target_modules  # peft's choice for GPT-2
        if isinstance(targets, str):
            return targets.lower() == "all-linear" or _named(targets, module)
        if module in targets or self.layers_to_transform in (None, []):
            return _named(targets, module)
        return _named(targets, module) and self._block(module) in self._blocks

    @property
    def _blocks(self) -> list[int]:
        return (
            [self.layers_to_transform] if isinstance(self.layers_to_transform, int) else self.layers_to_transform or []
        )

    def _block(self, module: str) -> int | None:
        """The number of a projection's block as `layers_pattern` finds it, or without one, the first that is in its name."""
        words = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        rules = (
            [rf"(?:^|.*?\.){word}\.(?P<number>\d+)\." for word in words]
            if words
            else [r".*?\.[^.]*\.(?P<number>\d+)\."]
        )
        first = next((match for rule in rules if (match := re.match(rule, module))), None)
        number = first and first["number"]  # a pattern of choices, such as `h|x`, may match without one
        return int(number) if number else None

    def rank(self, module: str) -> int:
        """The rank of a projection's pair."""
        return _of_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """What the product of a projection's pair is multiplied by."""
        alpha, rank = _of_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_peft_config(folder: Path) -> PeftConfig:
    """Read adapter_config.json; raise WeightsError for another kind of adapter, or a key that this project does not do."""
    path = folder / NAME
    values = read_json(path)
    if values.get("peft_type") != "LORA" or values.get("bias", "none") != "none":
        raise WeightsError(f"{path}: must be of LoRA, without biases")
    start = values.get("init_lora_weights", True)
    if start not in _STARTS:
        raise WeightsError(
            f"{path}: `init_lora_weights` is {shown(start)}, which changes the weights; save it as plain LoRA"
        )
    read = PeftConfig.model_fields.keys() & values.keys()
    for key in values.keys() - read - _UNREAD - {"bias", "init_lora_weights"}:
        if values[key] not in (None, False, [], {}):
            raise WeightsError(
                f"{path}: `{key}` is {shown(values[key])}, but must be left out: this project does not do it"
            )
    try:
        return PeftConfig.of({key: values[key] for key in read})
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None


def _named(targets: list[str] | str, module: str) -> bool:
    """Whether a pattern is all of a module's name, or one of several names is its end."""
    if isinstance(targets, str):
        return _matches(targets, module)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _of_pattern(patterns: Mapping[str, T] | None, module: str, default: T) -> T:
    """The value of the first pattern that ends a module's name, or all of it."""
    matching = (value for pattern, value in (patterns or {}).items() if _matches(rf"(?:.*\.)?(?:{pattern})", module))
    return next(matching, default)


def _matches(pattern: str, module: str) -> bool:
    """Whether a pattern is all of a name. By RE2, whose time is linear in both: that of `re` has no bound."""
    return bool(match_substring_regex(pa.scalar(module), pattern=f"^(?:{pattern})$").as_py())


def _check_simple(pattern: str) -> None:
    """Raise ConfigError for what is no regular expression, or none of those that `re` and RE2 read alike."""
    try:
        if len(pattern) > _LONGEST or not _SIMPLE.fullmatch(pattern):
            raise ValueError("other characters")
        re.compile(pattern)
        _matches(rf"(?:.*\.)?(?:{pattern})", "")
    except (ValueError, re.error, RecursionError, OverflowError):
        raise ConfigError(
            f"The pattern {shown(pattern)} must be a regular expression of names, wildcards, repeats and choices, of at most "
            f"{_LONGEST} characters"
        ) from None
