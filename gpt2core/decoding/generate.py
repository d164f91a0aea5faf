"""Batched generation with a KV cache, in which each row may have its own strategy and parameters."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gpt2core.config import DecodingConfig
from gpt2core.decoding import DECODERS, resolved
from gpt2core.decoding.batch import Request, prefill
from gpt2core.decoding.sample import sample
from gpt2core.decoding.searching import Search
from gpt2core.decoding.stop import Stop
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2


@torch.inference_mode()
def generate(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig | Sequence[DecodingConfig],
    *,
    seeds: Sequence[int],
    eos: int | Sequence[int],
    suppress: Sequence[int] = (),
    stop: Stop | None = None,
) -> list[list[int]]:
    """Continue each prompt (token numbers) until a token of `eos` or `max_new_tokens`; return the new tokens without it.

    `config` is one for all rows, or one per row. Row i depends on its prompt, seed and configuration alone. Generation stops
    where the context is full. A prompt that several rows share is computed once. Sampling strategies never draw a token of
    `suppress`, and end a row when `stop` says so.

    Raises ConfigError for an empty prompt, one that fills the context, or tokens that the model lacks; more beams than vocabulary
    entries; a wrong number of seeds or configurations; `suppress` or `stop` with a strategy that searches; and for tokens of
    `suppress` that the model lacks or that leave none. Raises UnknownNameError for an unknown strategy.
    """
    configs = [config] * len(prompts) if isinstance(config, DecodingConfig) else config
    if not len(prompts) == len(configs) == len(seeds):
        raise ConfigError(f"There are {len(prompts)} prompts, {len(configs)} configurations and {len(seeds)} seeds")
    rows = zip(prompts, configs, seeds, strict=True)
    requests = [_request(model, tuple(prompt), resolved(config), seed) for prompt, config, seed in rows]
    ends = torch.tensor([eos] if isinstance(eos, int) else list(eos), device=model.wte.weight.device)
    sampling = partial(sample, suppress=_suppressed(model, suppress), stop=stop and stop.to(model.wte.weight.device))
    if suppress or stop:
        _all_sample(requests)
    new: list[list[int]] = [[] for _ in requests]
    was_training = model.training
    model.train(False)
    for together in _batches(requests, model.config.n_positions):
        batch = prefill(model, [requests[row] for row in together])
        for search, members in _by_search(batch.requests, sampling):
            new_tokens = search(model, batch.subset(members), ends)
            ended = torch.isin(new_tokens, ends).long().cumsum(dim=-1)
            lengths = ended.eq(0).sum(dim=-1).tolist()
            for member, ids, length in zip(members, new_tokens.tolist(), lengths, strict=True):
                new[together[member]] = ids[: min(length, batch.requests[member].limit)]
    model.train(was_training)
    return new


def _request(model: GPT2, prompt: tuple[int, ...], config: DecodingConfig, seed: int) -> Request:
    """Check a row against the model; raise ConfigError or UnknownNameError."""
    room = model.config.n_positions - len(prompt)
    if not prompt or room < 1:
        raise ConfigError(
            f"A prompt has {len(prompt)} tokens, but must have 1 to {model.config.n_positions - 1} for this model"
        )
    if min(prompt) < 0 or max(prompt) >= model.config.vocab_size:
        raise ConfigError(
            f"A prompt has the token {max(prompt) if min(prompt) >= 0 else min(prompt)}, but must be of tokens 0 to "
            f"{model.config.vocab_size - 1}, the model's"
        )
    if config.strategy == "beam" and config.num_beams > model.config.vocab_size:
        raise ConfigError(
            f"The value of `num_beams` is {config.num_beams}, but must be at most {model.config.vocab_size}, "
            "the size of the model's vocabulary"
        )
    return Request(prompt, config, seed, min(config.max_new_tokens, room))


def _all_sample(requests: Sequence[Request]) -> None:
    """Raise ConfigError if a strategy searches."""
    sampling = [name for name, decoder in DECODERS.items() if decoder.keep]
    for name in {request.config.strategy for request in requests} - set(sampling):
        raise ConfigError(
            f"The decoder is `{name}`, but with `suppress` or `stop` it must be one that samples: {', '.join(sampling)}"
        )


def _suppressed(model: GPT2, suppress: Sequence[int]) -> Tensor | None:
    """The tokens that are never drawn, each once; raise ConfigError."""
    vocabulary, tokens = model.config.vocab_size, sorted(set(suppress))
    if not tokens:
        return None
    if tokens[0] < 0 or tokens[-1] >= vocabulary or len(tokens) == vocabulary:
        raise ConfigError(
            f"`suppress` has {len(tokens)} tokens from {tokens[0]} to {tokens[-1]}, but must name some of 0 to "
            f"{vocabulary - 1}, the model's tokens, and not all of them"
        )
    return torch.tensor(tokens, device=model.wte.weight.device)


def _batches(requests: Sequence[Request], context: int) -> list[list[int]]:
    """Rows that fit a context together, padded to their longest prompt, so that none shortens another."""
    batches: list[list[int]] = []
    for row in sorted(range(len(requests)), key=lambda row: len(requests[row].prompt)):
        limit = max(requests[other].limit for other in [*(batches[-1] if batches else []), row])
        if batches and len(requests[row].prompt) + limit <= context:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _by_search(requests: Sequence[Request], sampling: Search) -> list[tuple[Search, list[int]]]:
    """The search procedures in use, each with its rows; strategies that sample share `sampling`."""
    groups: dict[Search, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(DECODERS[request.config.strategy].search or sampling, []).append(row)
    return list(groups.items())
