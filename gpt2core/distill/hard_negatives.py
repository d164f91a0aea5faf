"""Hard negatives for paraphrase detection: rejected pairs that look like paraphrases and are none."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.dedup import normalised

#: From this ROUGE-L on, a pair shares so many words that a classifier cannot tell it from a paraphrase by their count.
MIN_ROUGE = 0.4
#: Below this, the critic thinks a direction unlikely. Between it and tau the critic is unsure, and a wrong label may be right.
MAX_ENTAILMENT = 0.5
#: Who must have rejected it: what was too long or had a twin may well be a paraphrase.
ENTAILMENT = ("forward", "backward")


def hard_negatives(filtered: pa.Table, accepted: pa.Table, count: int) -> np.ndarray:
    """Return numbers of at most `count` rows of a table of the schema FILTERED that are no paraphrases but share many words.

    The hardest come first: by ROUGE-L, the highest first, then by id. None is, by its words and in either order, one of the
    `accepted` pairs of the shard or another of them; none has two equal sentences.
    """
    taken = {_words(accepted, row) for row in range(len(accepted))}
    chosen: list[int] = []
    for row in _hardest_first(filtered):
        if len(chosen) >= count:
            break
        pair = _words(filtered, int(row))
        if len(pair) == 2 and pair not in taken:
            taken.add(pair)
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def _hardest_first(filtered: pa.Table) -> np.ndarray:
    """Numbers of the rows whose scores make them hard negatives."""
    hard = pc.and_kleene(
        pc.is_in(filtered["reason"], pa.array(ENTAILMENT)), pc.greater_equal(filtered["rouge_l"], MIN_ROUGE)
    )
    for direction in ENTAILMENT:
        hard = pc.and_kleene(hard, pc.less(filtered[direction], MAX_ENTAILMENT))
    rows = np.flatnonzero(hard.to_numpy())
    order = pc.sort_indices(filtered.take(pa.array(rows)), sort_keys=[("rouge_l", "descending"), ("id", "ascending")])
    return np.asarray(rows[order.to_numpy()])


def _words(pairs: pa.Table, row: int) -> frozenset[str]:
    """A pair by its words, in no order; one text alone where both sentences have the same."""
    return frozenset(normalised(pairs[side][row].as_py()) for side in ("sentence1", "sentence2"))
