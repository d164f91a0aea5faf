"""Removes environment variables that would change or break a search, and sets those that Ray needs."""

import os
import re
from collections.abc import MutableMapping

#: Ray then hides all GPUs from workers that asked for none. By default they see all, and PyTorch would use the first.
HIDE_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
#: Our settings of Tune and Train. This project writes the ledger, MLflow and the screen, and handles Ctrl-C; with verbose=0,
#: Tune's old output prints nothing. Tune's snapshots of all trials are never read.
OURS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # seconds between two checks for reports
    **HIDE_GPUS,
}
#: Settings of Tune and Train with which trials would be stored elsewhere, stop early or hang, and runs of MLflow that belong to
#: other searches.
FOREIGN = re.compile(
    r"(TUNE|RAY_AIR|RAY_TRAIN)_\w+|RAY_CHDIR_TO_TRIAL_DIR|MLFLOW_(EXPERIMENT_NAME|EXPERIMENT_ID|RUN_ID)"
)
NUMBERS = re.compile(r"[1-9]\d*(,[1-9]\d*)*")  # of threads, by level of nesting
EMPTY_IS_NONE = ("TMPDIR", "RAY_TMPDIR", "RAY_ADDRESS", "HOME")


def settle(variables: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove foreign variables and set ours; return a line for each variable that was removed."""
    lines = []
    for name in sorted(variables):
        if FOREIGN.fullmatch(name) and variables[name] != OURS.get(name):
            lines.append(f"{name} is ignored: a search sets this itself")
            del variables[name]
    threads = variables.get("OMP_NUM_THREADS")
    if threads is not None and not NUMBERS.fullmatch(threads):
        lines.append(f"OMP_NUM_THREADS is ignored: its value is {threads!r}, but must be a number >= 1")
        del variables["OMP_NUM_THREADS"]
    for name in EMPTY_IS_NONE:
        if not variables.get(name, "-").strip():
            del variables[name]
    if "RAY_ADDRESS" in variables:
        variables["RAY_ADDRESS"] = variables["RAY_ADDRESS"].strip()
        if variables["RAY_ADDRESS"] == "local":
            del variables["RAY_ADDRESS"]  # a local Ray is the default
    variables.update(OURS)
    return lines
