"""The contract of decoders."""

import functools
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import gpt2core.testing.toys as toys
from gpt2core.config import DecodingConfig, DecodingKeys, RunConfig
from gpt2core.decoding import DECODERS
from gpt2core.decoding.batch import columns
from gpt2core.decoding.generate import generate as generate_with
from gpt2core.decoding.sample import Stop, draw
from gpt2core.errors import ConfigError
from gpt2core.identity import identity
from gpt2core.model import GPT2
from gpt2core.testing.contract import Contract, Settings, check_keys
from gpt2core.tokenizer import Tokenizer

PROMPTS = [[5, 6, 7], [9], [30, 2, 11, 40, 8, 1]]
NEVER = 10**9  # an EOS that no model generates
COLD = DecodingConfig(strategy="greedy", max_new_tokens=24)
#: A value of each known key that changes texts.
OTHER = {
    "temperature": 0.4, "top_k": 3, "top_p": 0.2, "min_p": 0.9, "typical_p": 0.1, "epsilon": 0.5,
    "mirostat_tau": 0.1, "mirostat_eta": 2.0, "penalty_alpha": 0.1, "num_beams": 2, "length_penalty": -5.0,
    "edt_theta": 30.0, "best_of": 2,
    "beam_early_stopping": True, "repetition_penalty": 3.0, "no_repeat_ngram": 1, "max_new_tokens": 5,
}  # fmt: skip


@functools.cache
def tokenizer() -> Tokenizer:
    """Return the tokenizer of the model."""
    return toys.tokenizer()


def generate(model: GPT2, prompts: Sequence[Sequence[int]], config: DecodingConfig, **others: Any) -> list[list[int]]:
    """Return what the project's `generate` returns with `tokenizer`."""
    return generate_with(model, prompts, config, tokenizer=tokenizer(), **others)


def pair_of(first: int, second: int) -> Stop:
    """Return a criterion that ends a row after two consecutive tokens of these classes, modulo 8."""

    def done(ids: Sequence[int]) -> bool:
        return any(a % 8 == first and b % 8 == second for a, b in pairwise(ids))

    numbers = np.arange(320) % 8
    return Stop(closes=numbers == first, opens=numbers == second, done=done)


def logits(model: GPT2, tokens: list[int]) -> list[float]:
    """Return the logits (V) after some tokens, computed without a cache."""
    return [float(score) for score in model.logits(model(torch.tensor([tokens]))[0, -1])]


def penalised(scores: list[float], text: list[int], config: DecodingConfig) -> list[float]:
    """Return the scores of the tokens after a text with its repetitions penalised, by loops."""
    scores, n = list(scores), config.no_repeat_ngram
    for token in set(text):
        scores[token] *= config.repetition_penalty if scores[token] < 0 else 1 / config.repetition_penalty
    for start in range(len(text) - n + 1 if n else 0):
        if text[start : start + n - 1] == text[len(text) - n + 1 :]:
            scores[text[start + n - 1]] = -math.inf
    return scores


