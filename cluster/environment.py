"""What of the environment's variables a search follows: what would bend its results or break it is left out, and that is said."""

import os
import re
from collections.abc import MutableMapping

#: How Tune and Train work here. The ledger and MLflow are written by this project, Ctrl-C is the runner's, and so is the
#: screen: with verbose=0, Tune's old output prints nothing. Tune's snapshots of all trials are never read.
OURS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Train asks for reports this often
}
#: Settings of Tune and Train by which trials would be stored elsewhere, stop elsewhere or hang; and runs of MLflow that are
#: not this search's.
FOREIGN = re.compile(
    r"(TUNE|RAY_AIR|RAY_TRAIN)_\w+|RAY_CHDIR_TO_TRIAL_DIR|MLFLOW_(EXPERIMENT_NAME|EXPERIMENT_ID|RUN_ID)"
)
NUMBERS = re.compile(r"[1-9]\d*(,[1-9]\d*)*")  # of threads, at each level
EMPTY_IS_NONE = ("TMPDIR", "RAY_TMPDIR", "RAY_ADDRESS", "HOME")


def settle(variables: MutableMapping[str, str] = os.environ) -> list[str]:
    """Leave out of the environment what is not followed, set what is needed, and return a line for each that was left out."""
    said = []
    for name in sorted(variables):
        if FOREIGN.fullmatch(name) and variables[name] != OURS.get(name):
            said.append(f"{name} is not followed: a search has its own way there")
            del variables[name]
    threads = variables.get("OMP_NUM_THREADS")
    if threads is not None and not NUMBERS.fullmatch(threads):
        said.append(f"OMP_NUM_THREADS is not followed: its value is {threads!r}, but must be a number >= 1")
        del variables["OMP_NUM_THREADS"]
    for name in EMPTY_IS_NONE:
        if not variables.get(name, "-").strip():
            del variables[name]
    if "RAY_ADDRESS" in variables:
        variables["RAY_ADDRESS"] = variables["RAY_ADDRESS"].strip()
        if variables["RAY_ADDRESS"] == "local":
            del variables["RAY_ADDRESS"]  # which is what there is without it
    variables.update(OURS)
    return said
