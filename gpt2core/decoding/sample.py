"""Sampling. Each row has its own stream of random numbers, so batching never changes a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2core.decoding import DECODERS, Keep
from gpt2core.decoding.batch import Batch, grouped
from gpt2core.decoding.filters import Columns, penalise
from gpt2core.model import GPT2

LEAVING = 16  # finished rows leave the batch when they are this many, or half of it
TOGETHER = 2**20  # probabilities that are filtered at once; as many fit into the CPU's cache

#: The filter of a strategy, the places of its rows, and their parameters.
Part = tuple[Keep, Tensor, Columns]


@dataclass(frozen=True, eq=False)
class Stop:
    """A stopping criterion.

    To save time, `done` is called only if the last token is in `opens` and the one before it in `closes`, boolean tables (V,).
    If they are too narrow, a row only runs longer than needed.
    """

    closes: Tensor
    opens: Tensor
    done: Callable[[Sequence[int]], bool]  # whether these new tokens, and so all their continuations, are finished

    def to(self, device: torch.device) -> "Stop":
        """Return a copy with its tables on `device`."""
        return Stop(self.closes.to(device), self.opens.to(device), self.done)

    def ended(self, tokens: Tensor, alive: Tensor) -> Tensor:
        """Return which of the `alive` rows (B,) are finished, given all new tokens (B, N)."""
        ended = torch.zeros_like(alive)
        if tokens.shape[1] > 1:
            places = alive.nonzero()[:, 0]  # tokens of other rows may be padding, which no table has
            places = places[self.closes[tokens[places, -2]] & self.opens[tokens[places, -1]]]
            done = [self.done(ids) for ids in tokens[places].tolist()]
            ended[places] = torch.tensor(done, dtype=torch.bool).to(ended)
        return ended


def sample(
    model: GPT2, batch: Batch, ends: Tensor, *, suppress: Tensor | None = None, stop: Stop | None = None
) -> Tensor:
    """Sample from the tokens that the filter of each row keeps; return (B, N) tokens, each finished row filled up with EOS.

    Tokens of `suppress` (K,) are never drawn. A row ends with a token of `ends` (K,), at its limit, or when `stop` says so;
    tokens after its limit are meaningless.
    """
    columns, tokens, cache = dict(batch.columns), batch.tokens.clone(), batch.cache()
    streams = [np.random.default_rng(row.seed).random(batch.steps, dtype=np.float32) for row in batch.requests]
    draws = torch.from_numpy(np.stack(streams)).to(tokens.device)
    rows = torch.arange(len(tokens), device=tokens.device)  # the rows that are still in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)
    parts = _parts(batch, rows, columns, model.config.vocab_size)
    hidden = batch.hidden[:, -1]
    for step, end in enumerate(range(batch.width, tokens.shape[1])):
        scores = penalise(model.logits(hidden).float(), tokens[rows, :end], columns, suppress)
        token, surprise = _drawn(scores, draws[rows, step], columns, parts)
        tokens[rows, end] = token.where(alive, model.config.vocab_size)
        columns |= {"drawn": columns["drawn"] + 1, "surprise": columns["surprise"] + surprise}
        alive &= ~torch.isin(token, ends) & (step + 1 < batch.limits[rows])
        if stop is not None:
            alive &= ~stop.ended(tokens[rows, batch.width : end + 1], alive)
        left = int(alive.sum())
        if not left:
            break
        if len(rows) - left >= min(LEAVING, left):
            stay = cache.keep(alive)
            rows, token, alive = rows[stay], token[stay], alive[stay]
            columns = {key: column[stay] for key, column in columns.items()}
            parts = _parts(batch, rows, columns, model.config.vocab_size)
        hidden = model(token[:, None], None, cache)[:, -1]
    new = tokens[:, batch.width :]
    return new.where(new < model.config.vocab_size, ends[0])


def _parts(batch: Batch, rows: Tensor, columns: Columns, vocabulary: int) -> list[Part]:
    """Group the rows by strategy, in parts that are small enough to be filtered at once."""
    names = [batch.requests[row].config.strategy for row in rows.tolist()]
    parts: list[Part] = []
    for name, places in grouped(range(len(names)), names.__getitem__).items():
        keep = DECODERS[name].keep
        assert keep is not None
        for part in torch.tensor(places, device=rows.device).split(max(1, TOGETHER // vocabulary)):
            parts.append((keep, part, {key: column[part] for key, column in columns.items()}))
    return parts


def _drawn(scores: Tensor, uniform: Tensor, columns: Columns, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """Draw tokens (B,) from logits (B, V) by uniform numbers (B,); return them and their surprise (B, 1) in bits."""
    token, surprise = scores.new_empty(len(scores), dtype=torch.long), scores.new_empty(len(scores), 1)
    for keep, places, own in parts:
        so_far = {key: columns[key][places] for key in ("drawn", "surprise")}
        probabilities = scores[places].div_(own["temperature"]).softmax(dim=-1)
        drawn = draw(keep(probabilities, {**own, **so_far}), uniform[places])
        token[places], surprise[places] = drawn, -probabilities.gather(-1, drawn[:, None]).log2()
    return token, surprise


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw tokens (B,) by inverse transform sampling: probabilities (B, V) of any sum, `uniform` (B,) in [0, 1)."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # A product that is rounded up to the total would select a token of probability 0.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
