"""Decoding the slow, obvious way: the whole text again for each token, one row at a time, loops in place of tensors."""

import torch

from gpt2core.config import DecodingConfig
from gpt2core.model import GPT2
from gpt2core.testing.decoders import logits, penalised


def beam(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    k, live, ended = config.num_beams, [(0.0, list(prompt))], []
    for length in range(1, config.max_new_tokens + 1):
        candidates = []
        for score, text in live:
            scaled = torch.tensor(logits(model, text)) / config.temperature
            scores = penalised(scaled.log_softmax(-1).tolist(), text, config)
            candidates += [(score + more, [*text, token]) for token, more in enumerate(scores)]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * k]
        over = [text[-1] == eos or length == config.max_new_tokens for _, text in candidates]
        norm = length**config.length_penalty
        ended += [(s / norm, text) for (s, text), end in zip(candidates[:k], over, strict=False) if end]
        ended = sorted(ended, key=lambda e: -e[0])[:k]
        live = [candidate for candidate, end in zip(candidates, over, strict=True) if not end][:k]
        if not live:
            break
        if len(ended) == k and (config.beam_early_stopping or live[0][0] / norm <= ended[-1][0]):
            break
    best = ended[0][1][len(prompt) :]
    return best[:-1] if best[-1] == eos else best


def contrastive(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    row = list(prompt)
    while len(row) < len(prompt) + config.max_new_tokens:
        scores = torch.tensor(penalised(logits(model, row), row, config)) / config.temperature
        probabilities = scores.softmax(-1).tolist()
        candidates = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])[: config.top_k]
        values = {}
        for token in candidates:
            hidden = model(torch.tensor([[*row, token]]))[0]
            alike = max(torch.cosine_similarity(hidden[-1], past, dim=0).item() for past in hidden[:-1])
            values[token] = (1 - config.penalty_alpha) * probabilities[token] - config.penalty_alpha * alike
        token = max(values, key=lambda token: values[token])
        if token == eos:
            break
        row.append(token)
    return row[len(prompt) :]


SEARCHES = {"beam": beam, "contrastive": contrastive}
