"""A baseline for language models: the losses of an interpolated Kneser-Ney n-gram model.

The model is that of Kneser & Ney (1995), interpolated as by Chen & Goodman (1998). The highest order counts the occurrences of
an n-gram, lower orders its distinct left neighbours, where the start of a sequence is a neighbour too. Each order subtracts a
discount D from each count c and gives that mass to the next lower order; unigrams give it to a uniform distribution over all V
tokens:

    p(w | h) = (max(c(hw) - D, 0) + D * types(h) * p(w | h without its first token)) / total(h)

where types(h) and total(h) are the number and the summed counts of the n-grams that begin with h.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DISCOUNT = 0.5  # if no count is 1 or none is 2, so that it cannot be estimated
ABSENT = -1  # stands for an n-gram that would reach beyond its sequence, or is unseen in training


@dataclass(frozen=True)
class _Text:
    """Concatenated sequences: the tokens (T,) and the position (T,) of each in its own sequence, from 0."""

    tokens: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class _Grams:
    """The G distinct n-grams of one length in a text, numbered from 0 by ascending key."""

    keys: (
        np.ndarray
    )  # (G,): the number of the context, all but the last token, times the vocabulary, plus the last token
    numbers: np.ndarray  # (T,): the n-gram that ends at each token, or ABSENT
    ends: np.ndarray  # (G,): the end of each n-gram's first occurrence


@dataclass(frozen=True)
class _Level:
    """The statistics of one order: its G n-grams and their C contexts."""

    keys: np.ndarray  # (G,), ascending
    discounted: np.ndarray  # (G,): max(c - D, 0)
    freed: np.ndarray  # (C,): D * types
    totals: np.ndarray  # (C,): summed counts; 0 if nothing follows the context


def ngram_losses(
    train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], vocab_size: int, order: int
) -> list[np.ndarray]:
    """Return the losses (T,) in nats of the tokens of each held-out sequence of token ids (T,).

    A model of `order` (1: unigrams, 2: bigrams, ...) is counted on `train`. It predicts a token from up to `order - 1`
    preceding tokens of the same sequence. A context that is unseen in training backs off completely. Raises ValueError for an
    order below 1, ids outside the vocabulary, and empty training data.
    """
    if order < 1:
        raise ValueError(f"The order of an n-gram model is {order}, but must be at least 1")
    known, unknown = _joined(train), _joined(held_out)
    for name, text in (("training", known), ("held-out", unknown)):
        wrong = text.tokens[(text.tokens < 0) | (text.tokens >= vocab_size)]
        if len(wrong):
            raise ValueError(f"A {name} token id is {wrong[0]}, but ids must be from 0 to {vocab_size - 1}")
    if not len(known.tokens):
        raise ValueError(f"There are 0 training tokens in {len(train)} sequences, but an n-gram model needs at least 1")
    losses = -np.log(_probabilities(unknown, _levels(known, vocab_size, order), vocab_size))
    return np.split(losses, np.cumsum([len(sequence) for sequence in held_out], dtype=np.int64))[:-1]


def _joined(sequences: Sequence[np.ndarray]) -> _Text:
    filled = [sequence for sequence in sequences if len(sequence)]
    if not filled:
        return _Text(np.zeros(0, np.int64), np.zeros(0, np.int64))
    lengths = np.array([len(sequence) for sequence in filled])
    tokens = np.concatenate(filled, dtype=np.int64, casting="same_kind")
    return _Text(tokens, np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths))


def _levels(text: _Text, vocab_size: int, order: int) -> list[_Level]:
    """Return the orders of a model, unigrams first. The counts of an order depend on the next longer n-grams."""
    grams = _grams(text, np.zeros_like(text.tokens), 1, vocab_size)
    contexts, levels = 1, []
    for length in range(1, order):
        longer = _grams(text, grams.numbers, length + 1, vocab_size)
        neighbours = np.bincount(grams.numbers[longer.ends], minlength=len(grams.keys))
        neighbours[np.unique(grams.numbers[text.places == length - 1])] += 1  # the start of a sequence
        levels.append(_level(grams.keys, neighbours, contexts, vocab_size))
        grams, contexts = longer, len(grams.keys)
    counts = np.bincount(grams.numbers[grams.numbers != ABSENT], minlength=len(grams.keys))
    return [*levels, _level(grams.keys, counts, contexts, vocab_size)]


def _grams(text: _Text, shorter: np.ndarray, length: int, vocab_size: int) -> _Grams:
    """Return the n-grams of a length, given the numbers (T,) of those one token shorter."""
    before = _contexts(text, shorter, length)
    present = np.flatnonzero(before != ABSENT)
    keys = before[present] * vocab_size + text.tokens[present]
    keys, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.full(len(before), ABSENT)
    numbers[present] = inverse
    return _Grams(keys, numbers, present[first])


def _contexts(text: _Text, shorter: np.ndarray, length: int) -> np.ndarray:
    """Return the number (T,) of each token's context, the n-gram of `length - 1` that ends just before it, or ABSENT."""
    return np.where(text.places >= length - 1, np.roll(shorter, 1), ABSENT)


def _level(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> _Level:
    ones, twos = (int(np.count_nonzero(counts == value)) for value in (1, 2))
    discount = ones / (ones + 2 * twos) if ones and twos else DISCOUNT
    begins = keys // vocab_size
    types = np.bincount(begins, minlength=contexts)
    totals = np.bincount(begins, weights=counts, minlength=contexts)
    return _Level(keys, np.maximum(counts - discount, 0.0), discount * types, totals)


def _probabilities(text: _Text, levels: Sequence[_Level], vocab_size: int) -> np.ndarray:
    """Return the probability (T,) of each token: uniform, then interpolated with the model of each longer context."""
    result = np.full(len(text.tokens), 1.0 / vocab_size)
    numbers = np.zeros_like(text.tokens)
    for length, level in enumerate(levels, start=1):
        before = _contexts(text, numbers, length)
        numbers = _lookup(level.keys, before, text.tokens, vocab_size)
        kept = np.zeros(len(result))
        kept[numbers != ABSENT] = level.discounted[numbers[numbers != ABSENT]]
        known = np.flatnonzero(before != ABSENT)
        known = known[level.totals[before[known]] > 0]
        context = before[known]
        result[known] = (kept[known] + level.freed[context] * result[known]) / level.totals[context]
    return result


def _lookup(keys: np.ndarray, before: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return the number (T,) of the n-gram made of each context (T,) and token (T,), or ABSENT."""
    if not len(keys):
        return np.full(len(tokens), ABSENT)
    wanted = np.where(before == ABSENT, ABSENT, before * vocab_size + tokens)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, ABSENT)
