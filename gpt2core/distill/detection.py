"""The bridge to paraphrase detection: rejected pairs that look like paraphrases and are none."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.distill.duplicates import normalised

#: From this ROUGE-L on, a pair shares so many words that a classifier cannot tell it from a paraphrase by their count.
MIN_ROUGE = 0.4
#: Below this, the critic thinks a direction unlikely. Between it and tau the critic is unsure, and a wrong label may be right.
MAX_ENTAILMENT = 0.5
#: Who must have rejected it: what was too long or had a twin may well be a paraphrase.
ENTAILMENT = ("forward", "backward")


def hard_negatives(judged: pa.Table, count: int) -> np.ndarray:
    """Return numbers of at most `count` rows of a table of the schema JUDGED that are no paraphrases but share many words.

    The hardest come first: by ROUGE-L, the highest first, then by id. None is, by its words and in either order, an accepted
    pair or another of them; none has two equal sentences.
    """
    taken = {_words(judged, int(row)) for row in np.flatnonzero(judged["reason"].is_null().to_numpy())}
    chosen: list[int] = []
    for row in _hardest_first(judged):
        if len(chosen) >= count:
            break
        pair = _words(judged, int(row))
        if len(pair) == 2 and pair not in taken:
            taken.add(pair)
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def _hardest_first(judged: pa.Table) -> np.ndarray:
    """Numbers of the rows whose scores make them hard negatives."""
    hard = pc.and_kleene(
        pc.is_in(judged["reason"], pa.array(ENTAILMENT)), pc.greater_equal(judged["rouge_l"], MIN_ROUGE)
    )
    for direction in ENTAILMENT:
        hard = pc.and_kleene(hard, pc.less(judged[direction], MAX_ENTAILMENT))
    rows = np.flatnonzero(hard.to_numpy())
    order = pc.sort_indices(judged.take(pa.array(rows)), sort_keys=[("rouge_l", "descending"), ("id", "ascending")])
    return np.asarray(rows[order.to_numpy()])


def _words(judged: pa.Table, row: int) -> frozenset[str]:
    """A pair by its words, in no order; one text alone where both sentences have the same."""
    return frozenset(normalised(judged[side][row].as_py()) for side in ("sentence1", "sentence2"))
