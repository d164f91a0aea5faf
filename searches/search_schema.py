"""The JSON Schema of a search file, for editors and other programs: `gpt2-search schema`."""

import argparse
import json
from collections.abc import Iterable
from typing import Any

from gpt2core.adapters import ADAPTERS
from gpt2core.component import declared_keys
from gpt2core.config import OWN_TASKS, RunConfig, known_keys
from gpt2core.decoding import DECODERS
from gpt2core.tasks import TASKS
from searches.question import Case, Profile
from searches.search_file import SearchFile, can_be_fixed
from searches.values import RANGE_PATTERN, is_searchable

Schema = dict[str, Any]

#: Parts of a key's schema that are rules, of those that pydantic writes.
RULES = {"type", "enum", "const", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
#: Keys whose values are the names of a table; those of attention may be several.
TABLES_OF_KEYS: dict[str, Iterable[str]] = {"task": TASKS, "adapter": ADAPTERS, "decoder": DECODERS, "pretrain": TASKS}


def schema() -> Schema:
    """Return the schema of a search file. It cannot express some rules: bounds in order, runs that read each key, and others."""
    values = {key: _value(key) for key in known_keys()}
    fixed = _object(filter(can_be_fixed, values))
    point = _object(values)
    space = {"type": "object", "additionalProperties": False}
    space["properties"] = {key: _domain(key, value) for key, value in values.items() if is_searchable(key)}
    case, profile, whole = (model.model_json_schema() for model in (Case, Profile, SearchFile))
    case["properties"]["fixed"] |= fixed
    case["properties"]["study"]["items"] = point
    profile["properties"]["run"] |= fixed
    properties = whole["properties"]
    points = [("reference", point), ("upper_reference", point)]
    for section, content in (("scientific", space), ("nuisance", space), ("fixed", fixed), *points):
        properties[section] |= content
    properties["tasks"] |= {"additionalProperties": case, "propertyNames": {"enum": list(TASKS)}}
    properties["own_tasks"]["items"] = {"enum": list(OWN_TASKS)}
    properties["profiles"] |= {"additionalProperties": profile}
    properties["own_tasks"]["items"] = {"enum": list(OWN_TASKS)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": values}


def print_schema(options: argparse.Namespace) -> int:
    """Print the schema."""
    print(json.dumps(schema(), indent=2))
    return 0


def _object(keys: Iterable[str]) -> Schema:
    return {"type": "object", "properties": {key: _ref(key) for key in keys}, "additionalProperties": False}


def _ref(key: str) -> Schema:
    return {"$ref": f"#/$defs/{key}"}


def _value(key: str) -> Schema:
    """Return the schema of a key's value; as in a file, none is the text `none`."""
    model = RunConfig if key in RunConfig.model_fields else declared_keys(*RunConfig.kinds)[key]
    declared: Schema = model.model_json_schema()["properties"][key]
    options = [{rule: option[rule] for rule in RULES & option.keys()} for option in declared.get("anyOf", [declared])]
    if key in TABLES_OF_KEYS:
        options[0] = {"enum": list(TABLES_OF_KEYS[key])}
    options = [{"const": "none"} if option == {"type": "null"} else option for option in options]
    return {"description": declared["description"], "anyOf": options}


def _domain(key: str, value: Schema) -> Schema:
    """Return the schema of the values to search of a key: a list, or for numbers also a range."""
    choices = {"type": "array", "items": _ref(key), "minItems": 2, "uniqueItems": True}
    is_number = any(option.get("type") in ("number", "integer") for option in value["anyOf"])
    ranges = [{"type": "string", "pattern": RANGE_PATTERN}] if is_number else []
    return {"description": value["description"], "anyOf": [choices, *ranges]}
