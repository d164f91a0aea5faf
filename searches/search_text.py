"""The content of a search file: TOML or YAML, by the end of its name."""

import json
import re
import tomllib
from pathlib import Path, PurePath
from typing import Any

import yaml

from gpt2core.component import nearest
from gpt2core.errors import ConfigError, DataError, shown
from searches.question import scripts

LARGEST = 2**20  # bytes of a file
SUFFIXES = (".toml", ".yaml", ".yml")
FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """YAML whose keys occur once and whose numbers may be 1e-3, as in YAML 1.2; without aliases, whose content may be endless."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node of the document."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="it has an alias", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return the mapping of a node."""
        keys: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` occurs twice", problem_mark=key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def content(path: str) -> dict[str, Any]:
    """Return the content of a search file as JSON values. Raises OSError, ConfigError for another name, and DataError."""
    suffix = PurePath(path).suffix
    if suffix not in SUFFIXES:
        rule = (
            f"must be a file that ends in .toml, .yaml or .yml, or a script of this project: {nearest(path, scripts())}"
        )
        raise ConfigError(f"The search to run is {shown(path)}, but {rule}")
    with Path(path).expanduser().open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise DataError(f"{path}: is longer than {LARGEST:,} bytes")
    try:
        text = data.decode("utf-8")
        values = _toml(text, path) if suffix == ".toml" else _yaml(text, path)
        as_json = json.loads(json.dumps(values, allow_nan=False))  # for the ledger; the keys of YAML become text
    except (UnicodeDecodeError, RecursionError):
        raise DataError(f"{path}: is not UTF-8, or nested too deep") from None
    except (TypeError, ValueError):
        raise DataError(f"{path}: has a date, or a number that is not finite") from None
    if not isinstance(as_json, dict):
        raise DataError(f"{path}: is {shown(as_json)}, but must be keys with their values")
    return as_json


def _toml(text: str, path: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: is not TOML ({error})") from None


def _yaml(text: str, path: str) -> Any:
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        raise DataError(f"{path}, line {error.problem_mark.line + 1}: is not YAML ({error.problem})") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DataError(f"{path}, line {line}: is not YAML ({error.reason})") from None
