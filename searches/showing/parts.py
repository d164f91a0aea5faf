"""The command `parts`: all components by kind, built in or of one's own, and the keys that they declare."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gpt2core.adapters import ADAPTERS
from gpt2core.attention import ATTENTION
from gpt2core.cli import print_json
from gpt2core.component import Table as Components
from gpt2core.console import console, print_line
from gpt2core.decoding import DECODERS
from gpt2core.distill.critics import CRITICS
from gpt2core.multitask.combining import COMBINATIONS
from gpt2core.tasks import TASKS
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.showing.tables import Column, Table, print_table

ALL: tuple[Components[Any], ...] = (TASKS, COMBINATIONS, ADAPTERS, ATTENTION, DECODERS, CRITICS, SAMPLERS, SCHEDULERS)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component that can be used; `origin` is a package with its version, a module, or `built in`."""

    kind: str
    name: str
    origin: str
    meaning: str
    keys: list[str]


def print_parts(options: argparse.Namespace) -> int:
    """Print all components; return 1 if some installed ones cannot be used, which is printed too. Raises UserError."""
    parts = list(all_parts())
    problems = [problem for table in ALL for problem in table.refused.values()]
    if options.json:
        print_json({"parts": [asdict(part) for part in parts], "problems": problems})
    else:
        screen = console(200)
        print_table(screen, _table(parts))
        for problem in problems:
            print_line(screen, problem, "red")
    return int(bool(problems))


def all_parts() -> Iterator[Part]:
    """Yield the components of all tables that can be used. Raises UserError."""
    for table in ALL:
        for name, entry in table.items():
            if name not in table.refused:
                keys = list(entry.keys.model_fields)
                yield Part(kind=table.kind, name=name, origin=table.origins[name], meaning=entry.summary, keys=keys)


def _table(parts: list[Part]) -> Table[Part]:
    columns = [
        Column[Part]("kind", lambda part: part.kind),
        Column[Part]("name", lambda part: part.name),
        Column[Part]("from", lambda part: part.origin),
        Column[Part]("meaning", lambda part: part.meaning),
        Column[Part]("keys", lambda part: ", ".join(part.keys)),
    ]
    note = "`gpt2-search keys` explains the keys of tasks, adapters, attention and decoders."
    return Table(title="Parts", columns=columns, rows=parts, name=1, note=note)
