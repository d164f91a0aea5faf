"""Components, the tables that name them, and the configuration keys that they declare.

A component is an entry of a table, such as an adapter in ADAPTERS. It declares the keys that it reads as the fields of a `Keys`
class, each made by `key`. A configuration that names a component has that component's keys.
"""

import difflib
import functools
import inspect
import re
import threading
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo

from gpt2core import parts
from gpt2core.errors import ConfigError, UnknownNameError, UserError, shown, visible
from gpt2core.rules import rule_of

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


UNKNOWN = "extra_forbidden"  # pydantic's word for an unknown key


class Config(BaseModel):
    """Base of all configurations: immutable, without unknown keys; wrong values raise ConfigError, in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Raise ConfigError naming the key, the value, the rule and the nearest valid name."""
        try:
            return build(values)
        except ValidationError as error:
            raise ConfigError("; ".join(_explanations(cls, error, values)[:4])) from None

    @classmethod
    def of(cls, values: Mapping[str, Any], *, strict: bool | None = None) -> Self:
        """Build from a mapping; raise ConfigError. `strict` refuses values of another type, such as text in place of a number."""
        return cls.model_validate(dict(values), strict=strict)

    def but(self, **changes: Any) -> Self:
        """Return a validated copy with some values changed."""
        return type(self).of(self.model_dump() | changes)


def _explanations(cls: type[Config], error: ValidationError, values: Any) -> list[str]:
    """Return a sentence for each wrong key, unknown keys first; the problems of a union of types are alternatives."""
    problems: dict[str, list[Any]] = {}
    for problem in sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != UNKNOWN):
        problems.setdefault(str(problem["loc"][0]) if problem["loc"] else "configuration", []).append(problem)
    given = values if isinstance(values, Mapping) else {}
    return [_explain(cls, key, of_key, given.get(key)) for key, of_key in problems.items()]


def _explain(cls: type[Config], key: str, problems: Sequence[Any], value: Any) -> str:
    if problems[0]["type"] == UNKNOWN:
        return unknown_key(key, cls.model_fields)
    if problems[0]["type"] == "missing":
        return f"The key `{key}` is missing"
    inner = [problem for problem in problems if problem["loc"][1:] and problem["input"] is not value]  # of entries
    rules = dict.fromkeys(rule_of(problem) for problem in inner or problems)
    place = "A value in" if inner else "The value of"
    return f"{place} `{key}` is {shown((inner or problems)[0]['input'])}, but must {', or '.join(rules)}"


# -- keys and components

#: What a key affects besides the result of a run.
Decides = Literal[
    "result",  # nothing else
    "nothing",  # not even the result, for example only memory use
    "data",  # the examples and their tokens
    "reading",  # which tokens of an example the blocks see
    "step",  # the time of an optimizer step
    "evaluation",  # the time of an evaluation
    "score",  # the score of a model that is already trained
    "texts",  # generated texts, but no weights
    "training",  # how weights learn, but not their shapes: the key may change while a run continues
    "stage",  # the first stage, which inherits the value of its run
    "division",  # which examples are for training, for choosing and for judging
    "contexts",  # the contexts of candidate generation too
    "place",  # only where files lie: their content affects the result
    "if set",  # nothing at its default, so that the identity of a run matches that of versions without the key
]
#: The default of `key`: caches keep the values of such a key apart, and first stages inherit it.
ANYTHING: tuple[Decides, ...] = ("data", "reading", "step", "evaluation", "stage")


def key(default: Any, meaning: str, *decides: Decides, **rules: Any) -> Any:
    """Declare a key: its default, its meaning in a few words, what it decides (default: ANYTHING), and pydantic's rules."""
    extra: Any = {"decides": decides or ANYTHING}
    return Field(default, description=meaning, json_schema_extra=extra, **rules)


def decides(field: FieldInfo) -> tuple[Decides, ...]:
    """Return what a key decides."""
    extra: Any = field.json_schema_extra or {}
    return tuple(extra.get("decides", ANYTHING))


class Keys(Config):
    """Base of the keys that a component reads. Each field is made by `key`."""


