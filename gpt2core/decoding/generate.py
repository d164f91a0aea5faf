"""Batched generation with a KV cache. Each row draws from a stream of its own, so batching never changes a text."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpt2core.config import DecodingConfig
from gpt2core.decoding import DECODERS
from gpt2core.errors import ConfigError
from gpt2core.lookup import lookup
from gpt2core.model import GPT2, KVCache

COLDEST = 1e-5  # below this temperature, logits leave float32's range: it is greedy decoding


@torch.inference_mode()
def generate(
    model: GPT2, prompts: Sequence[Sequence[int]], config: DecodingConfig, *, seeds: Sequence[int], eos: int
) -> list[list[int]]:
    """Continue each prompt (token numbers) until EOS or `max_new_tokens`; return the new tokens without EOS.

    Row i depends on `prompts[i]` and `seeds[i]` alone. Where the context ends first, generation stops there.
    Raises ConfigError for an empty prompt or one that fills the whole context.
    """
    longest = max(len(prompt) for prompt in prompts)
    room = model.config.n_positions - longest
    if room < 1 or min(len(prompt) for prompt in prompts) < 1:
        raise ConfigError(
            f"A prompt has {longest} tokens, but must have 1 to {model.config.n_positions - 1} for this model"
        )
    steps = min(config.max_new_tokens, room)
    greedy = config.temperature < COLDEST
    keep = lookup(DECODERS, "greedy" if greedy else config.strategy, "decoder")
    device = model.wte.weight.device
    draws = torch.from_numpy(np.stack([np.random.default_rng(seed).random(steps, dtype=np.float32) for seed in seeds]))
    draws = draws.to(device)

    was_training = model.training
    model.train(False)
    input_ids, mask = _pad_left(prompts, longest, device)
    cache = KVCache(model, len(prompts), longest + steps)
    new = torch.full((len(prompts), steps), eos, device=device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    hidden = model(input_ids, mask, cache)
    for step in range(steps):
        logits = model.logits(hidden[:, -1]).float() / (1.0 if greedy else config.temperature)
        token = _draw(keep(logits.softmax(dim=-1), config), draws[:, step])
        new[:, step] = torch.where(alive, token, eos)
        alive &= token != eos
        if step + 1 == steps or not bool(alive.any()):
            break
        hidden = model(new[:, step : step + 1], None, cache)
    model.train(was_training)
    return [row[: row.index(eos)] if eos in row else row for row in new.tolist()]


def _pad_left(prompts: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return input_ids.to(device), mask.to(device)


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: probabilities (B, V) of any sum, uniform (B,) in [0, 1) -> tokens (B,)."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would fall past the last token that may be drawn.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
