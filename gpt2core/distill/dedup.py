"""Near duplicates of pairs from different contexts: MinHash and bands (Broder 1997; Leskovec et al. 2014, section 3.4)."""

import hashlib
from collections.abc import Sequence

import numpy as np

from gpt2core.distill.text import words

BANDS, ROWS = 16, 8
SHINGLE = 3  # words
_SEED = 11711


def normalised(text: str) -> str:
    """Return the words of a text, casefolded and without punctuation, joined by single spaces."""
    return " ".join(words(text))


def bands(sentence1s: Sequence[str], sentence2s: Sequence[str]) -> np.ndarray:
    """Return keys (N, BANDS), uint64, of N pairs; pairs that share the key of a band are near duplicates.

    Each pair is the set of the 3-word shingles of both sentences (all words of a shorter sentence), so swapping its sentences
    changes no key. Sets of Jaccard similarity s share a key with probability 1 - (1 - s^8)^16: 0.06 at s = 0.5, 0.61 at 0.7,
    0.95 at 0.8, 1.00 at 0.9. Keys are the same in every process and on every machine.
    """
    from datasketch import MinHash  # imports most of SciPy: nearly a second for each process that imports the tasks

    keys = np.empty((len(sentence1s), BANDS), dtype=np.uint64)
    shingles = (_shingles(*pair) for pair in zip(sentence1s, sentence2s, strict=True))
    sketches = MinHash.generator(shingles, num_perm=BANDS * ROWS, seed=_SEED, scheme="affine32")
    for row, sketch in enumerate(sketches):
        values = sketch.hashvalues.astype("<u4").reshape(BANDS, ROWS)
        digests = [hashlib.blake2b(band.tobytes(), digest_size=8).digest() for band in values]
        keys[row] = np.frombuffer(b"".join(digests), dtype="<u8")
    return keys


def _shingles(*texts: str) -> list[bytes]:
    starts = [(tokens, start) for tokens in map(words, texts) for start in range(max(1, len(tokens) - SHINGLE + 1))]
    return sorted({" ".join(tokens[start : start + SHINGLE]).encode() for tokens, start in starts})


def duplicates(keys: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return which pairs (N,) are not the best of their group: the one with the lowest `rank` (N,), or the first of equals.

    Pairs that share a key in any column of `keys` (N, BANDS) are in one group, and so are pairs linked through others.
    """
    group = np.arange(len(rank))
    for band in keys.T:
        group = _merged(group, band)
    best_first = np.lexsort((rank, group))
    _, best = np.unique(group[best_first], return_index=True)
    worse = np.ones(len(rank), dtype=bool)
    worse[best_first[best]] = False
    return worse


def _merged(group: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Merge the groups (N,) that share a key; return the new groups, numbered from 0."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if not len(same):
        return group
    return np.asarray(components(int(group.max()) + 1, group[order[same]], group[order[same + 1]])[group])


def components(count: int, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the number (count,) of each node's connected component; edge e joins nodes starts[e] and ends[e]."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(count, count))
    return np.asarray(connected_components(graph.tocsr(), directed=False)[1], dtype=np.int64)
