"""A search as Optuna has it, in a journal file for optuna-dashboard: `python -m searches export-optuna NAME --out FILE`."""

import argparse
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gpt2core.errors import UserError
from searches.deciding.optuna_study import studies
from searches.showing.summary import reopened


def export_optuna(asked: argparse.Namespace) -> int:
    """Write the studies of a search's ledger to a new file; raise UserError where there is one already, or none can be."""
    _, state, options = reopened(asked)
    path = Path(asked.out)
    if path.exists():
        raise UserError(f"{path}: is there already; give --out another name")
    try:
        made = studies(options.plan, state, JournalStorage(JournalFileBackend(str(path))))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    names = ", ".join(study.study_name for study in made.values())
    print(f"Optuna's journal: {path} ({names}); optuna-dashboard opens it")
    return 0
