"""Sampling, token by token. Each row draws from a stream of its own, so batching never changes a text."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpt2core.decoding import FILTERS
from gpt2core.decoding.batch import Batch
from gpt2core.decoding.filters import Columns
from gpt2core.decoding.penalties import penalise
from gpt2core.decoding.stop import Stop
from gpt2core.model import GPT2

LEAVING = 16  # rows that are done leave the batch when there are so many of them, or when they are half of it


def sample(model: GPT2, batch: Batch, eos: int, *, suppress: Tensor | None = None, stop: Stop | None = None) -> Tensor:
    """Draw from the tokens that each row's filter keeps; return (B, N) tokens, EOS behind the last of a row.

    Tokens of `suppress` (K,) are never drawn. Behind a row's limit, tokens have no meaning.
    """
    columns, tokens, cache = dict(batch.columns), batch.tokens.clone(), batch.cache()
    streams = [np.random.default_rng(row.seed).random(batch.steps, dtype=np.float32) for row in batch.requests]
    draws = torch.from_numpy(np.stack(streams)).to(tokens.device)
    rows = torch.arange(len(tokens), device=tokens.device)  # those still in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)
    filters = _filters(batch, rows)
    hidden = batch.hidden[:, -1]
    for step, end in enumerate(range(batch.width, tokens.shape[1])):
        scores = penalise(model.logits(hidden).float(), tokens[rows, :end], columns, suppress)
        probabilities = scores.div_(columns["temperature"]).softmax(dim=-1)
        token = draw(_kept(probabilities, columns, filters), draws[rows, step])
        tokens[rows, end] = token.where(alive, model.config.vocab_size)
        columns["drawn"] = columns["drawn"] + 1
        columns["surprise"] = columns["surprise"] - probabilities.gather(-1, token[:, None]).log2()
        alive &= (token != eos) & (step + 1 < batch.limits[rows])
        if stop is not None:
            alive &= ~stop.ended(tokens[rows, batch.width : end + 1], alive)
        left = int(alive.sum())
        if not left:
            break
        if len(rows) - left >= min(LEAVING, left):
            stay = cache.keep(alive)
            rows, token, alive = rows[stay], token[stay], alive[stay]
            columns = {key: column[stay] for key, column in columns.items()}
            filters = _filters(batch, rows)
        hidden = model(token[:, None], None, cache)[:, -1]
    new = tokens[:, batch.width :]
    return new.where(new < model.config.vocab_size, eos)


def _filters(batch: Batch, rows: Tensor) -> list[tuple[str, Tensor]]:
    """The filters in use, each with the places among `rows` that it is for."""
    names = [batch.requests[row].config.strategy for row in rows.tolist()]
    groups = {name: [place for place, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
    return [(name, torch.tensor(places, device=rows.device)) for name, places in groups.items()]


def _kept(probabilities: Tensor, columns: Columns, filters: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Filter the rows (B, V) of each strategy together."""
    if len(filters) == 1:
        return FILTERS[filters[0][0]](probabilities, columns)
    kept = torch.empty_like(probabilities)
    for name, places in filters:
        own = {key: column[places] for key, column in columns.items()}
        kept[places] = FILTERS[name](probabilities[places], own)
    return kept


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: probabilities (B, V) of any sum, uniform (B,) in [0, 1) -> tokens (B,)."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would fall past the last token that may be drawn.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
