"""Hard negatives for paraphrase detection: rejected pairs that share many words but differ in meaning."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.dedup import normalised

#: From this ROUGE-L on, a pair shares so many words that counting them does not tell it from a paraphrase.
MIN_ROUGE = 0.4
#: Below this, the critic thinks entailment unlikely. Between this and tau it is unsure, so the label 0 could be wrong.
MAX_ENTAILMENT = 0.5
#: The filters that must have rejected the pair: one rejected for its length or as a duplicate may be a paraphrase.
ENTAILMENT = ("forward", "backward")


def hard_negatives(filtered: pa.Table, accepted: pa.Table, count: int) -> np.ndarray:
    """Return the row numbers of up to `count` hard negatives in a table of the schema FILTERED.

    The hardest come first: the highest ROUGE-L, then the lowest id. Compared by words and in either order, each differs from
    all `accepted` pairs of the shard and from the others, and its two sentences differ.
    """
    taken = {_words(accepted, row) for row in range(len(accepted))}
    chosen: list[int] = []
    for row in _hardest_first(filtered).tolist():
        if len(chosen) >= count:
            break
        pair = _words(filtered, row)
        if len(pair) == 2 and pair not in taken:
            taken.add(pair)
            chosen.append(row)
    return np.array(chosen, dtype=np.int64)


def _hardest_first(filtered: pa.Table) -> np.ndarray:
    rejected = pc.is_in(filtered["reason"], pa.array(ENTAILMENT))
    hard = pc.and_kleene(rejected, pc.greater_equal(filtered["rouge_l"], MIN_ROUGE))
    for direction in ENTAILMENT:
        hard = pc.and_kleene(hard, pc.less(filtered[direction], MAX_ENTAILMENT))
    rows = np.flatnonzero(hard.to_numpy())
    order = pc.sort_indices(filtered.take(pa.array(rows)), sort_keys=[("rouge_l", "descending"), ("id", "ascending")])
    return np.asarray(rows[order.to_numpy()])


def _words(pairs: pa.Table, row: int) -> frozenset[str]:
    """Return the normalised sentences of a pair: one text if both have the same words."""
    return frozenset(normalised(pairs[side][row].as_py()) for side in ("sentence1", "sentence2"))
