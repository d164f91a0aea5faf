"""Penalties on repetition, for all strategies."""

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.decoding.filters import Columns


def penalise(scores: Tensor, tokens: Tensor, columns: Columns, suppress: Tensor | None = None) -> Tensor:
    """Return the scores (B, V), logits or log-probabilities, with repetitions of the texts so far (B, T) penalised.

    May change `scores` in place. Token V is padding. `repetition_penalty` 1 and `no_repeat_ngram` 0 change nothing. Tokens in
    `suppress` (K,), which must leave some, always get minus infinity.
    """
    if bool((columns["repetition_penalty"] != 1).any()):
        scores = _discount(scores, tokens, columns["repetition_penalty"])
    if suppress is not None:
        scores.index_fill_(-1, suppress, -torch.inf)
    for n in columns["no_repeat_ngram"].unique().tolist():
        if n and tokens.shape[1] >= n:
            scores = _banned(scores, tokens, n, columns["no_repeat_ngram"] == n, suppress)
    return scores


def _discount(scores: Tensor, tokens: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive scores of the text's tokens by the penalty, multiply negative ones by it (Keskar et al. 2019)."""
    padded = functional.pad(scores, (0, 1))
    old = padded.gather(-1, tokens)
    return padded.scatter(-1, tokens, torch.where(old < 0, old * penalty, old / penalty))[:, :-1]


def _banned(scores: Tensor, tokens: Tensor, n: int, own: Tensor, suppress: Tensor | None) -> Tensor:
    """Ban each token that would repeat an n-gram of its text (Paulus et al. 2018), in the rows `own` (B, 1).

    A row in which all tokens would be banned stays as it is.
    """
    vocabulary, last = scores.shape[-1], tokens[:, n - 1 :]  # the last tokens (B, T - n + 1) of the text's n-grams
    begun = own & (last < vocabulary)
    for place in range(n - 1):
        begun &= tokens[:, place : place + last.shape[1]] == tokens[:, tokens.shape[1] - n + 1 + place, None]
    rows, places = begun.nonzero(as_tuple=True)
    banned = scores if last.shape[1] < vocabulary - (0 if suppress is None else len(suppress)) else scores.clone()
    banned[rows, last[rows, places]] = -torch.inf
    if banned is scores:
        return scores
    return banned.where((banned > -torch.inf).any(dim=-1, keepdim=True), scores)
