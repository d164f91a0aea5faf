"""Division of a split into halves or folds by the digests of its texts, whatever their order; equal texts stay together."""

import heapq
from collections import Counter

import numpy as np

from gpt2core.data.tokens import Tokens
from gpt2core.errors import ConfigError

SMALL = 60  # splits with fewer texts are not halved


def halves(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Return the half of the texts with the smaller digests, and the rest, in order; all and none for fewer than SMALL."""
    first = in_first_half(tokens.digests)
    return tokens.take(np.flatnonzero(first)), tokens.take(np.flatnonzero(~first))


def in_first_half(digests: np.ndarray) -> np.ndarray:
    """Whether each text (N,) is in the first half; all are if there are fewer than SMALL."""
    return np.ones(len(digests), dtype=bool) if len(digests) < SMALL else has_smaller_digest(digests)


def has_smaller_digest(digests: np.ndarray) -> np.ndarray:
    """Whether each of N > 0 texts is in the half with the smaller digests, however few texts there are."""
    last = sorted(digests)[(len(digests) - 1) // 2]
    return np.array([digest <= last for digest in digests])


def evenly(size: int, count: int) -> list[int]:
    """Return `count` of the places 0 to `size` - 1, evenly spaced."""
    return [(2 * number + 1) * size // (2 * count) for number in range(count)]


def without_fold(tokens: Tokens, folds: int, fold: int) -> tuple[Tokens, Tokens]:
    """Return the texts of all folds but `fold`, from 1 to `folds`, and those of `fold`; raise ConfigError as `fold_numbers`."""
    left_out = fold_numbers(tokens.digests, folds) == fold
    return tokens.take(np.flatnonzero(~left_out)), tokens.take(np.flatnonzero(left_out))


def fold_numbers(digests: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each text (N,), from 1 to `folds`; raise ConfigError for more folds than distinct texts.

    Groups of equal texts are assigned to the fold that is smallest so far, from the largest group to the smallest, by ascending
    digest within a size. Fold sizes differ by at most the size of the largest group.
    """
    sizes = Counter(digests)
    if len(sizes) < folds:
        raise ConfigError(
            f"The value of `folds` is {folds}, but must be at most {len(sizes)}, the number of distinct texts in the train split"
        )
    smallest = [(0, fold) for fold in range(1, folds + 1)]
    fold_of = {}
    for digest in sorted(sizes, key=lambda digest: (-sizes[digest], digest)):
        size, fold = heapq.heappop(smallest)
        fold_of[digest] = fold
        heapq.heappush(smallest, (size + sizes[digest], fold))
    return np.array([fold_of[digest] for digest in digests], dtype=np.int64)
