"""Batches of texts of similar length, so that little is padded; their order depends on seed and epoch alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt2core.data.tokens import Activations, Tokens
from gpt2core.model import IGNORE

POOL = 32  # batches whose examples are sorted by length together


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


class Batch(NamedTuple):
    """Examples padded on the right: tokens (B, T), how many of each are real (B,), classes (B,), and how many are given (B,).

    `cached_activations` are the output of the frozen blocks, of each token (B, T, C) or of each text (B, C).
    """

    input_ids: Tensor
    lengths: Tensor
    labels: Tensor
    given: Tensor
    cached_activations: Tensor | None = None

    def next_tokens(self) -> Tensor:
        """Labels (B, T) of a language model: the tokens themselves, IGNORE for padding and given tokens."""
        place = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        learnt = (place < self.lengths[:, None]) & (place >= self.given[:, None])
        return self.input_ids.where(learnt, IGNORE)


def collate(tokens: Tokens, index: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
    """Return the examples of those numbers as one batch."""
    lengths = tokens.lengths[index]
    input_ids = np.zeros((len(index), int(lengths.max())), dtype=np.int64)
    for row, (number, length) in enumerate(zip(index, lengths, strict=True)):
        input_ids[row, :length] = tokens[number]
    labels, given = (column[index].astype(np.int64) for column in (tokens.labels, tokens.given))
    cached = None if tokens.activations is None else _padded(tokens.activations, index, lengths).to(device)
    ids, counts, classes, offset = (torch.from_numpy(a).to(device) for a in (input_ids, lengths, labels, given))
    return Batch(ids, counts, classes, offset, cached)


def _padded(activations: Activations, index: Sequence[int] | np.ndarray, lengths: np.ndarray) -> Tensor:
    """The activations of texts (B, C), or of their tokens (B, T, C) padded with zeros."""
    if activations.of_texts:
        return torch.from_numpy(activations.values[index])
    padded = np.zeros((len(index), int(lengths.max()), activations.values.shape[1]), dtype=activations.values.dtype)
    for row, (number, length) in enumerate(zip(index, lengths, strict=True)):
        padded[row, :length] = activations.values[activations.starts[number] : activations.starts[number] + length]
    return torch.from_numpy(padded)