def sampled(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    """Return the new tokens of a sampling decoder: the whole text again for each token, one row at a time."""
    row, parameters, keep = list(prompt), columns([config]), DECODERS[config.strategy].keep
    assert keep is not None
    for uniform in np.random.default_rng(seed).random(config.max_new_tokens, dtype=np.float32):
        scores = penalised(logits(model, row), row, config)
        probabilities = (torch.tensor([scores]) / config.temperature).softmax(-1)
        token = int(draw(keep(probabilities, parameters), torch.tensor([uniform])))
        if token == eos:
            break
        row.append(token)
        parameters["drawn"] += 1
        parameters["surprise"] -= probabilities[0, token].log2()
    return row[len(prompt) :]


class DecoderContract(Contract):
    """The contract of a decoder. A decoder that searches also needs a slow, obvious one, `decode_slowly`."""

    other: ClassVar[Mapping[str, Any]] = {}  # a value of each key of its own that changes texts
    deterministic: ClassVar[Container[str]] = ()  # decoders that sample, but do not depend on the seed
    revising: ClassVar[Container[str]] = ()  # decoders that may find another text once this one can end

    @pytest.fixture
    def config(self, case: Settings) -> DecodingConfig:
        """The decoding settings of a case."""
        return RunConfig.of({"top_k": 20, "top_p": 0.8, "max_new_tokens": 24, **case}).decoding_config

    @pytest.fixture
    def model(self) -> GPT2:
        """A model without gradients."""
        return toys.model(seed=5)

    def is_deterministic(self, config: DecodingConfig) -> bool:
        """Whether texts do not depend on the seed."""
        return bool(DECODERS[config.strategy].search) or config.strategy in self.deterministic

    @torch.no_grad()
    def decode_slowly(self, model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
        """Return the new tokens in a slow, obvious way."""
        return sampled(model, prompt, config, seed, eos)

    def test_its_keys_have_one_meaning(self, config: DecodingConfig) -> None:
        check_keys(DECODERS[config.strategy])

    def test_texts_follow_the_seeds(self, model: GPT2, config: DecodingConfig) -> None:
        one = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
        assert one == generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
        assert (one == generate(model, PROMPTS, config, seeds=[4, 5, 6], eos=NEVER)) == self.is_deterministic(config)

    def test_a_row_does_not_depend_on_the_others(self, model: GPT2, config: DecodingConfig) -> None:
        together = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
        alone = [generate(model, [p], config, seeds=[s], eos=NEVER)[0] for p, s in zip(PROMPTS, [1, 2, 3], strict=True)]
        assert together == alone

    def test_a_row_does_not_depend_on_the_length_of_the_others(self, model: GPT2, config: DecodingConfig) -> None:
        together = generate(model, [[7] * 250, PROMPTS[0], [8] * 240, [7] * 250], config, seeds=[1, 2, 3, 4], eos=NEVER)
        assert [len(row) for row in together] == [6, 24, 16, 6]
        assert together[1] == generate(model, PROMPTS[:1], config, seeds=[2], eos=NEVER)[0]

    @pytest.mark.parametrize(
        "penalties", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram": 2}], ids=["plain", "penalised"]
    )
    def test_it_equals_the_slow_implementation(
        self, model: GPT2, config: DecodingConfig, penalties: dict[str, float]
    ) -> None:
        """Neither the cache nor batching nor padding changes anything."""
        config = config.but(max_new_tokens=10, temperature=0.8, top_k=6, num_beams=3, **penalties)
        for end in (NEVER, generate(model, PROMPTS, config, seeds=range(3), eos=NEVER)[0][5]):
            expected = [self.decode_slowly(model, prompt, config, seed, end) for seed, prompt in enumerate(PROMPTS)]
            assert generate(model, PROMPTS, config, seeds=range(3), eos=end) == expected

    def test_temperature_0_is_greedy(self, model: GPT2, config: DecodingConfig) -> None:
        greedy = generate(model, PROMPTS, COLD, seeds=[0] * 3, eos=NEVER)
        for temperature in (0.0, 1e-45, 1e-39, 9e-6):
            assert generate(model, PROMPTS, config.but(temperature=temperature), seeds=[1, 2, 3], eos=NEVER) == greedy

    def test_it_stops_at_eos(self, model: GPT2, config: DecodingConfig) -> None:
        free = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
        eos = free[0][4]
        stopped = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=eos)
        assert not any(eos in row for row in stopped)
        if config.strategy not in self.revising:
            assert stopped == [row[: row.index(eos)] if eos in row else row for row in free]

    def test_generation_stops_at_a_full_context(self, model: GPT2, config: DecodingConfig) -> None:
        (row,) = generate(model, [[1] * 250], config.but(max_new_tokens=100), seeds=[0], eos=NEVER)
        assert len(row) == 6

    @pytest.mark.parametrize("eos", [NEVER, 46])
    def test_a_stopped_row_is_a_prefix_of_the_full_row(self, model: GPT2, config: DecodingConfig, eos: int) -> None:
        """Also if other rows continue, and for prompts whose last token is in `closes`."""
        prompts = [[number, 3] for number in range(60)]
        free = generate(model, prompts, config, seeds=range(60), eos=eos)
        stop = pair_of(3, 5)
        if DECODERS[config.strategy].compares_texts:
            words = f"The decoder is `{config.strategy}`, but with `suppress` or `stop` it must"
            with pytest.raises(ConfigError, match=words):
                generate(model, prompts, config, seeds=range(60), eos=eos, stop=stop)
            return
        expected = [next((row[:end] for end in range(len(row)) if stop.done(row[:end])), row) for row in free]
        assert generate(model, prompts, config, seeds=range(60), eos=eos, stop=stop) == expected
        if not self.is_deterministic(config):
            assert 0 < sum(len(a) < len(b) for a, b in zip(expected, free, strict=True)) < 60

    @pytest.mark.parametrize(
        "penalties", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram": 1}], ids=["plain", "penalised"]
    )
    def test_a_suppressed_token_is_never_drawn(
        self, model: GPT2, config: DecodingConfig, penalties: dict[str, float]
    ) -> None:
        """The result is that of a model whose bias forbids these tokens; if one token is left, only that is drawn."""
        config = config.but(**penalties)
        suppress = [token for token in range(320) if token % 3]
        if DECODERS[config.strategy].compares_texts:
            with pytest.raises(ConfigError, match="it must be one of greedy, top-k"):
                generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=suppress)
            return
        rows = generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=suppress)
        assert {token % 3 for row in rows for token in row} == {0}
        assert [len(row) for row in rows] == [24] * 3
        assert rows == generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=suppress[::-1] * 2)
        only = generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=[t for t in range(320) if t != 9])
        assert only == [[9] * 24] * 3  # suppression takes precedence over the ban on repetition

    def test_exactly_the_keys_in_the_identity_affect_the_texts(
        self, model: GPT2, config: DecodingConfig, case: Settings
    ) -> None:
        prompts, seeds = [[first, first] for first in range(12)], range(12)
        (eos, _), *_ = Counter(chain(*generate(model, prompts, config, seeds=seeds, eos=NEVER))).most_common()
        texts = generate(model, prompts, config, seeds=seeds, eos=eos)
        deciding = identity(RunConfig.of(case))
        keys, other = DECODERS[config.strategy].keys.model_fields, {**OTHER, **self.other}
        assert keys.keys() <= other.keys(), "`other` lacks a key"
        for key in {**DecodingKeys.model_fields, **keys}:
            changed = generate(model, prompts, config.but(**{key: other[key]}), seeds=seeds, eos=eos)
            assert (changed != texts) == (key in keys), key
            assert (key in deciding) == (key in keys), key
