"""Greedy and beam search equal transformers', beam search equals exhaustive search, contrastive search equals its formula."""

from itertools import product

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2core.config import DecodingConfig, ModelConfig
from gpt2core.decoding.batch import Request, prefill
from gpt2core.decoding.beam import beam
from gpt2core.decoding.generate import generate
from gpt2core.model import GPT2
from gpt2core.testing import toys
from gpt2core.weights import save_model
from tests import slow_decoding

PROMPTS = [[5, 6, 7], [9], [30, 2, 11, 40, 8, 1]]
NEVER = 10**9
NEW = 16


@pytest.fixture(scope="module", params=[0, 1, 2])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT2, GPT2LMHeadModel]:
    ours, folder = toys.model(seed=request.param), tmp_path_factory.mktemp("toy")
    save_model(ours, folder)
    return ours, GPT2LMHeadModel.from_pretrained(folder).train(False)


def by_transformers(model: GPT2LMHeadModel, eos: int | None, **options: object) -> list[list[int]]:
    width = max(map(len, PROMPTS))
    rows = model.generate(
        torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS]),
        attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
        **options,
    )[:, width:].tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def likely_end(model: GPT2, place: int) -> int:
    """Return a token that occurs in this model's texts, so that as EOS it ends some of them."""
    config = DecodingConfig(strategy="greedy", max_new_tokens=NEW)
    return generate(model, PROMPTS, config, seeds=[0] * 3, eos=NEVER)[place % 3][place]


@pytest.mark.parametrize("place", [None, 2, 7])
def test_greedy_gives_the_tokens_of_transformers(pair: tuple[GPT2, GPT2LMHeadModel], place: int | None) -> None:
    ours, theirs = pair
    eos = None if place is None else likely_end(ours, place)
    config = DecodingConfig(strategy="greedy", max_new_tokens=NEW)
    expected = by_transformers(theirs, eos)
    assert generate(ours, PROMPTS, config, seeds=[0] * 3, eos=NEVER if eos is None else eos) == expected


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize(("beams", "place"), [(2, None), (2, 2), (5, 3), (5, 7), (16, 5)])
def test_beam_search_gives_the_tokens_of_transformers(
    pair: tuple[GPT2, GPT2LMHeadModel], beams: int, place: int | None, length_penalty: float, early: bool
) -> None:
    ours, theirs = pair
    eos = None if place is None else likely_end(ours, place)
    config = DecodingConfig(
        strategy="beam", num_beams=beams, length_penalty=length_penalty, beam_early_stopping=early, max_new_tokens=NEW
    )
    expected = by_transformers(theirs, eos, num_beams=beams, length_penalty=length_penalty, early_stopping=early)
    assert generate(ours, PROMPTS, config, seeds=[0] * 3, eos=NEVER if eos is None else eos) == expected


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_penalties_are_applied_where_transformers_does(pair: tuple[GPT2, GPT2LMHeadModel], strategy: str) -> None:
    """One prompt at a time, because transformers' penalties include padding."""
    ours, theirs = pair
    config = DecodingConfig(strategy=strategy, repetition_penalty=1.4, no_repeat_ngram=2, max_new_tokens=NEW)
    for prompt in PROMPTS:
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            num_beams=5 if strategy == "beam" else 1,
            repetition_penalty=1.4,
            no_repeat_ngram_size=2,
            eos_token_id=None,
            pad_token_id=0,
        )[:, len(prompt) :].tolist()
        assert generate(ours, [prompt], config, seeds=[0], eos=NEVER) == expected


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_beam_search_with_enough_beams_finds_the_best_text(seed: int, length_penalty: float) -> None:
    vocabulary, new, eos, prompt = 4, 4, 0, [1, 3]
    model = toys.model(seed, ModelConfig(vocab_size=vocabulary, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    scores = {}
    for text in product(range(vocabulary), repeat=new):
        text = text[: text.index(eos) + 1] if eos in text else text
        log_probs = model.logits(model(torch.tensor([[*prompt, *text]]))[0]).log_softmax(-1)
        total = sum(float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(text))
        scores[text] = total / len(text) ** length_penalty
    config = DecodingConfig(strategy="beam", length_penalty=length_penalty)
    with torch.inference_mode():
        (found,) = beam(
            model, prefill(model, [Request(tuple(prompt), config, 0, new)]), torch.tensor([eos]), vocabulary**new
        ).tolist()
    best = max(scores, key=lambda text: scores[text])
    assert found[: len(best)] == list(best)


@pytest.mark.parametrize("name", ["beam", "contrastive"])
def test_many_rows_are_searched_in_parts_and_equal_ones_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = toys.model(seed=4), [[first] for first in range(6)] * 2
    config = DecodingConfig(strategy=name, top_k=4, num_beams=4, max_new_tokens=8)
    whole = generate(model, prompts, config, seeds=range(12), eos=NEVER)
    assert whole[:6] == whole[6:]
    forward, sizes = GPT2.forward, []

    def counted(self: GPT2, input_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(input_ids))
        return forward(self, input_ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(GPT2, "forward", counted)
    monkeypatch.setattr("gpt2core.decoding.searching.MOST", 8)
    assert generate(model, prompts, config, seeds=range(12), eos=NEVER) == whole
    assert set(sizes[1:]) == {8}


def test_beams_do_not_collapse() -> None:
    """For most prompts of a small model, 8 beams find a likelier text than greedy decoding."""
    model, prompts = toys.model(seed=3), [[first] for first in range(12)]
    greedy_texts, many = (
        generate(
            model, prompts, DecodingConfig(strategy="beam", num_beams=k, max_new_tokens=8), seeds=[0] * 12, eos=NEVER
        )
        for k in (1, 8)
    )
    assert sum(a != b for a, b in zip(greedy_texts, many, strict=True)) > 6


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("k", [1, 4, 9])
@torch.no_grad()
def test_contrastive_search_follows_its_formula(k: int, alpha: float) -> None:
    model = toys.model(seed=4)
    config = DecodingConfig(strategy="contrastive", top_k=k, penalty_alpha=alpha, max_new_tokens=10)
    expected = [slow_decoding.contrastive(model, prompt, config, 0, NEVER) for prompt in PROMPTS]
    assert generate(model, PROMPTS, config, seeds=[0] * 3, eos=NEVER) == expected
    if alpha == 0 or k == 1:
        assert expected == generate(model, PROMPTS, config.but(strategy="greedy"), seeds=[0] * 3, eos=NEVER)
