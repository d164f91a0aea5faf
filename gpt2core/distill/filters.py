"""Filters of scored pairs; the first that rejects a pair is its reason (Jung et al. 2023, arXiv 2305.16635, section 3.3).

To add a filter: a function of `Filter`'s signature, a line in FILTERS.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.config import Thresholds
from gpt2core.distill.dedup import BANDS, bands, components
from gpt2core.distill.shards import FILTERED, PAIRS

#: Numbers of N pairs by name, each (N,): those of PAIRS, `component` and `rank`, the place of the pair's id among all.
Columns = Mapping[str, np.ndarray]

#: Columns, thresholds -> which pairs (N,) are kept.
Filter = Callable[[Columns, Thresholds], np.ndarray]

_SCORES = ("round", "length_ratio", "forward", "backward", "rouge_l", "numbers", "critic")


def length(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Neither sentence is much longer, in characters."""
    ratio = columns["length_ratio"]
    return np.asarray((ratio >= thresholds.min_length_ratio) & (ratio <= thresholds.max_length_ratio))


def forward(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """The first sentence entails the second."""
    return np.asarray(columns["forward"] >= thresholds.tau)


def backward(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """The second sentence entails the first."""
    return np.asarray(columns["backward"] >= thresholds.tau)


def duplicate(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """One pair of a component of mutual entailment is kept: they all say the same.

    It is the best of those that pass every other filter, the later ones too, so this filter never costs a component its
    only good pair: a pair is a duplicate if and only if another of its component is accepted. Where none of a component
    passes, none of it is a duplicate, and each has the reason of its own. Best is the highest critic; from round 2 on, in
    self-distillation, the lowest ROUGE-L; of equals the lowest id.
    """
    component, others = columns["component"], [keep for keep in applied(thresholds).values() if keep is not duplicate]
    accepted = (component >= 0) & np.all([keep(columns, thresholds) for keep in others], axis=0)
    rows = np.flatnonzero(accepted)
    badness = np.where(columns["round"] > 1, columns["rouge_l"], -columns["critic"])[rows]
    best_first = rows[np.lexsort((columns["rank"][rows], badness, component[rows]))]
    filled, first = np.unique(component[best_first], return_index=True)
    kept = ~np.isin(component, filled)
    kept[best_first[first]] = True
    return kept


def numbers(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Both name the same numbers."""
    return columns["numbers"]


def rouge(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """The two do not share too many words."""
    return np.asarray(columns["rouge_l"] <= thresholds.max_rouge)


def critic(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """The critic's score is above tau: D = {(x, y') : s > tau}."""
    return np.asarray(columns["critic"] > thresholds.tau)


#: In order: the first that rejects is the reason.
FILTERS: dict[str, Filter] = {
    "length": length,
    "forward": forward,
    "backward": backward,
    "duplicate": duplicate,
    "numbers": numbers,
    "rouge": rouge,
    "critic": critic,
}

#: What `Thresholds.filters` calls basic.
BASIC = ("length", "forward", "backward", "critic")


def applied(thresholds: Thresholds) -> dict[str, Filter]:
    """The filters that these thresholds ask for, in order."""
    return {name: keep for name, keep in FILTERS.items() if thresholds.filters == "all" or name in BASIC}


def filter_pairs(pairs: pa.Table, thresholds: Thresholds) -> pa.Table:
    """Return pairs of the schema PAIRS as FILTERED, in the same order: `reason` names the first filter that rejects, or is null.

    All pairs of a context must be in the table. `component` numbers are of this table; -1 is a pair whose sentences are in
    two. `bands` are those of accepted pairs, else null.
    """
    pairs = pairs.select(PAIRS.names)
    columns = _columns(pairs, thresholds)
    names = list(applied(thresholds))
    reason = np.full(len(pairs), -1)
    for number in reversed(range(len(names))):
        reason[~FILTERS[names[number]](columns, thresholds)] = number
    reasons = pa.array(names, pa.string()).take(pa.array(reason, pa.int64(), mask=reason < 0))
    arrays = [*pairs.columns, pa.array(columns["component"], pa.int64()), reasons, _bands(pairs, reason < 0)]
    return pa.Table.from_arrays(arrays, schema=FILTERED)


def _columns(pairs: pa.Table, thresholds: Thresholds) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {name: pairs[name].to_numpy() for name in _SCORES}
    rank = np.empty(len(pairs), dtype=np.int64)
    rank[pc.sort_indices(pairs["id"]).to_numpy()] = np.arange(len(pairs))
    mutual = forward(columns, thresholds) & backward(columns, thresholds)
    return columns | {"rank": rank, "component": _components(pairs, mutual)}


def _components(pairs: pa.Table, mutual: np.ndarray) -> np.ndarray:
    """The component (N,) of each pair, -1 where its sentences are in two.

    A node is a sentence of one context and round, by its text: what is written twice is one sentence.
    """
    count = len(pairs)
    texts = pa.chunked_array([*pairs["sentence1"].chunks, *pairs["sentence2"].chunks], pa.string())
    sentence, context = _codes(texts), _codes(pairs["context"])
    place = context * (int(pairs["round"].to_numpy().max(initial=0)) + 1) + pairs["round"].to_numpy()
    names = np.tile(place, 2) * (int(sentence.max(initial=0)) + 1) + sentence
    nodes, node = np.unique(names, return_inverse=True)
    first, second = node[:count], node[count:]
    component = components(len(nodes), first[mutual], second[mutual])
    return np.where(component[first] == component[second], component[first], -1)


def _codes(texts: pa.ChunkedArray) -> np.ndarray:
    """A number for each text, the same for equal ones."""
    return np.asarray(texts.combine_chunks().dictionary_encode().indices.to_numpy(), dtype=np.int64)


def _bands(pairs: pa.Table, accepted: np.ndarray) -> pa.Array:
    """Keys that pairs share with near duplicates in other contexts: a list of BANDS for those that pass, null for others."""
    kept = pairs.filter(pa.array(accepted))
    keys = bands(kept["sentence1"].to_pylist(), kept["sentence2"].to_pylist())
    offsets = pa.array(np.concatenate([[0], BANDS * accepted.cumsum()]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(keys.ravel(), pa.uint64()), mask=pa.array(~accepted))
