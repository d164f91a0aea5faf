"""Batches of examples of similar length, which need little padding; their order depends only on seed and epoch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt2core.data.tokens import Tokens
from gpt2core.model import IGNORE

POOL = 32  # batches per pool; examples are sorted by length within a pool


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the batches of one epoch as arrays of at most `batch_size` example indices."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    pools = [order[i : i + POOL * batch_size] for i in range(0, len(order), POOL * batch_size)]
    batches = []
    for pool in pools:
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


class Batch(NamedTuple):
    """Examples, padded on the right."""

    input_ids: Tensor  # (B, T)
    lengths: Tensor  # (B,): tokens without padding
    labels: Tensor  # (B,): classes
    given: Tensor  # (B,): tokens that are not trained on
    predicted: Tensor  # (N,): positions in the flattened (B, T) whose next token is trained on
    cached_activations: Tensor | None = None  # outputs of the frozen blocks per token (B, T, C) or per text (B, C)

    def next_tokens(self) -> Tensor:
        """Return labels (B, T) for a language model: the tokens, with IGNORE for padding and given tokens."""
        place = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        learnt = (place < self.lengths[:, None]) & (place >= self.given[:, None])
        return self.input_ids.where(learnt, IGNORE)


def collate(tokens: Tokens, index: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
    """Return the examples with the indices `index` as a batch.

    All numbers go to a GPU in one transfer that the host does not wait for, so it prepares a batch while the GPU still computes
    the step before.
    """
    lengths, blocks = tokens.lengths[index], tokens.activations
    input_ids = _padded(tokens.values, tokens.starts[index], lengths)
    given, place = tokens.given[index], np.arange(input_ids.shape[1])[None] + 1
    predicted = np.flatnonzero((place < lengths[:, None]) & (place >= given[:, None]))
    columns = [input_ids, lengths, tokens.labels[index], given, predicted]
    joined = _moved(np.concatenate([column.ravel() for column in columns]).astype(np.int64, copy=False), device)
    parts = joined.split([column.size for column in columns])
    batch = Batch(*(part.view(column.shape) for part, column in zip(parts, columns, strict=True)))
    if blocks is None:
        return batch
    values = blocks.values[index] if blocks.of_texts else _padded(blocks.values, blocks.starts[index], lengths)
    return batch._replace(cached_activations=_moved(values, device))


def _moved(values: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; a GPU reads it from page-locked memory behind the host's back."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _padded(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the values of each example, padded with zeros on the right."""
    padded = np.zeros((len(lengths), int(lengths.max()), *values.shape[1:]), dtype=values.dtype)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        padded[row, :length] = values[start : start + length]
    return padded
