"""The names of the folders and files of runs and checkpoints, and what a file of weights or states contains."""

from pathlib import Path
from typing import Any

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
BEST, PART = "best", "part"
METRICS, TRACE = "metrics.json", "trace.json.gz"
KEPT = 2  # checkpoints of epochs
#: Of a run, then of each of its checkpoints: name or pattern -> content.
RUN_FILES = {
    f"{BEST}/": "weights and state of the best epoch",
    "epoch-*/": f"checkpoints of the last {KEPT} epochs",
    f"{PART}/": "checkpoint within an unfinished epoch, after a preemption notice",
    "fold-*/": "the same for each fold of a cross-validation",
    METRICS: "configuration, digest of the data and scores of each epoch, of `gpt2core train`",
    TRACE: "profiler trace, with `--trace`",
}
CHECKPOINT_FILES = {
    WEIGHTS: "trainable weights",
    OPTIMIZER: "optimizer state, if the epoch was saved with it",
    STATE: "configuration, and the records of the epochs so far",
}
EPOCH = "epoch"  # the key of the epoch in the metadata of weights
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # optimizer state of a parameter
SCALER = "loss scaling"  # stands for a parameter's name
#: Types of the values in the record of an epoch.
KINDS = {"epoch": int, "step": int, "metrics": dict, "statistics": dict, "samples": list, "tables": dict}
#: Digests in the record of each epoch, and how a run with another digest was trained.
ORIGINS = {"data": "on other data", "tokenizer": "with another tokenizer", "base": "from another model"}

Record = dict[str, Any]
History = list[Record]  # of epochs


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Return the folder of the checkpoint of an epoch of the run in `folder`."""
    return folder / f"epoch-{epoch:04d}"
