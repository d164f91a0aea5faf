"""The values of a searched key as text, such as `1e-5..1e-2:log` or `4,8,16`, checked by the key's own rules."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gpt2core.component import lookup
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import ConfigError, shown
from searches.domains import (
    Choice,
    Domain,
    IntUniform,
    LogInt,
    LogUniform,
    Uniform,
    check_range,
    check_values,
    is_number,
)

RANGE = re.compile(r"(?P<low>.+?)(?<!\.)\.\.(?!\.)(?P<high>[^:]+)(?P<kinds>(?::[^:]*)*)")
RANGE_PATTERN = r"^\s*[-+0-9.eE]+\s*\.\.\s*[-+0-9.eE]+\s*(:log|:int|:log:int|:int:log)?$"  # for JSON Schema
#: Keys that compared runs have in common, besides those that decide on which texts they are compared.
SHARED = {
    *("task", "tasks", "model", "seed", "objective", "judged"),
    *("split_seed", "text", "label", "target", "class_names"),
}
KINDS = {"log": "uniform on a log scale", "int": "whole numbers"}


def check_searchable(key: str) -> None:
    """Raise ConfigError for a key that a search may not vary."""
    if key in {*SHARED, *keys_that_decide("division"), *keys_that_decide("place")}:
        raise ConfigError(f"The key `{key}` cannot be searched: runs that are compared must have the same value")
    if key in keys_that_decide("nothing"):
        raise ConfigError(f"The key `{key}` cannot be searched: it does not change the result of a run")


def is_searchable(key: str) -> bool:
    """Return whether a search may vary a key."""
    try:
        check_searchable(key)
    except ConfigError:
        return False
    return True


def domain_of(key: str, text: str) -> Domain:
    """Return the domain that a text describes: `LOW..HIGH`, then perhaps `:log` and `:int`, or values separated by commas.

    Values that contain commas are separated by semicolons. Raises UserError.
    """
    check_searchable(key)
    return described(key, text, partial(value_of, key))


def described(key: str, text: str, parse: Callable[[str], Any]) -> Domain:
    """Return the domain that a text describes, see `domain_of`; `parse` returns a value from its text. Raises UserError."""
    match = RANGE.fullmatch(text)
    if match is not None:
        kinds = [
            lookup({kind: kind for kind in KINDS}, kind, "kind of range") for kind in match["kinds"].split(":")[1:]
        ]
        low, high = (parse(match[end].strip()) for end in ("low", "high"))
        return _numbers(key, text, low, high, is_log="log" in kinds, is_whole="int" in kinds)
    separator = ";" if ";" in text else ","
    return choice(key, [parse(value.strip()) for value in text.split(separator)])


def choice(key: str, values: Sequence[Any]) -> Choice:
    """Return a choice between valid values; raise ConfigError unless there are two or more, all different."""
    check_values(f"The key `{key}`", values, "a range LOW..HIGH or 2 or more values; to fix it, use --set")
    return Choice(*values)


def value_of(key: str, value: Any, *, strict: bool | None = None) -> Any:
    """Return a value of a key with its type; `none` is None. Raises UserError for an invalid value.

    `strict` refuses text in place of a number.
    """
    from gpt2core.identity import keys_read  # PyTorch is too slow to import for --help

    config = RunConfig.of({key: None if value == "none" else value}, strict=strict)
    keys_read(config)  # knows the names of all components
    return getattr(config, key)


def _numbers(key: str, text: str, low: Any, high: Any, *, is_log: bool, is_whole: bool) -> Domain:
    if not all(map(is_number, (low, high))):
        raise ConfigError(f"The key `{key}` has no numbers to search in {shown(text)}: list its values")
    is_whole = is_whole or (isinstance(low, int) and isinstance(high, int))
    check_range(f"The range of `{key}` is {shown(text)}", low, high, is_log=is_log, is_whole=is_whole)
    if is_whole:
        return (LogInt if is_log else IntUniform)(int(low), int(high))
    return (LogUniform if is_log else Uniform)(low, high)
