"""Rows of one call have their own strategies, parameters and ends; each prompt is computed once."""

import pytest
import torch

from gpt2core.builders import build_model
from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.decoding import DECODERS
from gpt2core.model import GPT2, KVCache
from gpt2core.tasks.sonnet import continuations
from gpt2core.testing import toys
from gpt2core.testing.decoders import generate

NEVER = 10**9
PROMPTS = [[5, 6, 7], [9], [30, 2, 11, 40, 8, 1]]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return toys.model(seed=6)


def settings() -> list[DecodingConfig]:
    return [
        DecodingConfig(
            strategy=name,
            temperature=0.6 + 0.05 * number,
            top_k=3 + number,
            top_p=0.5 + 0.01 * number,
            mirostat_tau=2.0 + 0.1 * number,
            num_beams=2 + number % 3,
            length_penalty=0.5 * (number % 4),
            repetition_penalty=1.0 + 0.1 * (number % 3),
            no_repeat_ngram=number % 4,
            max_new_tokens=6 + number,
        )
        for number, name in enumerate([*DECODERS, *DECODERS])
    ]


@pytest.mark.parametrize("eos", [NEVER, 46])
def test_a_mixed_call_equals_separate_calls(model: GPT2, eos: int) -> None:
    configs = settings()
    prompts = [PROMPTS[row % 3] for row in range(len(configs))]
    together = generate(model, prompts, configs, seeds=range(len(configs)), eos=eos)
    for row, config in enumerate(configs):
        assert together[row] == generate(model, [prompts[row]], config, seeds=[row], eos=eos)[0], config
    if eos == NEVER:
        assert [len(text) for text in together] == [config.max_new_tokens for config in configs]


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_prompt_that_rows_share_is_computed_once(model: GPT2, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, seen = GPT2.forward, []

    def counted(self: GPT2, input_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(tuple(input_ids.shape))
        return forward(self, input_ids, *rest)  # type: ignore[arg-type]

    config = DecodingConfig(strategy=name, top_k=4, max_new_tokens=12)
    alone = [generate(model, [p], config, seeds=[s], eos=NEVER)[0] for s in range(4) for p in PROMPTS]
    monkeypatch.setattr(GPT2, "forward", counted)
    assert generate(model, PROMPTS * 4, config, seeds=[seed for seed in range(4) for _ in PROMPTS], eos=NEVER) == alone
    assert [shape for shape in seen if 1 < shape[1] < 12] == [(3, 6)], "judges read whole texts, of more than 12 tokens"


def test_finished_rows_leave_the_batch(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = GPT2.forward, []

    def counted(self: GPT2, input_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(input_ids))
        return forward(self, input_ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(GPT2, "forward", counted)
    configs = [DecodingConfig(max_new_tokens=limit) for limit in [1, 2, 2, 20, 3, 20, 2, 20]]
    together = generate(model, [[7]] * 8, configs, seeds=range(8), eos=NEVER)
    assert sizes == [1, 8] + [4] * 18
    for row, config in enumerate(configs):
        assert together[row] == generate(model, [[7]], config, seeds=[row], eos=NEVER)[0]


def test_mirostat_approaches_its_target_surprise() -> None:
    """The mean surprise in bits of drawn tokens is between those of greedy decoding, 4.4, and of full sampling, 7.6."""
    model = toys.model(seed=8)
    prompts = [[first] for first in range(40)]

    def surprise(config: DecodingConfig) -> float:
        texts = generate(model, prompts, config, seeds=range(40), eos=NEVER)
        tokens = torch.tensor([[*p, *t] for p, t in zip(prompts, texts, strict=True)])
        with torch.no_grad():
            log_probs = model.logits(model(tokens[:, :-1])).log_softmax(-1) / torch.tensor(2.0).log()
        return float(-log_probs.gather(-1, tokens[:, 1:, None])[:, 50:].mean())

    assert surprise(DecodingConfig(strategy="greedy", max_new_tokens=200)) < 4.5
    assert surprise(DecodingConfig(top_p=1.0, max_new_tokens=200)) > 7.5
    for tau in (5.0, 6.0):
        config = DecodingConfig(strategy="mirostat", mirostat_tau=tau, max_new_tokens=200)
        assert surprise(config) == pytest.approx(tau, abs=0.1)


def test_training_mode_is_restored(model: GPT2) -> None:
    for mode in (True, False):
        model.train(mode)
        generate(model, PROMPTS, DecodingConfig(max_new_tokens=2), seeds=[0] * 3, eos=NEVER)
        assert model.training == mode


@torch.no_grad()
def test_a_cache_of_selected_rows_continues_them(model: GPT2) -> None:
    tokens = torch.randint(320, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    cache = KVCache(model, 3, 9)
    model(tokens[:, :6], mask[:, :6], cache)
    rows = torch.tensor([2, 1, 1, 0])
    chosen = cache.select(rows, 9)
    for step in range(6, 9):
        hidden = model(tokens[rows, step : step + 1], None, chosen)
    torch.testing.assert_close(hidden[:, -1], model(tokens, mask)[rows, -1])
    assert cache.length == 6


@torch.no_grad()
def test_a_reordered_cache_continues_its_rows(model: GPT2) -> None:
    tokens = torch.randint(320, (3, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, :4] = tokens[0, :4]
    cache = KVCache(model, 3, 9)
    model(tokens[:, :8], None, cache)
    rows = torch.tensor([1, 1, 0])
    cache.reorder(rows, since=4)
    torch.testing.assert_close(model(tokens[rows, 8:], None, cache)[:, -1], model(tokens[rows])[:, -1])


def test_a_frozen_model_computes_its_prompts_once_for_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    base = toys.model(seed=5)
    run = toys.RUN.but(adapter="frozen")
    frozen = build_model(run, base, torch.device("cpu"))
    assert build_model(run, base, torch.device("cpu")) is frozen
    configs = [DecodingConfig(strategy=name, max_new_tokens=8) for name in ("greedy", "top-p", "beam")]
    expected = [generate(toys.model(seed=5), PROMPTS, config, seeds=[1, 2, 3], eos=NEVER) for config in configs]
    first = generate(frozen, PROMPTS, configs[0], seeds=[1, 2, 3], eos=NEVER)
    monkeypatch.setattr("gpt2core.decoding.batch.KVCache", None)  # computing again would fail
    assert [first, *(generate(frozen, PROMPTS, c, seeds=[1, 2, 3], eos=NEVER) for c in configs[1:])] == expected


@pytest.mark.parametrize(
    "run", [toys.RUN, toys.RUN.but(adapter="lora"), toys.RUN.but(adapter="frozen")], ids=lambda r: r.adapter
)
def test_a_bfloat16_run_generates_with_cast_weights_and_keeps_its_own(run: RunConfig) -> None:
    given = [toys.lines(3, seed) for seed in range(4)]
    run = run.but(max_new_tokens=40)
    made, cast = (build_model(run, toys.model(seed=5), torch.device("cpu")) for _ in range(2))
    plain = continuations(made, toys.tokenizer(), given, run)
    texts = continuations(made, toys.tokenizer(), given, run.but(precision="bfloat16"))
    assert texts == continuations(cast.bfloat16(), toys.tokenizer(), given, run) != plain
    assert {parameter.dtype for parameter in made.parameters()} == {torch.float32}
    assert continuations(made, toys.tokenizer(), given, run) == plain
