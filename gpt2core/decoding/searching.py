"""Search procedures follow several hypotheses of a text at once, and draw nothing."""

from collections.abc import Callable

from torch import Tensor

from gpt2core.decoding.batch import Batch
from gpt2core.model import GPT2

MOST = 512  # hypotheses that are followed at once: each has a cache of its own

#: Model, rows with their prompts, tokens (K,) that end a text -> new tokens (B, N); what follows such a token is cut off.
Search = Callable[[GPT2, Batch, Tensor], Tensor]

#: The same for rows that all follow so many hypotheses, the last argument.
Procedure = Callable[[GPT2, Batch, Tensor, int], Tensor]


def search(procedure: Procedure, key: str) -> Search:
    """Make a Search of a procedure that follows as many hypotheses of a row as the value of `key`.

    Rows of the same prompt and configuration are searched once, those of the same width together.
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
    """The rows by the value of `key`; those that are searched once are a list."""
    twins: dict[object, list[int]] = {}
    for row, request in enumerate(batch.requests):
        twins.setdefault((request.prompt, request.config), []).append(row)
    widths: dict[int, list[list[int]]] = {}
    for rows in twins.values():
        widths.setdefault(getattr(batch.requests[rows[0]].config, key), []).append(rows)
    return widths
