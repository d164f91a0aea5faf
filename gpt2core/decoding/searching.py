"""Search procedures: deterministic decoding that follows several hypotheses per text."""

import functools
from collections.abc import Callable

from torch import Tensor

from gpt2core.decoding.batch import Batch, grouped
from gpt2core.model import GPT2

MOST = 512  # hypotheses at once; each has its own KV cache

#: (model, rows after prefill, tokens (K,) that end a text) -> new tokens (B, N); those after an end token are cut off.
Search = Callable[[GPT2, Batch, Tensor], Tensor]

#: A Search whose last argument is the number of hypotheses per row, the same for all rows of the batch.
Procedure = Callable[[GPT2, Batch, Tensor, int], Tensor]


def search(procedure: Procedure, key: str) -> Search:
    """Return `procedure` as a Search in which the value of `key` is the number of hypotheses of a row."""

    @functools.wraps(procedure)
    def run(model: GPT2, batch: Batch, ends: Tensor) -> Tensor:
        new = ends[:1].expand(len(batch.tokens), batch.steps).clone()
        requests = batch.requests
        # Rows with the same prompt and configuration have the same result.
        same = grouped(range(len(requests)), lambda row: (requests[row].prompt, requests[row].config)).values()
        for width, twins in grouped(same, lambda rows: int(getattr(requests[rows[0]].config, key))).items():
            size = max(1, MOST // width)
            for part in (twins[start : start + size] for start in range(0, len(twins), size)):
                texts = procedure(model, batch.subset([rows[0] for rows in part]), ends, width)
                for rows, ids in zip(part, texts, strict=True):
                    new[rows, : len(ids)] = ids
        return new

    return run
