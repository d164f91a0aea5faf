"""Beam search: the texts of the highest probability, normalised by their length (Wu et al. 2016; Graves 2012)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2core.decoding.batch import Batch
from gpt2core.decoding.penalties import penalise
from gpt2core.model import GPT2


@dataclass
class _Beams:
    """K hypotheses of each row, the best first."""

    scores: Tensor  # (B, K); minus infinity where there is none
    tokens: Tensor  # (B, K, T + N)

    def best(self, scores: Tensor, k: int) -> tuple["_Beams", Tensor]:
        """Return the best k by other scores, and which (B, k) they are."""
        scores, index = scores.topk(k, dim=-1)
        rows = torch.arange(len(index), device=index.device)[:, None]
        return _Beams(scores, self.tokens[rows, index]), index

    def alike(self) -> int:
        """How many tokens from the left on are the same in all hypotheses of each row; it is most of them as a rule."""
        same = (self.tokens == self.tokens[:, :1]).all(dim=1).all(dim=0)
        return int(same.cumprod(dim=0).sum())


def beam(model: GPT2, batch: Batch, ends: Tensor, beams: int) -> Tensor:
    """Search for the text of the highest sum of log-probabilities / length ** `length_penalty`; its end counts as a token.

    So many `beams` live at a time. A row is done when as many have ended, and the best that lives scores no higher now than
    the worst that ended, or at once with `beam_early_stopping`.
    Returns (B, N) tokens, those behind one of `ends` (K,) without meaning.
    """
    rows, vocabulary = len(batch.tokens), model.config.vocab_size
    columns = {key: column.repeat_interleave(beams, dim=0) for key, column in batch.columns.items()}
    cache = batch.cache(beams)
    first = torch.arange(rows, device=batch.tokens.device)[:, None] * beams
    # One hypothesis lives at first, so that the beams do not all find the same.
    scores = torch.full((rows, beams), -torch.inf, device=batch.tokens.device)
    live = _Beams(scores.clone(), batch.tokens[:, None].repeat(1, beams, 1))
    live.scores[:, 0] = 0.0
    ended = _Beams(scores, live.tokens)
    done = torch.zeros_like(first, dtype=torch.bool)
    hidden = batch.hidden[:, -1].repeat_interleave(beams, dim=0)
    for step, end in enumerate(range(batch.width, batch.tokens.shape[1])):
        logits = model.logits(hidden).float().div_(columns["temperature"])
        seen = live.tokens[..., :end].flatten(0, 1)
        next_scores = penalise(logits.log_softmax(dim=-1), seen, columns).view(rows, beams, -1)
        # Even if each beam goes on with all tokens that end it, enough of them go on.
        wanted = min((1 + len(ends)) * beams, beams * vocabulary)
        scores, index = next_scores.add_(live.scores[..., None]).flatten(1).topk(wanted, dim=-1)
        parents, token = first + index // vocabulary, index % vocabulary
        candidates = _Beams(scores, live.tokens.flatten(0, 1)[parents])
        candidates.tokens[..., end] = token
        last = (step + 1 >= batch.limits)[:, None]
        ended_now = torch.isin(token, ends) | last
        norm = float(step + 1) ** batch.columns["length_penalty"]
        ended = _with_ended(ended, candidates, ended_now & ~done, norm)
        alike = live.alike()
        live, index = candidates.best(scores.masked_fill(ended_now, -torch.inf), beams)
        done |= last | _is_done(live, ended, norm, batch.columns["beam_early_stopping"])
        if bool(done.all()):
            break
        chosen = parents.gather(-1, index).flatten()
        cache.reorder(chosen, since=min(alike, end))
        hidden = model(live.tokens[..., end].view(-1, 1), None, cache)[:, -1]
    return ended.tokens[:, 0, batch.width :]


def _with_ended(ended: _Beams, candidates: _Beams, ends: Tensor, norm: Tensor) -> _Beams:
    """Keep the best of those that ended before and those that end now, which must be among the best K candidates."""
    beams = ended.scores.shape[1]
    ends = ends & (torch.arange(ends.shape[1], device=ends.device) < beams)
    scores = candidates.scores.masked_fill(~ends, -torch.inf) / norm
    both = _Beams(torch.cat([ended.scores, scores], dim=1), torch.cat([ended.tokens, candidates.tokens], dim=1))
    return both.best(both.scores, beams)[0]


def _is_done(live: _Beams, ended: _Beams, norm: Tensor, early: Tensor) -> Tensor:
    """Where (B, 1) no hypothesis that lives is waited for."""
    worst = ended.scores[:, -1:]
    return (worst > -torch.inf) & (early | (live.scores[:, :1] / norm <= worst))