K = TypeVar("K", bound=Keys)


class Entry(Protocol):
    """What a table holds: a component whose `keys` are the settings that it reads."""

    @property
    def keys(self) -> type[Any]: ...
    @property
    def summary(self) -> str: ...


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, kw_only=True)
class Component:
    """Base of table entries: `keys` declares what the component reads."""

    keys: type[Keys] = Keys

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        raise NotImplementedError

    def values(self, config: Any) -> Mapping[str, Any]:
        """Return overrides: the value that this component uses for a key of `config`, or None if it ignores the key."""
        return {}


def first_clause(described: object) -> str:
    """Return the first clause of a docstring: its first line up to a semicolon."""
    return (inspect.getdoc(described) or "").partition("\n")[0].partition(";")[0].rstrip(".")


# -- tables


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a component
OWN = "; a part of your own needs its package installed, or --import MODULE"
_loading = threading.RLock()  # a component that is loaded may read tables


class Table(MutableMapping[str, E]):
    """Components of one kind by name: the built-in `entries`, and own parts (`gpt2core.parts`), which the first reading loads.

    An unknown name raises UnknownNameError, which names the nearest valid one. An installed part that cannot be used makes its
    name unusable: `refused` says why. All other names can be used.
    """

    def __init__(self, kind: str, base: type[Any], entries: Mapping[str, E]) -> None:
        self.kind, self.base = kind, base
        self.origins = dict.fromkeys(entries, parts.BUILT_IN)
        self.refused: dict[str, str] = {}
        self._entries, self._is_loaded = dict(entries), False
        TABLES[kind] = self
        _clear_caches()

    def __getitem__(self, name: str) -> E:
        entries = self._loaded()
        if name in self.refused:
            raise ConfigError(self.refused[name])
        if name not in entries:
            raise UnknownNameError(f"Unknown {self.kind} `{visible(name, 60)}`: {nearest(name, entries, OWN)}")
        return entries[name]

    def __setitem__(self, name: str, entry: E) -> None:
        self._loaded()
        origin = parts.registering()
        if origin != self.origins.get(name, origin) and origin != parts.PROGRAM:
            self._check_free(name)
        self._add(name, entry, origin)

    def __delitem__(self, name: str) -> None:
        del self._loaded()[name], self.origins[name]
        _clear_caches()

    def __contains__(self, name: object) -> bool:
        return name in self._loaded()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def items(self) -> ItemsView[str, E]:
        """Return names and entries."""
        return self._loaded().items()

    def values(self) -> ValuesView[E]:
        """Return the entries."""
        return self._loaded().values()

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry, or `default` if there is none of that name."""
        return self._loaded().get(name, default)

    def readers(self, key: str) -> list[str]:
        """Return the names of the components that read a key."""
        return [name for name, entry in self.items() if key in entry.keys.model_fields]

    def _loaded(self) -> dict[str, E]:
        """Return all entries; at the first call, load own parts. Raises ConfigError for a module that cannot be imported."""
        with _loading:
            parts.import_named()
            if not self._is_loaded:
                self._is_loaded = True
                for part in parts.installed(self.kind):
                    self._load(part)
            return self._entries

    def _load(self, part: parts.InstalledPart) -> None:
        """Add an installed part, or note why it cannot be used."""
        try:
            self._check_free(part.name)
            self._add(part.name, part.load(), part.origin)
        except UserError as error:
            problem = f"The {self.kind} `{visible(part.name, 60)}` of {part.origin} cannot be used: {error}"
            self.refused[part.name] = f"{problem}; repair or uninstall {part.package}"

    def _check_free(self, name: str) -> None:
        if name in self._entries:
            raise ConfigError(f"the name `{name}` is taken ({self.origins[name]})")

    def _add(self, name: str, entry: E, origin: str) -> None:
        if not NAME.fullmatch(name):
            raise ConfigError(f"the name {shown(name)} must be letters, digits, dots, dashes and underscores")
        if not isinstance(entry, self.base):
            raise ConfigError(
                f"it is {shown(entry)}, but must be an instance of {self.base.__module__}.{self.base.__name__}"
            )
        self._entries[name], self.origins[name] = entry, origin
        _clear_caches()


#: The tables that have been imported, by kind.
TABLES: dict[str, Table[Any]] = {}

_cached: list[Any] = []


def table_cache(function: F) -> F:
    """Cache a function of the tables; any change of a table clears the cache."""
    _cached.append(functools.cache(function))
    return cast(F, _cached[-1])


def _clear_caches() -> None:
    for function in _cached:
        function.cache_clear()


def own_parts() -> dict[str, str]:
    """Return the origin of each component that is not built in, by kind and name, such as `adapter bitfit`."""
    return {
        f"{kind} {name}": table.origins[name]
        for kind, table in sorted(TABLES.items())
        for name in sorted(table)
        if table.origins[name] != parts.BUILT_IN
    }


@table_cache
def declared_keys(*kinds: str) -> Mapping[str, type[Any]]:
    """Return all keys that components of some kinds declare, each with its `Keys` class; only of imported tables."""
    entries = [entry for kind in kinds if kind in TABLES for entry in TABLES[kind].values()]
    return {key: entry.keys for entry in entries for key in entry.keys.model_fields}


def unknown_key(name: str, valid: Iterable[str]) -> str:
    """Return the message for an unknown key; it also says which own parts, whose keys are unknown too, cannot be used."""
    refused = [problem for table in TABLES.values() for problem in table.refused.values()]
    return "; ".join([f"Unknown key `{name}`: {nearest(name, valid)}", *refused])


def nearest(name: str, valid: Iterable[str], otherwise: str = "") -> str:
    """Return a hint that names the valid name nearest to `name`, or if none is near all valid names and `otherwise`."""
    names = sorted(valid)
    close = [other for other in names if other.lower() == name.lower()]
    close += difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"valid: {', '.join(names)}{otherwise}"


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`; raise UnknownNameError, which names the nearest valid name."""
    if name not in table:
        raise UnknownNameError(f"Unknown {kind} `{visible(name, 60)}`: {nearest(name, table)}")
    return table[name]


