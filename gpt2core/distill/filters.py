"""Filters of scored pairs; the first that rejects a pair is its reason (Jung et al. 2023, arXiv 2305.16635, section 3.3).

To add a filter: a function of `Filter`'s signature, its name in _IN_ORDER.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.config import Thresholds
from gpt2core.distill.dedup import BANDS, bands, components
from gpt2core.distill.shards import FILTERED, PAIRS

#: Numeric columns (N,) of N pairs by name: those of PAIRS, `component`, and `rank`, the place of the pair's id in sorted order.
Columns = Mapping[str, np.ndarray]

#: Columns, thresholds -> which pairs (N,) are kept.
Filter = Callable[[Columns, Thresholds], np.ndarray]

_SCORES = ("round", "length_ratio", "forward", "backward", "rouge_l", "numbers", "critic")


def length(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep pairs of sentences with similar numbers of characters."""
    ratio = columns["length_ratio"]
    return np.asarray((ratio >= thresholds.min_length_ratio) & (ratio <= thresholds.max_length_ratio))


def forward(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep pairs whose first sentence entails the second."""
    return np.asarray(columns["forward"] >= thresholds.tau)


def backward(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep pairs whose second sentence entails the first."""
    return np.asarray(columns["backward"] >= thresholds.tau)


def duplicate(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep the best pair of each component of mutual entailment, whose sentences all say the same.

    Only pairs that pass every other filter, also the later ones, compete. So a pair is a duplicate if and only if another pair
    of its component is accepted, and in a component without an accepted pair each pair has a reason of its own. The best pair
    has the highest critic score, or from round 2 on (self-distillation) the lowest ROUGE-L; of equals, the lowest id.
    """
    component, others = columns["component"], [keep for keep in applied(thresholds).values() if keep is not duplicate]
    accepted = (component >= 0) & np.all([keep(columns, thresholds) for keep in others], axis=0)
    rows = np.flatnonzero(accepted)
    badness = np.where(columns["round"] > 1, columns["rouge_l"], -columns["critic"])[rows]
    best_first = rows[np.lexsort((columns["rank"][rows], badness, component[rows]))]
    with_accepted, first = np.unique(component[best_first], return_index=True)
    kept = ~np.isin(component, with_accepted)
    kept[best_first[first]] = True
    return kept


def numbers(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep pairs whose sentences name the same numbers."""
    return columns["numbers"]


def rouge(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep pairs whose sentences do not share too many words."""
    return np.asarray(columns["rouge_l"] <= thresholds.max_rouge)


def critic(columns: Columns, thresholds: Thresholds) -> np.ndarray:
    """Keep pairs with a critic score above tau: D = {(x, y') : s > tau}."""
    return np.asarray(columns["critic"] > thresholds.tau)


_IN_ORDER = (length, forward, backward, duplicate, numbers, rouge, critic)
FILTERS: dict[str, Filter] = {keep.__name__: keep for keep in _IN_ORDER}

#: The filters of `Thresholds.filters` = "basic".
BASIC = ("length", "forward", "backward", "critic")


def applied(thresholds: Thresholds) -> dict[str, Filter]:
    """Return the filters that the thresholds select, in order."""
    return {name: keep for name, keep in FILTERS.items() if thresholds.filters == "all" or name in BASIC}


def filter_pairs(pairs: pa.Table, thresholds: Thresholds) -> pa.Table:
    """Return pairs of the schema PAIRS as FILTERED, in the same order; `reason` is the first filter that rejects, or null.

    The table must hold all pairs of a context. `component` is numbered within the table, and -1 if the pair's sentences are in
    different components. `bands` is null for rejected pairs.
    """
    pairs = pairs.select(PAIRS.names)
    columns: dict[str, np.ndarray] = {name: pairs[name].to_numpy() for name in _SCORES}
    rank = columns["rank"] = np.empty(len(pairs), dtype=np.int64)
    rank[pc.sort_indices(pairs["id"]).to_numpy()] = np.arange(len(pairs))
    mutual = forward(columns, thresholds) & backward(columns, thresholds)
    columns["component"] = _components(pairs, mutual)
    names = list(applied(thresholds))
    reason = np.full(len(pairs), -1)
    for number in reversed(range(len(names))):
        reason[~FILTERS[names[number]](columns, thresholds)] = number
    reasons = pa.array(names, pa.string()).take(pa.array(reason, pa.int64(), mask=reason < 0))
    arrays = [*pairs.columns, pa.array(columns["component"], pa.int64()), reasons, _bands(pairs, reason < 0)]
    return pa.Table.from_arrays(arrays, schema=FILTERED)


def _components(pairs: pa.Table, mutual: np.ndarray) -> np.ndarray:
    """Return the component (N,) of each pair, or -1 if its sentences are in different components.

    A node is a distinct sentence of one context and round; an edge is a pair of `mutual` (N,) entailment.
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
    """Return a number for each text, the same for equal texts."""
    return np.asarray(texts.combine_chunks().dictionary_encode().indices.to_numpy(), dtype=np.int64)


def _bands(pairs: pa.Table, accepted: np.ndarray) -> pa.Array:
    """Return the band keys of each accepted pair as a list, null for others."""
    kept = pairs.filter(pa.array(accepted))
    keys = bands(kept["sentence1"].to_pylist(), kept["sentence2"].to_pylist())
    offsets = pa.array(np.concatenate([[0], BANDS * accepted.cumsum()]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(keys.ravel(), pa.uint64()), mask=pa.array(~accepted))
