"""What every decoding strategy promises, and the kept sets of transformers; a new entry of DECODERS is tested as it is."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from gpt2core.config import DecodingConfig
from gpt2core.decoding import DECODERS
from gpt2core.decoding.generate import _draw, generate
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.model import GPT2
from tests import toys

PROMPTS = [[5, 6, 7], [9], [30, 2, 11, 40, 8, 1]]
NEVER = 10**9  # an EOS that no model draws


@pytest.fixture(params=sorted(DECODERS))
def config(request: pytest.FixtureRequest) -> DecodingConfig:
    return DecodingConfig(strategy=request.param, top_k=20, top_p=0.8, max_new_tokens=24)


@pytest.fixture(scope="module")
def model() -> GPT2:
    return toys.model(seed=5)


def test_the_same_seeds_give_the_same_text_and_others_another(model: GPT2, config: DecodingConfig) -> None:
    one = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    assert one == generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    if config.strategy != "greedy":
        assert one != generate(model, PROMPTS, config, seeds=[4, 5, 6], eos=NEVER)


def test_a_row_does_not_depend_on_the_others(model: GPT2, config: DecodingConfig) -> None:
    together = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    alone = [generate(model, [p], config, seeds=[s], eos=NEVER)[0] for p, s in zip(PROMPTS, [1, 2, 3], strict=True)]
    assert together == alone


def test_temperature_0_is_greedy(model: GPT2, config: DecodingConfig) -> None:
    greedy = generate(model, PROMPTS, config.but(strategy="greedy"), seeds=[0] * 3, eos=NEVER)
    assert generate(model, PROMPTS, config.but(temperature=0.0), seeds=[1, 2, 3], eos=NEVER) == greedy


@pytest.mark.parametrize("coldest", [{"temperature": 1e-45}, {"temperature": 1e-39}, {"top_p": 1e-46}])
def test_the_smallest_values_leave_the_likeliest_token(
    model: GPT2, config: DecodingConfig, coldest: dict[str, float]
) -> None:
    greedy = generate(model, PROMPTS, config.but(strategy="greedy"), seeds=[0] * 3, eos=NEVER)
    if config.strategy != "top-k" or "top_p" not in coldest:
        assert generate(model, PROMPTS, config.but(**coldest), seeds=[1, 2, 3], eos=NEVER) == greedy


def test_it_stops_at_eos(model: GPT2, config: DecodingConfig) -> None:
    free = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=NEVER)
    eos = free[0][4]
    stopped = generate(model, PROMPTS, config, seeds=[1, 2, 3], eos=eos)
    assert stopped == [row[: row.index(eos)] if eos in row else row for row in free]


@torch.no_grad()
def test_the_cache_changes_nothing(model: GPT2, config: DecodingConfig) -> None:
    """Against the slow, obvious way: the whole text again for each token, one row at a time."""
    config = config.but(max_new_tokens=12, temperature=0.8)
    expected = []
    for seed, prompt in enumerate(PROMPTS):
        row = list(prompt)
        for uniform in np.random.default_rng(seed).random(12, dtype=np.float32):
            probabilities = (model.logits(model(torch.tensor([row]))[:, -1]) / 0.8).softmax(-1)
            row.append(int(_draw(DECODERS[config.strategy](probabilities, config), torch.tensor([uniform]))))
        expected.append(row[len(prompt) :])
    assert generate(model, PROMPTS, config, seeds=range(3), eos=NEVER) == expected


def test_greedy_gives_the_tokens_of_transformers(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = toys.folder(tmp_path_factory.mktemp("toy"))
    theirs = GPT2LMHeadModel.from_pretrained(folder).train(False)
    padded = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in PROMPTS])
    expected = theirs.generate(
        padded,
        attention_mask=torch.tensor([[0] * (6 - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[:, 6:].tolist()
    config = DecodingConfig(strategy="greedy", max_new_tokens=20)
    assert generate(toys.model(), PROMPTS, config, seeds=[0] * 3, eos=NEVER) == expected


@pytest.mark.parametrize("spread", [0.3, 2.0, 6.0])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("k", [1, 17, 600])
def test_the_kept_sets_are_those_of_transformers(k: int, p: float, spread: float) -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(k)) * spread
    probabilities = logits.softmax(-1)
    config = DecodingConfig(top_k=k, top_p=p)
    in_k = TopKLogitsWarper(k)(torch.empty(6, 0), logits) > -torch.inf
    in_p = TopPLogitsWarper(p)(torch.empty(6, 0), logits) > -torch.inf if p < 1 else torch.ones_like(in_k)
    both = TopKLogitsWarper(k)(torch.empty(6, 0), logits)
    both = TopPLogitsWarper(p)(torch.empty(6, 0), both) if p < 1 else both
    expected = {"top-k": in_k, "top-p": in_p, "top-k-p": both > -torch.inf, "top-k-p-study": in_k & in_p}
    for name, kept in expected.items():
        ours = DECODERS[name](probabilities, config)
        assert torch.equal(ours > 0, kept), name
        assert torch.equal(ours[kept], probabilities[kept]), name


def test_equal_tokens_are_never_more_than_k() -> None:
    probabilities = torch.full((1, 10), 0.1)
    for name in ("top-k", "top-k-p", "top-k-p-study", "greedy"):
        kept = int((DECODERS[name](probabilities, DecodingConfig(top_k=1, top_p=1.0)) > 0).sum())
        assert kept == 1, name


def test_a_token_that_is_not_kept_is_never_drawn() -> None:
    probabilities = torch.zeros(1, 50)
    probabilities[0, [3, 20]] = torch.tensor([0.3, 0.2])
    uniform = torch.linspace(0, 1, 1001).clamp(max=1 - 2**-24)
    drawn = [int(_draw(probabilities, u[None])) for u in uniform]
    assert set(drawn) == {3, 20}
    assert drawn.count(3) == pytest.approx(600, abs=2)


def test_bad_prompts_and_names_are_explained(model: GPT2) -> None:
    config = DecodingConfig()
    with pytest.raises(ConfigError, match="A prompt has 0 tokens, but must have 1 to 255"):
        generate(model, [[]], config, seeds=[0], eos=0)
    with pytest.raises(ConfigError, match="A prompt has 256 tokens"):
        generate(model, [[1] * 256], config, seeds=[0], eos=0)
    with pytest.raises(UnknownNameError, match="Unknown decoder `topp`: did you mean `top-p`"):
        generate(model, [[1]], config.but(strategy="topp"), seeds=[0], eos=0)


def test_generation_ends_where_the_context_does(model: GPT2) -> None:
    (row,) = generate(model, [[1] * 250], DecodingConfig(max_new_tokens=100), seeds=[0], eos=NEVER)
    assert len(row) == 6
