"""The last filter: pairs that other contexts have too are accepted once, whichever shards they are in."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.duplicates import BANDS, normalised, repeats

EXACT, NEAR = "exact", "near"  # reasons, beside the names of FILTERS


def final_reasons(tables: Sequence[pa.Table], round: int) -> Iterator[pa.Array]:
    """Yield for each judged table its column `reason`, in which pairs that repeat another's are rejected too.

    Of like pairs the best stays accepted: the one of the highest critic score, in later rounds of the lowest ROUGE-L, and of
    equals the first. Each table is asked for twice and may be read then: of all accepted pairs together, some 150 bytes each
    are held.
    """
    found = [_accepted(table, round) for table in tables]
    merits, keys, bands = (np.concatenate(columns) for columns in zip(*found, strict=True))
    rank = np.empty(len(merits), dtype=np.int64)
    rank[np.argsort(-merits, kind="stable")] = np.arange(len(rank))
    exact = _repeated(keys, rank)
    near = np.zeros_like(exact)
    near[~exact] = repeats(lambda number: bands[~exact, number], rank[~exact])
    start = 0
    for table, (merits, *_) in zip(tables, found, strict=True):
        reasons = table["reason"].to_pylist()
        rows = (row for row, reason in enumerate(reasons) if reason is None)
        for number, row in enumerate(list(rows), start=start):
            reasons[row] = EXACT if exact[number] else NEAR if near[number] else None
        start += len(merits)
        yield pa.array(reasons, pa.string())


def _accepted(table: pa.Table, round: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the pairs (N,) of a table that nothing rejected: how good they are, their words' keys, and keys by band (N, BANDS)."""
    chosen = table.filter(pc.is_null(table["reason"]))
    merits = chosen["critic"].to_numpy() if round == 1 else -chosen["rouge_l"].to_numpy()
    bands = chosen["bands"].combine_chunks().flatten().to_numpy().reshape(len(chosen), BANDS)
    return merits, _keys(chosen), bands


def _keys(pairs: pa.Table) -> np.ndarray:
    """64 bits of the words of each pair, whichever sentence comes first."""
    sentences = zip(pairs["sentence1"].to_pylist(), pairs["sentence2"].to_pylist(), strict=True)
    texts = ("\0".join(sorted(map(normalised, pair))) for pair in sentences)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _repeated(keys: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Whether each is not the first, by rank, of those with its key."""
    order = np.lexsort((rank, keys))
    found = np.zeros(len(keys), dtype=bool)
    found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return found
