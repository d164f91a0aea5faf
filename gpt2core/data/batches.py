"""Batches of texts of like length: little padding, another order each epoch, the same for the same seed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpt2core.model import IGNORE

POOL = 32  # batches whose examples are sorted together; the rest of the order stays random


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the batches of one epoch, each an array of at most `batch_size` example numbers."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    pools = [order[i : i + POOL * batch_size] for i in range(0, len(order), POOL * batch_size)]
    batches = []
    for pool in pools:
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def collate(examples: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad token arrays on the right; return input_ids and labels, both (B, T), labels IGNORE where padded."""
    width = max(len(example) for example in examples)
    input_ids = np.zeros((len(examples), width), dtype=np.int64)
    labels = np.full_like(input_ids, IGNORE)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = labels[row, : len(example)] = example
    return torch.from_numpy(input_ids).to(device), torch.from_numpy(labels).to(device)
