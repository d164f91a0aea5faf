"""A baseline for language models: the losses of an interpolated Kneser-Ney n-gram model.

The model is that of Kneser & Ney (1995) in the interpolated form of Chen & Goodman (1998). The highest order counts how
often an n-gram occurs. A lower order counts in how many ways an n-gram is preceded: its different left neighbours, of
which the start of a sequence is one. One discount D per order is taken off each count c, and what it frees goes to the
next lower order, below the unigrams to all V tokens alike:

    p(w | h) = (max(c(hw) - D, 0) + D * types(h) * p(w | h without its first token)) / total(h)

where types(h) and total(h) are the number and the summed counts of the n-grams that begin with h.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DISCOUNT = 0.5  # where there are no counts of 1 or none of 2 to estimate it from
ABSENT = -1  # in the place of an n-gram's number: too few tokens before it in its sequence, or unseen in training


@dataclass(frozen=True)
class _Text:
    """Sequences end to end: the tokens (T,) and the place (T,) of each in its own sequence, from 0."""

    tokens: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class _Grams:
    """The G different n-grams of one length in a text, numbered from 0 in the order of their keys.

    A key is the number of the n-gram's context (all but its last token) times the vocabulary, plus its last token.
    """

    keys: np.ndarray  # (G,), ascending
    numbers: np.ndarray  # (T,): the n-gram that ends at each token, or ABSENT
    ends: np.ndarray  # (G,): where each n-gram ends for the first time


@dataclass(frozen=True)
class _Level:
    """What one order of the model knows of its G n-grams and their C contexts."""

    keys: np.ndarray  # (G,), ascending
    discounted: np.ndarray  # (G,): max(c - D, 0)
    freed: np.ndarray  # (C,): D * types
    totals: np.ndarray  # (C,): summed counts; 0 where nothing follows the context


def ngram_losses(
    train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], vocab_size: int, order: int
) -> list[np.ndarray]:
    """Return for each held-out sequence of token ids (T,) the losses (T,) of its tokens in nats.

    The model of `order` (1: unigrams, 2: bigrams, ...) is counted on `train`. Sequences are independent: a token is
    predicted from up to `order - 1` tokens before it in its own sequence, the first from none. A context that is unseen
    in training backs off completely. Raises ValueError for an order below 1, ids outside of the vocabulary, and no
    training token.
    """
    if order < 1:
        raise ValueError(f"The order of an n-gram model is {order}, but must be at least 1")
    known, asked = _joined(train), _joined(held_out)
    _check_ids(known.tokens, vocab_size, "training")
    _check_ids(asked.tokens, vocab_size, "held-out")
    if not len(known.tokens):
        raise ValueError(f"There are 0 training tokens in {len(train)} sequences, but an n-gram model needs at least 1")
    losses = -np.log(_probabilities(asked, _levels(known, vocab_size, order), vocab_size))
    return np.split(losses, np.cumsum([len(sequence) for sequence in held_out], dtype=np.int64))[:-1]


def _joined(sequences: Sequence[np.ndarray]) -> _Text:
    filled = [sequence for sequence in sequences if len(sequence)]
    if not filled:
        return _Text(np.zeros(0, np.int64), np.zeros(0, np.int64))
    lengths = np.array([len(sequence) for sequence in filled])
    tokens = np.concatenate(filled, dtype=np.int64, casting="same_kind")
    return _Text(tokens, np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths))


def _check_ids(tokens: np.ndarray, vocab_size: int, name: str) -> None:
    wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(wrong):
        raise ValueError(f"A {name} token id is {wrong[0]}, but ids must be from 0 to {vocab_size - 1}")


def _levels(text: _Text, vocab_size: int, order: int) -> list[_Level]:
    """The orders of a model, unigrams first. An order's counts are known once the next longer n-grams are."""
    grams = _grams(text, np.zeros_like(text.tokens), 1, vocab_size)
    contexts, levels = 1, []
    for length in range(1, order):
        longer = _grams(text, grams.numbers, length + 1, vocab_size)
        levels.append(_level(grams.keys, _left_neighbours(text, grams, longer, length), contexts, vocab_size))
        grams, contexts = longer, len(grams.keys)
    counts = np.bincount(grams.numbers[grams.numbers != ABSENT], minlength=len(grams.keys))
    return [*levels, _level(grams.keys, counts, contexts, vocab_size)]


def _grams(text: _Text, shorter: np.ndarray, length: int, vocab_size: int) -> _Grams:
    """Number the n-grams of a length, given the numbers (T,) of those one token shorter."""
    before = _contexts(text, shorter, length)
    present = np.flatnonzero(before != ABSENT)
    keys, first, inverse = np.unique(
        before[present] * vocab_size + text.tokens[present], return_index=True, return_inverse=True
    )
    numbers = np.full(len(before), ABSENT)
    numbers[present] = inverse
    return _Grams(keys, numbers, present[first])


def _contexts(text: _Text, shorter: np.ndarray, length: int) -> np.ndarray:
    """The number (T,) of the n-gram one shorter than `length` that ends just before each token, or ABSENT."""
    return np.where(text.places >= length - 1, np.roll(shorter, 1), ABSENT)


def _left_neighbours(text: _Text, grams: _Grams, longer: _Grams, length: int) -> np.ndarray:
    """In how many ways (G,) each n-gram is preceded: by different tokens, and by the start of a sequence."""
    neighbours = np.bincount(grams.numbers[longer.ends], minlength=len(grams.keys))
    neighbours[np.unique(grams.numbers[text.places == length - 1])] += 1
    return neighbours


def _level(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> _Level:
    discount = _discount(counts)
    begins = keys // vocab_size
    types = np.bincount(begins, minlength=contexts)
    totals = np.bincount(begins, weights=counts, minlength=contexts)
    return _Level(keys, np.maximum(counts - discount, 0.0), discount * types, totals)


def _discount(counts: np.ndarray) -> float:
    """What is taken off each count (G,), above 0 and below 1: n1 / (n1 + 2 n2), of n1 counts of 1 and n2 of 2."""
    ones, twos = (int(np.count_nonzero(counts == value)) for value in (1, 2))
    return ones / (ones + 2 * twos) if ones and twos else DISCOUNT


def _probabilities(text: _Text, levels: Sequence[_Level], vocab_size: int) -> np.ndarray:
    """The probability (T,) of each token: that of all tokens alike, then interpolated with each longer context."""
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
    """The number (T,) of the n-gram of each context (T,) and token (T,), or ABSENT."""
    if not len(keys):
        return np.full(len(tokens), ABSENT)
    wanted = np.where(before == ABSENT, ABSENT, before * vocab_size + tokens)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, ABSENT)
