"""Look a name up in one of the project's tables, or say which name was probably meant."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from gpt2core.errors import UnknownNameError, visible

T = TypeVar("T")


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
