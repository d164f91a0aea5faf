"""What a text already says is made less likely, whatever the strategy."""

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.decoding.filters import Columns


def penalise(scores: Tensor, tokens: Tensor, columns: Columns) -> Tensor:
    """Lower the scores (B, V), logits or log-probabilities, of what the texts so far (B, T) repeat.

    Tokens of V are padding. Columns `repetition_penalty` of 1 and `no_repeat_ngram` of 0 (B, 1) change nothing.
    """
    if bool((columns["repetition_penalty"] != 1).any()):
        scores = _discount(scores, tokens, columns["repetition_penalty"])
    for n in columns["no_repeat_ngram"].unique().tolist():
        if n:
            banned = _completing(tokens, n, scores.shape[-1]) & (columns["no_repeat_ngram"] == n)
            banned &= ~banned.all(dim=-1, keepdim=True)  # where no token is left, all are
            scores = scores.masked_fill(banned, -torch.inf)
    return scores


def _discount(scores: Tensor, tokens: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive scores of tokens of the text by the penalty, multiply negative ones (Keskar et al. 2019)."""
    padded = functional.pad(scores, (0, 1))
    old = padded.gather(-1, tokens)
    return padded.scatter(-1, tokens, torch.where(old < 0, old * penalty, old / penalty))[:, :-1]


def _completing(tokens: Tensor, n: int, vocabulary: int) -> Tensor:
    """Where (B, V) a token would complete an n-gram that its text (B, T) already has (Paulus et al. 2018)."""
    banned = torch.zeros(len(tokens), vocabulary + 1, dtype=torch.bool, device=tokens.device)
    if tokens.shape[1] >= n:
        windows = tokens.unfold(1, n, 1)  # (B, T - n + 1, n)
        begun = (windows[..., :-1] == tokens[:, None, tokens.shape[1] - n + 1 :]).all(dim=-1)
        banned.scatter_(1, windows[..., -1].where(begun, vocabulary), True)
    return banned[:, :-1]
