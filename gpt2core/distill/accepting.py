"""The last filter: pairs that other contexts have too are accepted once, whichever shards they are in."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from gpt2core.distill.duplicates import normalised, repeats

EXACT, NEAR = "exact", "near"  # reasons, beside the names of FILTERS


def final_reasons(tables: Sequence[pa.Table], round: int) -> Iterator[pa.Array]:
    """Yield for each judged table its column `reason`, in which pairs that repeat another's are rejected too.

    Of like pairs the best stays accepted: the one of the highest critic score, in later rounds of the lowest ROUGE-L, and of
    equals the first. `tables` may read each table when it is asked for it: of all accepted pairs together, only a few numbers
    each are held.
    """
    places = [np.flatnonzero(table["reason"].is_null().to_numpy()) for table in tables]
    merits = [_merit(table, place, round) for table, place in zip(tables, places, strict=True)]
    rank = np.empty(sum(map(len, merits)), dtype=np.int64)
    rank[np.argsort(-np.concatenate([*merits, []]), kind="stable")] = np.arange(len(rank))
    keys = [_keys(table, place) for table, place in zip(tables, places, strict=True)]
    exact = _repeated(np.concatenate([*keys, np.empty(0, dtype=np.uint64)]), rank)

    def band(number: int) -> np.ndarray:
        found = [_band(table, place, number) for table, place in zip(tables, places, strict=True)]
        return np.asarray(np.concatenate(found)[~exact])

    near = np.zeros_like(exact)
    near[~exact] = repeats(band, rank[~exact])
    ends = np.cumsum([len(place) for place in places])
    for table, place, end in zip(tables, places, ends, strict=True):
        reasons = table["reason"].to_pylist()
        for row, number in zip(place.tolist(), range(end - len(place), end), strict=True):
            reasons[row] = EXACT if exact[number] else NEAR if near[number] else None
        yield pa.array(reasons, pa.string())


def _merit(table: pa.Table, place: np.ndarray, round: int) -> np.ndarray:
    column = table["critic"].to_numpy() if round == 1 else -table["rouge_l"].to_numpy()
    return np.asarray(column[place])


def _keys(table: pa.Table, place: np.ndarray) -> np.ndarray:
    """64 bits of the words of each pair, whichever sentence comes first."""
    chosen = table.select(["sentence1", "sentence2"]).take(place)
    pairs = zip(chosen["sentence1"].to_pylist(), chosen["sentence2"].to_pylist(), strict=True)
    texts = ("\0".join(sorted(map(normalised, pair))) for pair in pairs)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _repeated(keys: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Whether each is not the first, by rank, of those with its key."""
    order = np.lexsort((rank, keys))
    found = np.zeros(len(keys), dtype=bool)
    found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return found


def _band(table: pa.Table, place: np.ndarray, number: int) -> np.ndarray:
    lists = table["bands"].take(pa.array(place)).combine_chunks()
    return np.asarray(
        lists.flatten().to_numpy().reshape(len(place), -1)[:, number] if len(place) else np.empty(0, np.uint64)
    )
