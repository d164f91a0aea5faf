"""Best of n (Stiennon et al. 2020): of several sampled texts, keep the one that a judge scores highest."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from gpt2core.metrics.form import form_score
from gpt2core.model import GPT2, IGNORE
from gpt2core.tokenizer import Tokenizer

#: (model, tokenizer, prompt, its continuations) -> their scores; a higher one is better, and later numbers break ties.
Judge = Callable[[GPT2, Tokenizer, Sequence[int], Sequence[Sequence[int]]], list[tuple[float, ...]]]


def likelihood(
    model: GPT2, tokenizer: Tokenizer, prompt: Sequence[int], texts: Sequence[Sequence[int]]
) -> list[tuple[float, ...]]:
    """Keep the likeliest of `best_of` texts sampled by top-p; the score is the mean log-probability of a token, in nats."""
    device, lengths = model.wte.weight.device, [len(text) for text in texts]
    rows = pad_sequence([torch.tensor([*prompt, *text], device=device) for text in texts], True, padding_value=IGNORE)
    labels = rows.index_fill(1, torch.arange(len(prompt), device=device), IGNORE)
    losses = model.losses(model(rows.clamp(min=0)), labels).tolist()
    return [(-loss / length if length else -torch.inf,) for loss, length in zip(losses, lengths, strict=True)]


def form(
    model: GPT2, tokenizer: Tokenizer, prompt: Sequence[int], texts: Sequence[Sequence[int]]
) -> list[tuple[float, ...]]:
    """Keep the text with the best form of `best_of` ones sampled by top-p; the score is the mean of lines, rhyme and metre.

    Of texts with the same form, the likeliest is kept.
    """
    given, _, begun = tokenizer.decode(prompt).rpartition("\n")
    scores = [form_score(given, begun + tokenizer.decode(text)) for text in texts]
    likeliest = likelihood(model, tokenizer, prompt, texts)
    return [(score, *rest) for score, rest in zip(scores, likeliest, strict=True)]
