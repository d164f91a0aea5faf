"""Batches of examples of similar length, which need little padding; their order depends only on seed and epoch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt2core.data.tokens import Activations, Tokens
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
    cached_activations: Tensor | None = None  # outputs of the frozen blocks per token (B, T, C) or per text (B, C)

    def next_tokens(self) -> Tensor:
        """Return labels (B, T) for a language model: the tokens, with IGNORE for padding and given tokens."""
        place = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        learnt = (place < self.lengths[:, None]) & (place >= self.given[:, None])
        return self.input_ids.where(learnt, IGNORE)


def collate(tokens: Tokens, index: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
    """Return the examples with the indices `index` as a batch."""
    lengths = tokens.lengths[index]
    input_ids = np.zeros((len(index), int(lengths.max())), dtype=np.int64)
    for row, (number, length) in enumerate(zip(index, lengths, strict=True)):
        input_ids[row, :length] = tokens[number]
    labels, given = (column[index].astype(np.int64) for column in (tokens.labels, tokens.given))
    cached = None if tokens.activations is None else _padded(tokens.activations, index, lengths).to(device)
    ids, counts, classes, offset = (torch.from_numpy(a).to(device) for a in (input_ids, lengths, labels, given))
    return Batch(ids, counts, classes, offset, cached)


def _padded(activations: Activations, index: Sequence[int] | np.ndarray, lengths: np.ndarray) -> Tensor:
    """Return activations of texts (B, C), or of tokens (B, T, C) padded with zeros."""
    if activations.of_texts:
        return torch.from_numpy(activations.values[index])
    padded = np.zeros((len(index), int(lengths.max()), activations.values.shape[1]), dtype=activations.values.dtype)
    for row, (number, length) in enumerate(zip(index, lengths, strict=True)):
        padded[row, :length] = activations.values[activations.starts[number] : activations.starts[number] + length]
    return torch.from_numpy(padded)
