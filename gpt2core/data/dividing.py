"""Texts that choose and texts that judge: a split is divided by what its texts are, not by where they stand.

A text is its tokens: equal texts are never divided. All that decides where a text comes to is its digest, how many texts there
are, and how many of them (and how many equal ones) have digests before its own. So neither the order of the rows nor any label
changes anything.
"""

import heapq
from collections import Counter

import numpy as np

from gpt2core.data.tokens import Tokens
from gpt2core.errors import ConfigError

SMALL = 60  # texts; a split of fewer is not halved


def halves(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Return the texts with the first digests, half of them, and the rest; all and none where there are fewer than SMALL.

    Equal texts at the border all belong to the first half. Each half is in the order of the split.
    """
    first = in_first_half(tokens.digests)
    return tokens.take(np.flatnonzero(first)), tokens.take(np.flatnonzero(~first))


def in_first_half(digests: np.ndarray) -> np.ndarray:
    """Whether each text (N,) is in the first half."""
    if len(digests) < SMALL:
        return np.ones(len(digests), dtype=bool)
    last = sorted(digests)[(len(digests) - 1) // 2]
    return np.array([digest <= last for digest in digests])


def without_fold(tokens: Tokens, folds: int, fold: int) -> tuple[Tokens, Tokens]:
    """Return the texts of all folds but one, and those of that fold, 1 to `folds`; raise ConfigError as `fold_numbers`."""
    left_out = fold_numbers(tokens.digests, folds) == fold
    return tokens.take(np.flatnonzero(~left_out)), tokens.take(np.flatnonzero(left_out))


def fold_numbers(digests: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each text (N,), 1 to `folds`.

    Equal texts are of one fold. The largest groups of them come first, then the first digests, each into the fold that is
    smallest by then: no fold has more texts than another beyond those of the largest group; where no texts are equal, at
    most one more. Raises ConfigError for more folds than there are different texts.
    """
    sizes = Counter(digests)
    if len(sizes) < folds:
        raise ConfigError(
            f"The value of `folds` is {folds}, but must be at most {len(sizes)}, the different texts of the train split"
        )
    smallest = [(0, fold) for fold in range(1, folds + 1)]
    fold_of = {}
    for digest in sorted(sizes, key=lambda digest: (-sizes[digest], digest)):
        size, fold = heapq.heappop(smallest)
        fold_of[digest] = fold
        heapq.heappush(smallest, (size + sizes[digest], fold))
    return np.array([fold_of[digest] for digest in digests], dtype=np.int64)
