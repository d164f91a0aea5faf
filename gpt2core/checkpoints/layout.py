"""The names of the folders and files of checkpoints, and what a file of weights or states contains.

epoch-0004/trained.safetensors     trainable weights
epoch-0004/optimizer.safetensors   optimizer state, if the epoch was saved with it
epoch-0004/state.json              configuration, and the records of the epochs so far
best/                              weights and state of the best epoch
part/                              an unfinished epoch
"""

from pathlib import Path
from typing import Any

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
BEST, PART = "best", "part"
KEPT = 2  # checkpoints of epochs
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
