"""The contract of decoding strategies, for each of DECODERS; search procedures also need a slow one in `slow_decoding.py`."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import pytest

from gpt2core.config import DecodingConfig, DecodingKeys, RunConfig
from gpt2core.decoding import DECODERS
from gpt2core.decoding.generate import generate
from gpt2core.decoding.sample import Stop
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.identity import identity
from gpt2core.model import GPT2
from tests import slow_decoding, toys

PROMPTS = [[5, 6, 7], [9], [30, 2, 11, 40, 8, 1]]
NEVER = 10**9  # an EOS that no model generates
SEARCHES = {name for name, decoder in DECODERS.items() if decoder.search}
DETERMINISTIC = {"greedy", *SEARCHES}
COLD = DecodingConfig(strategy="greedy", max_new_tokens=24)
#: A value of each key that changes the result compared with the fixture `config`.
OTHER = {
    "temperature": 0.4, "top_k": 3, "top_p": 0.2, "min_p": 0.9, "typical_p": 0.1, "epsilon": 0.5,
    "mirostat_tau": 0.1, "mirostat_eta": 2.0, "penalty_alpha": 0.1, "num_beams": 2, "length_penalty": -5.0,
    "beam_early_stopping": True, "repetition_penalty": 3.0, "no_repeat_ngram": 1, "max_new_tokens": 5,
}  # fmt: skip


@pytest.fixture(params=sorted(DECODERS))
def config(request: pytest.FixtureRequest) -> DecodingConfig:
    return DecodingConfig(strategy=request.param, top_k=20, top_p=0.8, max_new_tokens=24)


@pytest.fixture(scope="module")
def model() -> GPT2:
    return toys.model(seed=5)


def test_texts_follow_the_seeds(model: GPT2, config: DecodingConfig) -> None:
    one = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    assert one == generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    assert (one == generate(model, PROMPTS, config, seeds=[4, 5, 6], eos=NEVER)) == (config.strategy in DETERMINISTIC)


def test_a_row_does_not_depend_on_the_others(model: GPT2, config: DecodingConfig) -> None:
    together = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    alone = [generate(model, [p], config, seeds=[s], eos=NEVER)[0] for p, s in zip(PROMPTS, [1, 2, 3], strict=True)]
    assert together == alone


def test_a_row_does_not_depend_on_the_length_of_the_others(model: GPT2, config: DecodingConfig) -> None:
    together = generate(model, [[7] * 250, PROMPTS[0], [8] * 240, [7] * 250], config, seeds=[1, 2, 3, 4], eos=NEVER)
    assert [len(row) for row in together] == [6, 24, 16, 6]
    assert together[1] == generate(model, PROMPTS[:1], config, seeds=[2], eos=NEVER)[0]


@pytest.mark.parametrize(
    "penalties", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram": 2}], ids=["plain", "penalised"]
)
def test_it_equals_the_slow_implementation(model: GPT2, config: DecodingConfig, penalties: dict[str, float]) -> None:
    """Neither the cache nor batching nor padding changes anything."""
    config = config.but(max_new_tokens=10, temperature=0.8, top_k=6, num_beams=3, **penalties)
    for end in (NEVER, generate(model, PROMPTS, config, seeds=range(3), eos=NEVER)[0][5]):
        expected = [slow_decoding.decode(model, prompt, config, seed, end) for seed, prompt in enumerate(PROMPTS)]
        assert generate(model, PROMPTS, config, seeds=range(3), eos=end) == expected


def test_temperature_0_is_greedy(model: GPT2, config: DecodingConfig) -> None:
    greedy = generate(model, PROMPTS, COLD, seeds=[0] * 3, eos=NEVER)
    for temperature in (0.0, 1e-45, 1e-39, 9e-6):
        assert generate(model, PROMPTS, config.but(temperature=temperature), seeds=[1, 2, 3], eos=NEVER) == greedy


@pytest.mark.parametrize(
    "narrowest",
    [{"top_k": 1, "top_p": 1e-46}, {"min_p": 1.0, "typical_p": 1e-46, "mirostat_tau": 1e-46, "num_beams": 1}],
    ids=["k and p", "others"],
)
def test_the_narrowest_values_leave_one_token(model: GPT2, config: DecodingConfig, narrowest: dict[str, float]) -> None:
    """It is the likeliest token, except for typical sampling."""
    read = DECODERS[config.strategy].keys.model_fields
    if set(narrowest) & set(read):
        one = generate(model, PROMPTS, config.but(**narrowest), seeds=[1, 2, 3], eos=NEVER)
        assert one == generate(model, PROMPTS, config.but(**narrowest), seeds=[4, 5, 6], eos=NEVER)
        if config.strategy not in ("typical", "mirostat"):
            assert one == generate(model, PROMPTS, COLD, seeds=[0] * 3, eos=NEVER)


def test_it_stops_at_eos(model: GPT2, config: DecodingConfig) -> None:
    free = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    eos = free[0][4]
    stopped = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=eos)
    assert not any(eos in row for row in stopped)
    if config.strategy != "beam":  # which may find another text once this one can end
        assert stopped == [row[: row.index(eos)] if eos in row else row for row in free]


def test_generation_stops_at_a_full_context(model: GPT2, config: DecodingConfig) -> None:
    (row,) = generate(model, [[1] * 250], config.but(max_new_tokens=100), seeds=[0], eos=NEVER)
    assert len(row) == 6


def pair_of(first: int, second: int) -> Stop:
    """Return a criterion that ends a row after two consecutive tokens of these classes, modulo 8."""

    def done(ids: Sequence[int]) -> bool:
        return any(a % 8 == first and b % 8 == second for a, b in pairwise(ids))

    numbers = np.arange(320) % 8
    return Stop(closes=numbers == first, opens=numbers == second, done=done)


@pytest.mark.parametrize("eos", [NEVER, 46])
def test_a_stopped_row_is_a_prefix_of_the_full_row(model: GPT2, config: DecodingConfig, eos: int) -> None:
    """Also if other rows continue, and for prompts whose last token is in `closes`."""
    prompts = [[number, 3] for number in range(60)]
    free = generate(model, prompts, config, seeds=range(60), eos=eos)
    stop = pair_of(3, 5)
    if config.strategy in SEARCHES:
        words = f"The decoder is `{config.strategy}`, but with `suppress` or `stop` it must"
        with pytest.raises(ConfigError, match=words):
            generate(model, prompts, config, seeds=range(60), eos=eos, stop=stop)
        return
    expected = [next((row[:end] for end in range(len(row)) if stop.done(row[:end])), row) for row in free]
    assert generate(model, prompts, config, seeds=range(60), eos=eos, stop=stop) == expected
    if config.strategy != "greedy":
        assert 10 < sum(len(a) < len(b) for a, b in zip(expected, free, strict=True)) < 60


@pytest.mark.parametrize(
    "penalties", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram": 1}], ids=["plain", "penalised"]
)
def test_a_suppressed_token_is_never_drawn(model: GPT2, config: DecodingConfig, penalties: dict[str, float]) -> None:
    """The result is that of a model whose bias forbids these tokens; if one token is left, only that is drawn."""
    config = config.but(**penalties)
    suppress = [token for token in range(320) if token % 3]
    if config.strategy in SEARCHES:
        with pytest.raises(ConfigError, match="it must be one of greedy, top-k"):
            generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=suppress)
        return
    rows = generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=suppress)
    assert {token % 3 for row in rows for token in row} == {0}
    assert [len(row) for row in rows] == [24] * 3
    assert rows == generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=suppress[::-1] * 2)
    only = generate(model, PROMPTS, config, seeds=range(3), eos=NEVER, suppress=[t for t in range(320) if t != 9])
    assert only == [[9] * 24] * 3  # suppression takes precedence over the ban on repetition


@pytest.mark.parametrize("suppress", [[-1], [3, 320], range(320)])
def test_invalid_suppressed_tokens_are_explained(model: GPT2, suppress: Sequence[int]) -> None:
    with pytest.raises(ConfigError, match="must name some of the model's tokens, 0 to 319, and not all"):
        generate(model, PROMPTS, DecodingConfig(), seeds=range(3), eos=0, suppress=suppress)


def test_exactly_the_keys_in_the_identity_affect_the_texts(model: GPT2, config: DecodingConfig) -> None:
    prompts, seeds = [[first, first] for first in range(12)], range(12)
    (eos, _), *_ = Counter(chain(*generate(model, prompts, config, seeds=seeds, eos=NEVER))).most_common()
    texts = generate(model, prompts, config, seeds=seeds, eos=eos)
    deciding = identity(RunConfig(decoder=config.strategy))
    for key in DecodingKeys.model_fields:
        read = key in DECODERS[config.strategy].keys.model_fields
        assert (generate(model, prompts, config.but(**{key: OTHER[key]}), seeds=seeds, eos=eos) != texts) == read, key
        assert (key in deciding) == read, key


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
    ({"top_k": 0}, "greater than or equal to 1"), ({"top_p": 0}, "greater than 0"),
    ({"top_p": 1.01}, "less than or equal to 1"), ({"min_p": 0}, "greater than 0"),
    ({"min_p": 1.5}, "less than or equal to 1"), ({"typical_p": 0}, "greater than 0"),
    ({"typical_p": 2}, "less than or equal to 1"), ({"epsilon": 1}, "less than 1"),
    ({"mirostat_tau": 0}, "greater than 0"), ({"mirostat_eta": 0}, "greater than 0"),
    ({"penalty_alpha": -0.1}, "greater than or equal to 0"), ({"num_beams": 0}, "greater than or equal to 1"),
    ({"length_penalty": 11}, "less than or equal to 10"),
    ({"repetition_penalty": 0}, r"greater than or equal to 0\.01"),
    ({"no_repeat_ngram": -1}, "greater than or equal to 0"),
    ({"temperature": -1}, "greater than or equal to 0"),
    ({"beam_early_stopping": "perhaps"}, "a valid boolean"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [DecodingConfig, RunConfig])
def test_invalid_values_are_named(kind: type[DecodingConfig | RunConfig], values: dict[str, object], rule: str) -> None:
    ((key, value),) = values.items()
    with pytest.raises(ConfigError, match=f"The value of `{key}` is {value!r}, but must be {rule}"):
        kind.of(values)
