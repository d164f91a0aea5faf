"""Tables of components by name, and what is said for a name that is in none."""

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, cast

from gpt2core.errors import UnknownNameError, visible

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Entry(Protocol):
    """A component that a table names. The fields of `keys` are the settings that it reads."""

    @property
    def keys(self) -> type[Any]: ...


E = TypeVar("E", bound=Entry)


class Table(dict[str, E]):
    """Components of one kind by name; a name that is not there raises UnknownNameError with the nearest one."""

    def __init__(self, kind: str, entries: Mapping[str, E]) -> None:
        super().__init__(entries)
        self.kind = kind
        TABLES[kind] = self
        _forget()

    def __setitem__(self, name: str, entry: E) -> None:
        super().__setitem__(name, entry)
        _forget()

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        _forget()

    def readers(self, key: str) -> list[str]:
        """The names of the entries that read a key."""
        return [name for name, entry in self.items() if key in entry.keys.model_fields]

    def __missing__(self, name: str) -> E:
        raise UnknownNameError(f"Unknown {self.kind} `{visible(name, 60)}`: {nearest(name, self)}")


#: The tables that are imported, by kind.
TABLES: dict[str, Table[Any]] = {}

_remembered: list[Any] = []


def remembered(function: F) -> F:
    """Keep what a function of tables gave for the same arguments until a table changes."""
    _remembered.append(functools.cache(function))
    return cast(F, _remembered[-1])


def _forget() -> None:
    for function in _remembered:
        function.cache_clear()


@remembered
def declared_keys(*kinds: str) -> Mapping[str, type[Any]]:
    """The keys that the entries of tables declare, each with the class that declares it; of tables that are imported."""
    entries = [entry for kind in kinds if kind in TABLES for entry in TABLES[kind].values()]
    return {key: entry.keys for entry in entries for key in entry.keys.model_fields}


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid name nearest to `name`, or all of them if none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else "valid: " + ", ".join(names)


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`; raise UnknownNameError naming the nearest entry if there is none."""
    if name not in table:
        raise UnknownNameError(f"Unknown {kind} `{visible(name, 60)}`: {nearest(name, table)}")
    return table[name]
