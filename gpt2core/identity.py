"""The identity of a run: the keys that decide its result. Two configurations with the same identity are the same run."""

from collections.abc import Iterable
from typing import Any

from gpt2core.adapters import ADAPTERS
from gpt2core.attention import ATTENTION
from gpt2core.component import Component, declared_keys
from gpt2core.config import FirstStageKeys, RunConfig, keys_that_decide
from gpt2core.decoding import DECODERS, resolved
from gpt2core.tasks import TASKS, Task


def components_of(config: RunConfig) -> list[Component | Task]:
    """Return the components that a run names; raise UnknownNameError for an unknown one."""
    kernels = [ATTENTION[name] for name in config.components["attention"]]
    return [TASKS[config.task], ADAPTERS[config.adapter], *kernels, DECODERS[config.decoder]]


def identity(config: RunConfig) -> dict[str, Any]:
    """Return the keys that decide the result of a run, with their effective values.

    Raises UnknownNameError for an unknown component.
    """
    values = _values_read(config)
    for key in keys_that_decide("nothing"):
        values.pop(key, None)
    for key, field in keys_that_decide("if set").items():
        if key in values and values[key] == field.default:
            del values[key]
    return values


def keys_read(config: RunConfig) -> set[str]:
    """Return all keys that a run reads, also those at their default, and `pretrain`, which says whether there is a first stage.

    Raises UnknownNameError for an unknown component.
    """
    return _values_read(config).keys() | {"pretrain"}


def _values_read(config: RunConfig) -> dict[str, Any]:
    """Return the keys that a component of the run reads, or that no component declares, with their effective values."""
    config = config.model_copy(update={"decoder": resolved(config.decoding_config).strategy})
    components = components_of(config)
    unread = _unread(components, config)
    if config.first_task is None:
        unread |= FirstStageKeys.model_fields.keys()
    else:
        first = components_of(config.model_copy(update={"task": config.first_task, "adapter": "full"}))
        unread -= keys_that_decide("stage").keys() - _unread(first, config)
    values = {key: value for key, value in config if key not in unread}
    for component in components:
        values |= {key: value for key, value in component.values(config).items() if value is not None}
    return values


def _unread(components: Iterable[Component | Task], config: RunConfig) -> set[str]:
    """Return the keys that some component declares, and whose values none of these components reads unchanged."""
    read = {key for component in components for key in component.keys.model_fields}
    overridden = {key for component in components for key in component.values(config)}
    return (declared_keys(*config.kinds).keys() - read) | overridden
