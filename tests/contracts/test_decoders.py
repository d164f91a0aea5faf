"""The contract of decoding strategies, for each of DECODERS; search procedures also need a slow one in `slow_decoding.py`."""

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.decoding import DECODERS
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.identity import identity
from gpt2core.model import GPT2
from gpt2core.testing import DecoderContract, toys
from gpt2core.testing.decoders import COLD, NEVER, PROMPTS, generate, sampled
from tests import slow_decoding

SEARCHES = {name for name, decoder in DECODERS.items() if decoder.search}


class TestDecoders(DecoderContract):
    cases: ClassVar = {name: {"decoder": name} for name in sorted(DECODERS)}
    deterministic = ("greedy",)
    revising = ("beam", "best-form", "best-likelihood")

    @torch.no_grad()
    def decode_slowly(self, model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
        return slow_decoding.SEARCHES.get(config.strategy, sampled)(model, prompt, config, seed, eos)


@pytest.fixture(params=sorted(DECODERS))
def config(request: pytest.FixtureRequest) -> DecodingConfig:
    return DecodingConfig(strategy=request.param, top_k=20, top_p=0.8, max_new_tokens=24)


@pytest.fixture(scope="module")
def model() -> GPT2:
    return toys.model(seed=5)


@pytest.mark.parametrize(
    "narrowest",
    [{"top_k": 1, "top_p": 1e-46}, {"min_p": 1.0, "typical_p": 1e-46, "mirostat_tau": 1e-46, "num_beams": 1}],
    ids=["k and p", "others"],
)
def test_the_narrowest_values_leave_one_token(model: GPT2, config: DecodingConfig, narrowest: dict[str, float]) -> None:
    """It is the likeliest token, except for typical sampling and where words are weighted by their rhymes."""
    read = DECODERS[config.strategy].keys.model_fields
    if set(narrowest) & set(read):
        one = generate(model, PROMPTS, config.but(**narrowest), seeds=[1, 2, 3], eos=NEVER)
        assert one == generate(model, PROMPTS, config.but(**narrowest), seeds=[4, 5, 6], eos=NEVER)
        if config.strategy not in ("typical", "mirostat", "form"):
            assert one == generate(model, PROMPTS, COLD, seeds=[0] * 3, eos=NEVER)


@pytest.mark.parametrize("suppress", [[-1], [3, 320], range(320)])
def test_invalid_suppressed_tokens_are_explained(model: GPT2, suppress: Sequence[int]) -> None:
    with pytest.raises(ConfigError, match="must name some of the model's tokens, 0 to 319, and not all"):
        generate(model, PROMPTS, DecodingConfig(), seeds=range(3), eos=0, suppress=suppress)


def test_equivalents_of_greedy_decoding_have_the_same_identity() -> None:
    greedy = identity(RunConfig(decoder="greedy"))
    assert greedy == identity(RunConfig(decoder="beam", num_beams=1, length_penalty=2.0))
    assert greedy == identity(RunConfig(decoder="mirostat", temperature=0.0))
    assert greedy != identity(RunConfig(decoder="greedy", repetition_penalty=1.2))


def test_invalid_rows_and_names_are_explained(model: GPT2) -> None:
    config = DecodingConfig()
    with pytest.raises(ConfigError, match="A prompt has 0 tokens, but must have 1 to 255"):
        generate(model, [[]], config, seeds=[0], eos=0)
    with pytest.raises(ConfigError, match="A prompt has 256 tokens"):
        generate(model, [[1] * 256], config, seeds=[0], eos=0)
    with pytest.raises(UnknownNameError, match="Unknown decoder `topp`: did you mean `top-p`"):
        generate(model, [[1]], config.but(strategy="topp"), seeds=[0], eos=0)
    with pytest.raises(ConfigError, match="`num_beams` is 321, but must be at most 320, the size of the model's"):
        generate(model, [[1]], config.but(strategy="beam", num_beams=321), seeds=[0], eos=0)
    with pytest.raises(ConfigError, match="There are 2 prompts, 1 configurations and 2 seeds"):
        generate(model, [[1], [2]], [config], seeds=[0, 1], eos=0)
    assert generate(model, [], config, seeds=[], eos=0) == []


@pytest.mark.parametrize(("values", "rule"), [
    ({"top_k": 0}, ">= 1"), ({"top_p": 0}, "> 0"),
    ({"top_p": 1.01}, "<= 1"), ({"min_p": 0}, "> 0"),
    ({"min_p": 1.5}, "<= 1"), ({"typical_p": 0}, "> 0"),
    ({"typical_p": 2}, "<= 1"), ({"epsilon": 1}, "< 1"),
    ({"mirostat_tau": 0}, "> 0"), ({"mirostat_eta": 0}, "> 0"),
    ({"penalty_alpha": -0.1}, ">= 0"), ({"num_beams": 0}, ">= 1"),
    ({"length_penalty": 11}, "<= 10"),
    ({"repetition_penalty": 0}, r">= 0\.01"),
    ({"no_repeat_ngram": -1}, ">= 0"),
    ({"temperature": -1}, ">= 0"),
    ({"beam_early_stopping": "perhaps"}, "true or false"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [DecodingConfig, RunConfig])
def test_invalid_values_are_named(kind: type[DecodingConfig | RunConfig], values: dict[str, object], rule: str) -> None:
    ((key, value),) = values.items()
    with pytest.raises(ConfigError, match=f"The value of `{key}` is {value!r}, but must be {rule}"):
        kind.of(values)
