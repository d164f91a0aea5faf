"""What configurations and components are made of: validated values, and the keys that a component declares.

A component is an entry of a table, such as an adapter in ADAPTERS. The keys that it reads are the fields of a class, each made by
`key`; its entry names the class. A configuration that names components has their keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from gpt2core.errors import ConfigError, shown
from gpt2core.registry import TABLES, declared_keys, nearest, remembered

K = TypeVar("K", bound="Keys")


class Config(BaseModel):
    """Base of all configurations: immutable, no unknown keys, errors in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; raise ConfigError naming the key, the value, the rule and the nearest valid name."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = dict.fromkeys(_explain(cls, one) for one in error.errors(include_url=False))
            raise ConfigError("; ".join(list(lines)[:4])) from None

    def but(self, **changes: Any) -> Self:
        """Return a validated copy with some values changed."""
        return type(self).of(self.model_dump() | changes)


def _explain(cls: type[Config], error: Any) -> str:
    key = str(error["loc"][0]) if error["loc"] else "configuration"
    if error["type"] == "extra_forbidden":
        return f"Unknown key `{key}`: {nearest(key, cls.model_fields)}"
    rule = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"The value of `{key}` is {shown(error['input'])}, but must be {rule}"


#: What a key decides beside the result of a run.
Decides = Literal[
    "result",  # nothing else
    "nothing",  # not even the result: memory, say
    "data",  # the examples and their tokens
    "reading",  # what the blocks of a model see of an example
    "step",  # how long an optimizer step takes
    "evaluation",  # how long an evaluation takes
    "score",  # how a model that is trained already is scored
    "texts",  # how texts are written, and no weights
    "training",  # how weights learn and not what they are: it may change while a run trains on
    "stage",  # the first stage too, which has the value of its run
    "division",  # which examples train, choose and judge
    "contexts",  # the contexts of candidate generation, and not only what is made of them
    "place",  # where files lie on a machine: what is in them decides a run
    "if set",  # nothing at its default: the identity of a run is then that of a version without the key
]
#: What a key decides that does not say what.
ANYTHING: tuple[Decides, ...] = ("data", "reading", "step", "evaluation", "stage")


def key(default: Any, meaning: str, *decides: Decides, **rules: Any) -> Any:
    """Declare a key of a run: its default, its meaning in a few words, what it decides, and pydantic's rules for its values.

    Where nothing is said of what it decides, that is ANYTHING: caches keep its values apart, and first stages get it too.
    """
    extra: Any = {"decides": decides or ANYTHING}
    return Field(default, description=meaning, json_schema_extra=extra, **rules)


class Keys(Config):
    """Base of what a component reads of a run. Its fields are made by `key`."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """Base of the entries of tables: `keys` declares what the component reads."""

    keys: type[Keys] = Keys

    def values(self, config: Any) -> Mapping[str, Any]:
        """The keys of a run that mean another value to this component than they have: that value, None for none at all."""
        return {}


class OpenConfig(Config):
    """A configuration that has, beside its own fields, keys that the components which it names declare elsewhere."""

    model_config = ConfigDict(extra="allow")

    kinds: ClassVar[tuple[str, ...]]  # of its components

    def entries(self, kind: str) -> list[Any]:
        """The entries of a table that it names; of names that are not there, and of tables that are not imported, none."""
        table: Mapping[str, Any] = TABLES.get(kind, {})
        return [table[name] for name in self.components[kind] if name in table]

    @property
    def components(self) -> dict[str, list[str]]:
        """The names of its components, by the kind of their table."""
        raise NotImplementedError

    def model_post_init(self, _: Any) -> None:
        """Validate keys that are declared elsewhere; raise ConfigError. Those that a component reads get their default."""
        extra = self.__pydantic_extra__
        assert extra is not None
        elsewhere = declared_elsewhere(type(self))
        if not extra and not elsewhere:
            return
        entries = [entry for kind in self.kinds for entry in self.entries(kind)]
        read = {name: entry.keys for entry in entries for name in entry.keys.model_fields if name in elsewhere}
        for name in sorted(extra.keys() - elsewhere.keys()):
            raise ConfigError(f"Unknown key `{name}`: {nearest(name, {**type(self).model_fields, **elsewhere})}")
        for name, keys in sorted({**elsewhere, **read}.items()):
            if name in extra or name in read:
                extra[name] = getattr(keys.of({name: extra[name]} if name in extra else {}), name)

    def part(self, keys: type[K]) -> K:
        """The keys of one component."""
        return keys(**self.values_of(keys.model_fields))

    def values_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of the named keys that there are: what a component from elsewhere declares is there if it was chosen, or set."""
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


@remembered
def declared_elsewhere(cls: type[OpenConfig]) -> Mapping[str, type[Keys]]:
    """The keys that components of such a configuration declare and its class does not."""
    return {name: keys for name, keys in declared_keys(*cls.kinds).items() if name not in cls.model_fields}


def decides(field: FieldInfo) -> tuple[Decides, ...]:
    """What a key decides."""
    extra: Any = field.json_schema_extra or {}
    return tuple(extra.get("decides", ANYTHING))
