"""Export a search for optuna-dashboard: `gpt2-search export-optuna NAME --out FILE`."""

import argparse
import math
from datetime import datetime
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from gpt2core.errors import UserError
from searches.deciding.optuna_study import new_study, studies, trials_by_view
from searches.plan import Plan
from searches.running.ledger import State, Trial
from searches.showing.summary import reopened


def export_optuna(options: argparse.Namespace) -> int:
    """Write the Optuna studies of a search to a new journal file; raise UserError if it exists or cannot be written."""
    _, state, search_options = reopened(options)
    path = Path(options.out)
    if path.exists():
        raise UserError(f"{path}: already exists; give --out another name")
    try:
        names = _write(search_options.plan, state, JournalStorage(JournalFileBackend(str(path))))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    print(f"Optuna journal: {path} ({', '.join(names)}); open it with optuna-dashboard")
    return 0


def _write(plan: Plan, state: State, storage: BaseStorage) -> list[str]:
    """Write the studies, whose trials have what a sampler is not told; return their names."""
    names, trials = [], trials_by_view(plan, state)
    for view, study in studies(plan, state).items():
        copy = new_study(study.study_name, storage, plan)
        for told, trial in zip(study.trials, trials[view], strict=True):
            copy.add_trial(_complete(told, trial, plan, state.runs.get(trial.name)))
        names.append(study.study_name)
    return names


def _complete(told: FrozenTrial, trial: Trial, plan: Plan, run: str | None) -> FrozenTrial:
    """Return what a sampler was told of a trial with its times, its own score at each epoch, and its attributes.

    `run` is the id of its run in MLflow. Optuna has no scores by epoch for several objectives.
    """
    attributes = {
        "trial": trial.name,
        "origin": trial.origin,
        "status": trial.status,
        "reason": trial.reason,
        "mlflow_run": run,
    }
    told.user_attrs = {key: value for key, value in attributes.items() if value is not None}
    began = next((report.began for report in trial.reports.values() if report.began is not None), trial.proposed)
    if began is not None:  # ledgers of early versions have no times
        told.datetime_start = datetime.fromtimestamp(began)
    if told.state.is_finished() and trial.ended is not None:
        told.datetime_complete = datetime.fromtimestamp(trial.ended)
    if not plan.method.minimize:
        scores = {epoch: report.metrics.get(plan.objective, math.nan) for epoch, report in trial.counted.items()}
        told.intermediate_values = {epoch: score for epoch, score in scores.items() if math.isfinite(score)}
    return told