# -- configurations that name components


class OpenConfig(Config):
    """A configuration that names components and also accepts keys that only these components declare."""

    model_config = ConfigDict(extra="allow")

    kinds: ClassVar[tuple[str, ...]]  # of its components

    @property
    def components(self) -> dict[str, list[str]]:
        """The names of its components by kind."""
        raise NotImplementedError

    def entries(self, kind: str) -> list[Any]:
        """Return its components of one kind; skip unknown names, and tables that have not been imported."""
        table: Mapping[str, Any] = TABLES.get(kind, {})
        return [table[name] for name in self.components[kind] if name in table]

    def model_post_init(self, _: Any) -> None:
        """Validate the keys that only components declare, and set the defaults of those that are read; raise ConfigError."""
        extra = self.__pydantic_extra__
        assert extra is not None
        declared = extra_keys(type(self))
        if not extra and not declared:
            return
        entries = [entry for kind in self.kinds for entry in self.entries(kind)]
        read = {name: entry.keys for entry in entries for name in entry.keys.model_fields if name in declared}
        for name in sorted(extra.keys() - declared.keys()):
            self._check_components()
            raise ConfigError(unknown_key(name, {**type(self).model_fields, **declared}))
        for name, keys in sorted({**declared, **read}.items()):
            if name in extra or name in read:
                extra[name] = getattr(keys.of({name: extra[name]} if name in extra else {}), name)

    def _check_components(self) -> None:
        """Raise UserError for an unknown component; its keys are unknown too."""
        for kind, names in self.components.items():
            for name in names if kind in TABLES else ():
                _ = TABLES[kind][name]

    def part(self, keys: type[K]) -> K:
        """Return the keys of one component."""
        return keys(**self.values_of(keys.model_fields))

    def values_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of the named keys that this configuration has."""
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


@table_cache
def extra_keys(cls: type[OpenConfig]) -> Mapping[str, type[Keys]]:
    """Return the keys that components of a configuration declare and its own class does not."""
    return {name: keys for name, keys in declared_keys(*cls.kinds).items() if name not in cls.model_fields}
