"""The command `list`: the searches of a storage, with their answers."""

import argparse
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gpt2core.cli import print_json
from gpt2core.console import console
from gpt2core.errors import DataError, UserError, first_line
from gpt2core.storage import address, fetch, folders
from searches.places import existing_storage
from searches.result_files import LEDGER, SEARCHES, SUMMARY
from searches.running.ledger import RUNNING, read_state, status_of
from searches.running.remote_ledger import refresh
from searches.showing.tables import Column, Table, print_table
from searches.summary import Difference, Summary


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A search in a storage. `answer` is the claim of its answer, or why there is none; `changed` is when its last event was.

    `status` is as in `ledger.status_of`; `pairs` are the compared settings with their differences and intervals.
    """

    name: str
    question: str = ""
    model: str = ""
    task: str = ""
    trials: int = 0
    replicates: int = 0
    status: str = ""
    changed: str = ""
    outcome: str | None = None
    answer: str = ""
    pairs: tuple[Difference, ...] = ()


def list_searches(options: argparse.Namespace) -> int:
    """Print the searches of a storage, the last changed first. Raises UserError."""
    place = existing_storage(options.storage) / SEARCHES
    rows = sorted((listed(place / name) for name in folders(place)), key=lambda row: row.changed, reverse=True)
    if options.json:
        print_json(TypeAdapter(list[Listed]).dump_python(rows, mode="json"))
    elif not rows:
        print(f"There are no searches in {address(place)}; see --storage")
    else:
        print_table(console(160), _table(rows, address(place)))
    return 0


def listed(folder: Path) -> Listed:
    """Return the row of a search; if its files are damaged, the row says so."""
    name = folder.name
    try:
        refresh(folder)
        fetch(folder / SUMMARY)
        path = folder / LEDGER
        state = read_state(path)
        status = status_of(path, state)
        changed = datetime.fromtimestamp(state.clock.last or 0).astimezone().isoformat(sep=" ", timespec="minutes")
        replicates = sum(trial.of is not None for trial in state.trials.values())
        trials = len(state.trials) - replicates
        row = Listed(name=name, trials=trials, replicates=replicates, status=status, changed=changed)
        if not (folder / SUMMARY).is_file():
            answer = "none yet" if status == RUNNING else "none: it has not ended; the same command goes on with it"
            return replace(row, answer=answer)
        summary = Summary.read(folder / SUMMARY)
    except (UserError, DataError, OSError, ValidationError) as error:
        return Listed(name=name, answer=f"cannot be read: {first_line(error)}")
    return replace(
        row,
        question=summary.question,
        model=str(next((row.config["model"] for row in summary.trials if "model" in row.config), summary.model)),
        task=summary.task,
        outcome=summary.answer.outcome,
        answer=summary.answer.claim,
        pairs=tuple(summary.answer.pairs),
    )


def _table(rows: list[Listed], place: str) -> Table[Listed]:
    def trials(row: Listed) -> str:
        return f"{row.trials} + {row.replicates}" if row.replicates else str(row.trials)

    columns = [
        Column[Listed]("search", lambda row: row.name),
        Column[Listed]("model", lambda row: row.model),
        Column[Listed]("trials", trials, number=True),
        Column[Listed]("last event", lambda row: RUNNING if row.status == RUNNING else row.changed[:16]),
        Column[Listed]("answer", lambda row: row.answer),
    ]
    note = "Trials: those of the search + those on fresh seeds. `gpt2-search show NAME` shows one."
    return Table(title=f"Searches in {place}", columns=columns, rows=rows, note=note)
