"""Beam search for texts of the highest length-normalised probability (Wu et al. 2016; Graves 2012)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2core.decoding.batch import Batch, looks
from gpt2core.decoding.filters import penalise
from gpt2core.model import GPT2


@dataclass
class _Beams:
    """K hypotheses per row, best first."""

    scores: Tensor  # (B, K); minus infinity for a free place
    tokens: Tensor  # (B, K, T + N)

    def best(self, scores: Tensor, k: int) -> tuple["_Beams", Tensor]:
        """Return the k hypotheses with the best `scores`, and their indices (B, k)."""
        scores, index = scores.topk(k, dim=-1)
        rows = torch.arange(len(index), device=index.device)[:, None]
        return _Beams(scores, self.tokens[rows, index]), index


def beam(model: GPT2, batch: Batch, ends: Tensor, beams: int) -> Tensor:
    """Search for the text of the highest sum of log-probabilities / length ** `length_penalty`, where EOS counts as a token.

    Each row keeps `beams` unfinished hypotheses. It is done as soon as `beams` hypotheses are finished and the best unfinished
    one scores no higher than the worst of these; with `beam_early_stopping`, as soon as `beams` are finished. Returns (B, N)
    tokens; those after one of `ends` (K,) are meaningless.
    """
    rows, vocabulary = len(batch.tokens), model.config.vocab_size
    columns = {key: column.repeat_interleave(beams, dim=0) for key, column in batch.columns.items()}
    cache = batch.cache(beams)
    first = torch.arange(rows, device=batch.tokens.device)[:, None] * beams
    # Start from one hypothesis, or all beams would be the same.
    scores = torch.full((rows, beams), -torch.inf, device=batch.tokens.device)
    live = _Beams(scores.clone(), batch.tokens[:, None].repeat(1, beams, 1))
    live.scores[:, 0] = 0.0
    ended = _Beams(scores, live.tokens)
    done = torch.zeros_like(first, dtype=torch.bool)
    hidden = batch.hidden[:, -1].repeat_interleave(beams, dim=0)
    every, common_prefix = looks(scores.device), batch.width
    for step, end in enumerate(range(batch.width, batch.tokens.shape[1])):
        logits = model.logits(hidden).float().div_(columns["temperature"])
        seen = live.tokens[..., :end].flatten(0, 1)
        next_scores = penalise(logits.log_softmax(dim=-1), seen, columns).view(rows, beams, -1)
        # Enough candidates that `beams` of them are unfinished, even if each beam ends in every possible way.
        count = min((1 + len(ends)) * beams, beams * vocabulary)
        scores, index = next_scores.add_(live.scores[..., None]).flatten(1).topk(count, dim=-1)
        parents, token = first + index // vocabulary, index % vocabulary
        candidates = _Beams(scores, live.tokens.flatten(0, 1)[parents])
        candidates.tokens[..., end] = token
        last = (step + 1 >= batch.limits)[:, None]
        ended_now = torch.isin(token, ends) | last
        norm = float(step + 1) ** batch.columns["length_penalty"]
        ended = _with_ended(ended, candidates, ended_now & ~done, norm)
        look = (step + 1) % every == 0
        if look:
            same = (live.tokens[..., :end] == live.tokens[:, :1, :end]).all(dim=1).all(dim=0)
            common_prefix = int(same.cumprod(dim=0).sum())  # usually most of the text
        live, index = candidates.best(scores.masked_fill(ended_now, -torch.inf), beams)
        worst = ended.scores[:, -1:]
        hopeless = batch.columns["beam_early_stopping"] | (live.scores[:, :1] / norm <= worst)
        done |= last | ((worst > -torch.inf) & hopeless)
        if step + 1 == batch.steps or (look and bool(done.all())):
            break
        chosen = parents.gather(-1, index).flatten()
        cache.reorder(chosen, since=common_prefix)
        hidden = model(live.tokens[..., end].view(-1, 1), None, cache)[:, -1]
    return ended.tokens[:, 0, batch.width :]


def _with_ended(ended: _Beams, candidates: _Beams, ends: Tensor, norm: Tensor) -> _Beams:
    """Return the best K finished hypotheses, old and new; a new one must be among the best K candidates."""
    beams = ended.scores.shape[1]
    ends = ends & (torch.arange(ends.shape[1], device=ends.device) < beams)
    scores = candidates.scores.masked_fill(~ends, -torch.inf) / norm
    both = _Beams(torch.cat([ended.scores, scores], dim=1), torch.cat([ended.tokens, candidates.tokens], dim=1))
    return both.best(both.scores, beams)[0]
