"""A description of all keys of a run: valid values, default, meaning, and the components that read each key."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from gpt2core.adapters import ADAPTERS
from gpt2core.attention import ATTENTION
from gpt2core.component import Keys, decides, declared_keys
from gpt2core.config import FirstStageKeys, RunConfig, keys_that_decide, known_keys
from gpt2core.decoding import DECODERS
from gpt2core.errors import ConfigError, shown
from gpt2core.tasks import TASKS

FIRST_STAGE = "first stage"
KEY_HEADINGS = ("key", "values", "default", "meaning", "read by")
TABLES = (TASKS, ADAPTERS, ATTENTION, DECODERS)


def described_keys(names: Container[str] | None = None) -> list[dict[str, Any]]:
    """Describe all keys, or those among `names`.

    Returns `key`, `values`, `default`, `meaning`, `read_by` (names by kind of component; empty: all runs) and `decides`.
    """
    declared = declared_keys(*RunConfig.kinds)
    return [
        {
            "key": name,
            "values": _values(name, RunConfig if name in RunConfig.model_fields else declared[name]),
            "default": field.default,
            "meaning": field.description,
            "read_by": readers(name),
            "decides": decides(field),
        }
        for name, field in known_keys().items()
        if names is None or name in names
    ]


def key_cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a described key in a table: name, values, default, meaning and readers."""
    read_by = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in row["read_by"].items())
    return [row["key"], row["values"], _default(row["default"]), row["meaning"], read_by or "all runs"]


def _default(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def readers(name: str) -> dict[str, list[str]]:
    """Return the names of the components that read a key, by kind; empty if all runs read it."""
    if name in FirstStageKeys.model_fields and name != "pretrain":
        return {FIRST_STAGE: ["pretrain"]}
    return {table.kind: names for table in TABLES if (names := table.readers(name))}


def check_read(configs: Sequence[RunConfig], names: Iterable[str]) -> None:
    """Raise ConfigError for a key among `names` that no component of any of these runs reads."""
    for name in names:
        problems = [_unread(name, config) for config in configs]
        if all(problems):
            raise ConfigError(problems[0])


def _unread(name: str, config: RunConfig) -> str:
    """Return why no component of a run reads a key; empty if one does."""
    by_kind = readers(name)
    named = {**config.components, FIRST_STAGE: [] if config.first_task is None else ["pretrain"]}
    if by_kind and all(set(named[kind]).isdisjoint(able) for kind, able in by_kind.items()):
        needed = "; ".join(f"{kind} {' or '.join(able)}" for kind, able in by_kind.items())
        return f"The key `{name}` has no effect: it needs {needed}; leave it out, or choose that too"
    if config.first_task is not None and name in keys_that_decide("stage"):  # the first stage may read it
        return ""
    ignoring = _ignoring(name, config)
    if not ignoring:
        return ""
    rule = f"{ignoring} ignores it with the run's other settings ({known_keys()[name].description})"
    return f"The value of `{name}` is {shown(getattr(config, name))}, but {rule}; leave it out"


def _ignoring(name: str, config: RunConfig) -> str:
    """Return the component of a run, without its first stage, that makes a key useless; empty if none does."""
    components = {**config.components, "task": [config.task]}
    for table in TABLES:
        for component in components[table.kind]:
            values = table[component].values(config)
            if name in values and values[name] is None:
                return f"the {table.kind} `{component}`"
    return ""


def _values(name: str, keys: type[Keys | RunConfig]) -> str:
    """Return the valid values of a key in words."""
    table = next((table for table in TABLES if table.kind == name), None)
    if table is not None:
        return f"one of {', '.join(table)}" + (", or several separated by commas" if table is ATTENTION else "")
    schema = keys.model_json_schema()["properties"][name]
    return " or ".join(_rule(option) for option in schema.get("anyOf", [schema]))


def _rule(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kinds = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text", "null": "none"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[bound]:g}" for bound, sign in signs.items() if bound in schema]
    return " ".join([kinds.get(schema.get("type", ""), "any"), " and ".join(bounds)]).strip()
