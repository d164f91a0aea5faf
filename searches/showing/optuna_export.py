"""Export a search for optuna-dashboard: `python -m searches export-optuna NAME --out FILE`."""

import argparse
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gpt2core.errors import UserError
from searches.deciding.optuna_study import studies
from searches.showing.summary import reopened


def export_optuna(options: argparse.Namespace) -> int:
    """Write the Optuna studies of a search to a new journal file; raise UserError if it exists or cannot be written."""
    _, state, search_options = reopened(options)
    path = Path(options.out)
    if path.exists():
        raise UserError(f"{path}: already exists; give --out another name")
    try:
        exported = studies(search_options.plan, state, JournalStorage(JournalFileBackend(str(path))))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    names = ", ".join(study.study_name for study in exported.values())
    print(f"Optuna journal: {path} ({names}); open it with optuna-dashboard")
    return 0
