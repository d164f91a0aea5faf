"""Batched generation with a KV cache, in which each row may have its own strategy and parameters."""

from collections.abc import Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from gpt2core.config import DecodingConfig
from gpt2core.decoding import DECODERS, resolved, texts_of
from gpt2core.decoding.batch import Request, grouped, prefill
from gpt2core.decoding.sample import Stop, sample
from gpt2core.decoding.searching import Search
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2
from gpt2core.projection import weights_for_generation
from gpt2core.tokenizer import Tokenizer


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
    tokenizer: Tokenizer | None = None,
) -> list[list[int]]:
    """Continue each prompt (token ids) until EOS, `max_new_tokens` or a full context; return the new tokens without EOS.

    `config` is for all rows, or there is one per row. The result of a row depends only on its own prompt, seed and
    configuration. Sampling strategies never draw a token of `suppress`, and end a row when `stop` says so. Some
    strategies read the text by the `tokenizer`.

    Raises ConfigError for a prompt that is empty, fills the context or has unknown tokens; more beams than tokens in the
    vocabulary; a wrong number of seeds or configurations; `suppress` or `stop` with a strategy that compares texts; `suppress`
    with unknown tokens, or with all; and a strategy that reads the text without `tokenizer`. Raises UnknownNameError for an
    unknown strategy.
    """
    configs = [config] * len(prompts) if isinstance(config, DecodingConfig) else config
    if not len(prompts) == len(configs) == len(seeds):
        raise ConfigError(f"There are {len(prompts)} prompts, {len(configs)} configurations and {len(seeds)} seeds")
    asked = zip(prompts, configs, seeds, strict=True)
    requests = [_request(model, tuple(prompt), resolved(config), seed) for prompt, config, seed in asked]
    ends = torch.tensor([eos] if isinstance(eos, int) else list(eos), device=model.wte.weight.device)
    sampling = partial(sample, suppress=_suppressed(model, suppress), stop=stop, tokenizer=tokenizer)
    _check_strategies({request.config.strategy for request in requests}, bool(suppress or stop), tokenizer)
    was_training = model.training
    model.train(False)
    copies = [_copies(request) for request in requests]
    texts = iter(_generated(model, [*chain(*copies)], ends, sampling))
    chosen = [
        _best(model, tokenizer, request, [*islice(texts, len(own))])
        for request, own in zip(requests, copies, strict=True)
    ]
    model.train(was_training)
    return chosen


def prompt_seed(seed: int, prompt: Sequence[int]) -> int:
    """Return a seed for the continuation of a prompt that depends on nothing but a run's seed and the prompt."""
    return int(np.random.SeedSequence((seed, *prompt)).generate_state(1)[0])


def _check_strategies(strategies: set[str], interferes: bool, tokenizer: Tokenizer | None) -> None:
    """Raise ConfigError for a strategy that cannot be used with `suppress` or `stop`, or without a tokenizer."""
    comparing = {name for name in strategies if DECODERS[name].compares_texts}
    if comparing and interferes:
        names = ", ".join(name for name, decoder in DECODERS.items() if not decoder.compares_texts)
        raise ConfigError(f"The decoder is `{min(comparing)}`, but with `suppress` or `stop` it must be one of {names}")
    reading = {name for name in strategies if DECODERS[name].reads_text}
    if reading and tokenizer is None:
        raise ConfigError(f"The decoder `{min(reading)}` reads the text, so `tokenizer` must be given")


def _copies(request: Request) -> list[Request]:
    """Return the rows from which a judge chooses, each with a seed of its own; only the row itself without a judge."""
    if DECODERS[request.config.strategy].judge is None:
        return [request]
    seeds = np.random.SeedSequence(request.seed).generate_state(texts_of(request.config))
    return [request._replace(seed=seed) for seed in seeds.tolist()]


def _best(model: GPT2, tokenizer: Tokenizer | None, request: Request, texts: list[list[int]]) -> list[int]:
    """Return the text that the judge of a row scores highest, the first of equals."""
    judge = DECODERS[request.config.strategy].judge
    if judge is None:
        return texts[0]
    assert tokenizer is not None
    scores = judge(model, tokenizer, request.prompt, texts)
    return texts[scores.index(max(scores))]


def _generated(model: GPT2, requests: Sequence[Request], ends: Tensor, sampling: Search) -> list[list[int]]:
    """Return the new tokens of each row."""
    new: list[list[int]] = [[] for _ in requests]
    for together in _batches(requests, model.config.n_positions):
        rows = [requests[row] for row in together]
        with weights_for_generation(model, len(rows), max(row.limit for row in rows)):
            batch = prefill(model, rows)
            searches = [DECODERS[request.config.strategy].search or sampling for request in rows]
            for search, members in grouped(range(len(rows)), searches.__getitem__).items():
                new_tokens = search(model, batch.subset(members), ends)
                ended = torch.isin(new_tokens, ends).long().cumsum(dim=-1)
                lengths = ended.eq(0).sum(dim=-1).tolist()
                for member, ids, length in zip(members, new_tokens.tolist(), lengths, strict=True):
                    new[together[member]] = ids[: min(length, rows[member].limit)]
    return new


def _request(model: GPT2, prompt: tuple[int, ...], config: DecodingConfig, seed: int) -> Request:
    """Return a row if it suits the model; raise ConfigError."""
    room = model.config.n_positions - len(prompt)
    if not prompt or room < 1:
        raise ConfigError(f"A prompt has {len(prompt)} tokens, but must have 1 to {model.config.n_positions - 1}")
    vocabulary = model.config.vocab_size
    if unknown := [token for token in prompt if not 0 <= token < vocabulary]:
        raise ConfigError(f"A prompt has the token {unknown[0]}, but the model has the tokens 0 to {vocabulary - 1}")
    if config.strategy == "beam" and config.num_beams > vocabulary:
        raise ConfigError(
            f"The value of `num_beams` is {config.num_beams}, but must be at most {vocabulary}, "
            "the size of the model's vocabulary"
        )
    return Request(prompt, config, seed, min(config.max_new_tokens, room))


def _suppressed(model: GPT2, suppress: Sequence[int]) -> Tensor | None:
    """Return the distinct tokens that are never drawn; raise ConfigError."""
    vocabulary, tokens = model.config.vocab_size, sorted(set(suppress))
    if not tokens:
        return None
    if tokens[0] < 0 or tokens[-1] >= vocabulary or len(tokens) == vocabulary:
        raise ConfigError(
            f"`suppress` has {len(tokens)} tokens from {tokens[0]} to {tokens[-1]}, but must name some of the model's tokens, "
            f"0 to {vocabulary - 1}, and not all"
        )
    return torch.tensor(tokens, device=model.wte.weight.device)


def _batches(requests: Sequence[Request], context: int) -> list[list[int]]:
    """Group rows so that, padded to the longest prompt of their group, all of them fit into the context up to their limits."""
    batches: list[list[int]] = []
    for row in sorted(range(len(requests)), key=lambda row: len(requests[row].prompt)):
        limit = max(requests[other].limit for other in [*(batches[-1] if batches else []), row])
        if batches and len(requests[row].prompt) + limit <= context:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
