"""Cross-fitting: each half of the examples chooses one of several settings for the other half.

The best of K scores on the same examples is too good by chance, even if all settings are alike. A score on examples that did not
choose has no such bias (Chernozhukov et al. 2018, section 3).

Legend: `K` settings, `N` examples, `S` counts of an example.
"""

import numpy as np

from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Score


def cross_fitted(counts: np.ndarray, score: Score, direction: Direction, first: np.ndarray) -> np.ndarray:
    """Return for each example the setting (N,) with the best score on the other half, given counts (K, N, S).

    `first` (N,) says which examples are in the first half. The lowest number wins a tie, and is chosen if a half is empty. NaN is
    worse than any score.
    """
    chosen = np.zeros(len(first), dtype=np.int64)
    for half in (first, ~first):
        others = counts[:, ~half].sum(axis=1, dtype=np.float64)
        if not half.all():
            scores = direction.sign * score(others)
            chosen[half] = np.where(np.isnan(scores), -np.inf, scores).argmax()
    return chosen
