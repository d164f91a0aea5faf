"""Contrastive search (Su et al. 2022): likely tokens whose hidden states are unlike those of the text so far."""

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.decoding.batch import Batch, looks
from gpt2core.decoding.filters import penalise
from gpt2core.model import GPT2


def contrastive(model: GPT2, batch: Batch, ends: Tensor, k: int) -> Tensor:
    """Choose from the k likeliest tokens v the one with the highest (1 - alpha) p(v) - alpha max_j cos(h_v, h_j).

    alpha is `penalty_alpha`, h_v the last hidden state that v would have, h_j the hidden states of the text so far. Returns
    (B, N) tokens; those after one of `ends` (K,) are meaningless.
    """
    rows, vocabulary = len(batch.tokens), model.config.vocab_size
    columns, tokens, alpha = batch.columns, batch.tokens.clone(), batch.columns["penalty_alpha"]
    k = min(k, vocabulary)
    cache = batch.cache(k)  # a copy of each row for each of its k candidates
    first = torch.arange(rows, device=tokens.device) * k
    directions = functional.pad(functional.normalize(batch.hidden.float(), dim=-1), (0, 0, 0, batch.steps))
    hidden, alive = batch.hidden[:, -1], torch.ones_like(first, dtype=torch.bool)
    every = looks(tokens.device)
    for step, end in enumerate(range(batch.width, tokens.shape[1])):
        scores = penalise(model.logits(hidden).float(), tokens[:, :end], columns) / columns["temperature"]
        confidence, candidates = scores.softmax(dim=-1).topk(k, dim=-1)
        ahead = model(candidates.view(-1, 1), None, cache).view(rows, k, -1)
        similarity = functional.normalize(ahead.float(), dim=-1) @ directions[:, :end].transpose(1, 2)  # (B, k, S)
        similarity = similarity.masked_fill((tokens[:, :end] == vocabulary)[:, None], -torch.inf)
        value = (1 - alpha) * confidence - alpha * similarity.amax(dim=-1)
        chosen = first + value.argmax(dim=-1)
        tokens[:, end] = token = candidates.flatten()[chosen]
        hidden = ahead.flatten(0, 1)[chosen]
        directions[:, end] = functional.normalize(hidden.float(), dim=-1)
        alive &= ~torch.isin(token, ends) & (step + 1 < batch.limits)
        if step + 1 == batch.steps or ((step + 1) % every == 0 and not bool(alive.any())):
            break
        cache.reorder(chosen.repeat_interleave(k), since=end)
    return tokens[:, batch.width :]
