"""Sampling. Each row has its own stream of random numbers, so batching never changes a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2core.decoding import DECODERS, Keep
from gpt2core.decoding.batch import Batch, grouped, looks
from gpt2core.decoding.filters import Columns, penalise
from gpt2core.decoding.guide import Guide, weights
from gpt2core.model import GPT2
from gpt2core.tokenizer import Tokenizer

LEAVING = 16  # finished rows leave the batch when they are this many, or half of it
TOGETHER = 2**20  # probabilities that are filtered at once; as many fit into the CPU's cache

#: The filter of a strategy, the places of its rows, and their parameters.
Part = tuple[Keep, Tensor | slice, Columns]


@dataclass(frozen=True, eq=False)
class Stop:
    """A stopping criterion.

    To save time, `done` is called only if the last token is in `opens` and the one before it in `closes`, boolean tables (V,).
    If they are too narrow, a row only runs longer than needed.
    """

    closes: np.ndarray
    opens: np.ndarray
    done: Callable[[Sequence[int]], bool]  # whether these new tokens, and so all their continuations, are finished

    def length(self, tokens: np.ndarray, seen: int) -> int | None:
        """Return after how many new tokens (N,) a row is finished, or None; it was not after the first `seen`."""
        last, before = tokens[max(seen, 1) :], tokens[max(seen, 1) - 1 : -1]
        for place in np.flatnonzero(self.closes[before] & self.opens[last]):
            length = max(seen, 1) + int(place) + 1
            if self.done(tokens[:length].tolist()):
                return length
        return None


def sample(
    model: GPT2,
    batch: Batch,
    ends: Tensor,
    *,
    suppress: Tensor | None = None,
    stop: Stop | None = None,
    tokenizer: Tokenizer | None = None,
) -> Tensor:
    """Sample from the tokens that the filter of each row keeps; return (B, N) tokens, each finished row filled up with EOS.

    Tokens of `suppress` (K,) are never drawn. A row ends with a token of `ends` (K,), at its limit, or when `stop` or its guide,
    which needs the `tokenizer`, says so; tokens after its limit are meaningless.
    """
    rows = _Rows(model, batch, ends, suppress, tokenizer)
    new = torch.full_like(batch.tokens[:, batch.width :], int(ends[0]))
    every, seen = looks(new.device), 0
    for step in range(batch.steps):
        rows.draw(step)
        if (step + 1) % every == 0 or step + 1 == batch.steps:
            if stop is not None:
                rows.stop(stop, seen, step + 1)
            seen, left = step + 1, int(rows.alive.sum())
            if not left or step + 1 == batch.steps:
                break
            if len(rows.number) - left >= min(LEAVING, left):
                rows.leave(new)
        rows.advance()
    rows.write(new)
    return new


class _Rows:
    """The rows that are still in the batch. No step waits for the device."""

    def __init__(
        self, model: GPT2, batch: Batch, ends: Tensor, suppress: Tensor | None, tokenizer: Tokenizer | None
    ) -> None:
        self.model, self.batch, self.ends, self.suppress = model, batch, ends, suppress
        streams = [np.random.default_rng(row.seed).random(batch.steps, dtype=np.float32) for row in batch.requests]
        self.uniform = torch.from_numpy(np.stack(streams)).to(batch.tokens.device)
        self.columns, self.tokens, self.limits = dict(batch.columns), batch.tokens.clone(), batch.limits
        self.number = torch.arange(len(self.tokens), device=self.tokens.device)  # in the batch
        self.alive = torch.ones_like(self.number, dtype=torch.bool)
        self.parts = _parts(batch, self.number, self.columns, model.config.vocab_size)
        self.cache, self.hidden = batch.cache(), batch.hidden[:, -1]
        self.guides = _guides(batch, tokenizer)

    def draw(self, step: int) -> None:
        """Draw a token for each row; padding for finished rows."""
        end = self.batch.width + step
        scores = self.model.logits(self.hidden).float()
        added = self.follow_guides(scores, end) if self.guides else None
        scores = penalise(scores, self.tokens[:, :end], self.columns, self.suppress, added)
        token, surprise = _drawn(scores, self.uniform[:, step], self.columns, self.parts)
        self.tokens[:, end] = token.where(self.alive, self.model.config.vocab_size)
        self.columns |= {"drawn": self.columns["drawn"] + 1, "surprise": self.columns["surprise"] + surprise}
        self.alive = self.alive & ~torch.isin(token, self.ends) & (self.limits > step + 1)
        self.token = token

    def follow_guides(self, scores: Tensor, end: int) -> Tensor:
        """Finish the rows that are complete after `end` tokens; return what the guides add to the scores (B, V)."""
        asked = [(place, number) for place, number in enumerate(self.number.tolist()) if number in self.guides]
        alive, new = self.alive.tolist(), self.tokens[:, self.batch.width : end].tolist()
        added, complete = weights(
            {place: (self.guides[number], new[place]) for place, number in asked if alive[place]}, scores
        )
        self.alive = self.alive.index_fill(0, torch.tensor(complete, dtype=torch.long, device=scores.device), False)
        return added

    def advance(self) -> None:
        """Compute the hidden states that follow the last token."""
        self.hidden = self.model(self.token[:, None], None, self.cache)[:, -1]

    def stop(self, stop: Stop, seen: int, drawn: int) -> None:
        """Finish the rows that `stop` finishes after `seen` + 1 to `drawn` tokens; later tokens become padding."""
        new, vocabulary = self.tokens[:, self.batch.width :], self.model.config.vocab_size
        ids = new[:, :drawn].cpu().numpy()
        lengths = [stop.length(row[row < vocabulary], seen) for row in ids]
        if any(lengths):
            kept = torch.tensor([[length or drawn] for length in lengths], device=new.device)
            new.masked_fill_(torch.arange(new.shape[1], device=new.device) >= kept, vocabulary)
            self.alive = self.alive & torch.tensor([not length for length in lengths], device=new.device)

    def leave(self, new: Tensor) -> None:
        """Remove finished rows; write the tokens of all rows to `new` (B, N)."""
        self.write(new)
        stay = self.cache.keep(self.alive)
        self.number, self.alive, self.limits = self.number[stay], self.alive[stay], self.limits[stay]
        self.token, self.tokens, self.uniform = self.token[stay], self.tokens[stay], self.uniform[stay]
        self.columns = {key: column[stay] for key, column in self.columns.items()}
        self.parts = _parts(self.batch, self.number, self.columns, self.model.config.vocab_size)

    def write(self, new: Tensor) -> None:
        """Write the new tokens of all rows to `new` (B, N), with EOS in place of padding."""
        tokens = self.tokens[:, self.batch.width :]
        new[self.number] = tokens.where(tokens < self.model.config.vocab_size, self.ends[0])


def _guides(batch: Batch, tokenizer: Tokenizer | None) -> dict[int, Guide]:
    """Return the guides by row, of the rows whose strategy has one."""
    guides = {}
    for row, request in enumerate(batch.requests):
        make = DECODERS[request.config.strategy].guide
        if make is not None:
            assert tokenizer is not None
            guides[row] = make(tokenizer, request.prompt)
    return guides


def _parts(batch: Batch, rows: Tensor, columns: Columns, vocabulary: int) -> list[Part]:
    """Group the rows by strategy, in parts that are small enough to be filtered at once."""
    names, size = [batch.requests[row].config.strategy for row in rows.tolist()], max(1, TOGETHER // vocabulary)
    parts: list[Part] = []
    groups = grouped(range(len(names)), names.__getitem__)
    for name, places in groups.items():
        keep = DECODERS[name].keep
        assert keep is not None
        chunks = [places[start : start + size] for start in range(0, len(places), size)]
        for chunk in chunks:
            # Slices need no copy of the scores.
            part = slice(chunk[0], chunk[-1] + 1) if len(groups) == 1 else torch.tensor(chunk, device=rows.device)
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
