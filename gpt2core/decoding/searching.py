"""Search procedures: deterministic decoding that follows several hypotheses per text."""

from collections.abc import Callable

from torch import Tensor

from gpt2core.decoding.batch import Batch
from gpt2core.model import GPT2

MOST = 512  # hypotheses at once; each has its own KV cache

#: (model, rows after prefill, tokens (K,) that end a text) -> new tokens (B, N); those after an end token are cut off.
Search = Callable[[GPT2, Batch, Tensor], Tensor]

#: A Search whose last argument is the number of hypotheses per row, the same for all rows of the batch.
Procedure = Callable[[GPT2, Batch, Tensor, int], Tensor]


def search(procedure: Procedure, key: str) -> Search:
    """Return `procedure` as a Search in which the value of `key` is the number of hypotheses of a row.

    Rows with the same prompt and configuration are searched once, rows with the same number of hypotheses together.
    """

    def run(model: GPT2, batch: Batch, ends: Tensor) -> Tensor:
        new = ends[:1].expand(len(batch.tokens), batch.steps).clone()
        for width, twins in _by_width(batch, key).items():
            size = max(1, MOST // width)
            for part in (twins[start : start + size] for start in range(0, len(twins), size)):
                texts = procedure(model, batch.subset([rows[0] for rows in part]), ends, width)
                for rows, ids in zip(part, texts, strict=True):
                    new[rows, : len(ids)] = ids
        return new

    return run


def _by_width(batch: Batch, key: str) -> dict[int, list[list[int]]]:
    """Group the rows by the value of `key`, in lists of rows that have the same result."""
    twins: dict[object, list[int]] = {}
    for row, request in enumerate(batch.requests):
        twins.setdefault((request.prompt, request.config), []).append(row)
    widths: dict[int, list[list[int]]] = {}
    for rows in twins.values():
        widths.setdefault(getattr(batch.requests[rows[0]].config, key), []).append(rows)
    return widths
