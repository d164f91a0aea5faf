"""The branches that generation takes on a GPU give the same texts as those of a CPU, and rarely wait for the device."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gpt2core.builders import build_model
from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.decoding import DECODERS
from gpt2core.decoding.batch import LOOK
from gpt2core.decoding.filters import first_by_buckets, top_p
from gpt2core.decoding.generate import generate
from gpt2core.decoding.sample import Stop
from gpt2core.model import GPT2
from gpt2core.projection import joined_weights, packed_weights
from gpt2core.testing import toys
from tests.gpu_paths import HostWaits, as_on_a_gpu

NEVER = 10**9
PROMPTS = [[5, 6, 7], [9], [30, 2, 11, 40, 8, 1]]
PENALTIES = {"repetition_penalty": 1.3, "no_repeat_ngram": 2}


@pytest.fixture(scope="module")
def model() -> GPT2:
    return toys.model(seed=5)


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("eos", [NEVER, 46])
def test_texts_are_those_of_a_cpu(model: GPT2, name: str, eos: int) -> None:
    configs = [DecodingConfig(strategy=name, top_k=9, max_new_tokens=n, **PENALTIES) for n in (3, 8, 21, 30)]
    requests = [(prompt, config) for config in configs for prompt in PROMPTS]
    prompts, each = zip(*requests, strict=True)
    tokenizer = toys.tokenizer()
    expected = generate(model, prompts, each, seeds=range(12), eos=eos, tokenizer=tokenizer)
    with as_on_a_gpu():
        assert generate(model, prompts, each, seeds=range(12), eos=eos, tokenizer=tokenizer) == expected


def test_texts_stop_where_they_do_on_a_cpu(model: GPT2) -> None:
    def done(ids: Sequence[int]) -> bool:
        return any(ids[place] % 8 == 3 and ids[place + 1] % 8 == 5 for place in range(len(ids) - 1))

    numbers = np.arange(320) % 8
    stop = Stop(closes=numbers == 3, opens=numbers == 5, done=done)
    prompts, config = [[number, 3] for number in range(60)], DecodingConfig(max_new_tokens=30)
    expected = generate(model, prompts, config, seeds=range(60), eos=46, stop=stop)
    with as_on_a_gpu():
        assert generate(model, prompts, config, seeds=range(60), eos=46, stop=stop) == expected
    assert len({len(text) for text in expected}) > LOOK


@pytest.mark.parametrize("name", sorted(name for name, decoder in DECODERS.items() if not decoder.reads_text))
def test_the_host_waits_only_when_it_looks(model: GPT2, name: str) -> None:
    """Twice the tokens need more looks, of two calls each at most."""

    def waits(looks: int) -> int:
        config = DecodingConfig(strategy=name, top_k=9, max_new_tokens=LOOK * looks, **PENALTIES)
        with as_on_a_gpu(), HostWaits() as counted:
            generate(model, PROMPTS, config, seeds=range(3), eos=NEVER)
        return counted.count

    assert 0 < waits(6) - waits(3) <= 2 * 3


@pytest.mark.parametrize("share", [1e-46, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 30.0])
def test_buckets_keep_the_nucleus(share: float, scale: float) -> None:
    logits = torch.randn(6, 3000, generator=torch.Generator().manual_seed(0)) * scale
    probabilities, shares = logits.softmax(dim=-1), torch.full((6, 1), share)
    kept = first_by_buckets(probabilities, probabilities, shares)
    if share == 1:
        assert torch.equal(kept, probabilities)
        return
    ordered = probabilities.double().sort(dim=-1, descending=True).values
    before = ordered.cumsum(dim=-1) - ordered
    expected = (before < share * ordered.sum(dim=-1, keepdim=True) * (1 + 1e-9)).sum(dim=-1)
    assert ((kept > 0).sum(dim=-1) - expected).abs().max() <= (0 if scale >= 1 else 1)  # sums end at 40 bits
    assert bool(((kept == probabilities) | (kept == 0)).all())
    smallest = kept.masked_fill(kept == 0, torch.inf).amin(dim=-1, keepdim=True)
    assert bool((probabilities.masked_fill(kept > 0, 0.0) <= smallest).all())
    if scale >= 1:
        torch.testing.assert_close(kept, top_p(probabilities, {"top_p": shares}))


ADAPTED = [
    toys.RUN,
    toys.RUN.but(adapter="lora"),
    toys.RUN.but(adapter="lora", targets="all", blocks="1"),
    toys.RUN.but(adapter="lora", dora=True),
]


@torch.inference_mode()
@pytest.mark.parametrize("copies", [joined_weights, packed_weights], ids=lambda function: function.__name__)
@pytest.mark.parametrize("run", ADAPTED, ids=["plain", "LoRA", "LoRA on all", "DoRA"])
def test_copied_weights_give_the_same_logits(run: RunConfig, copies: type) -> None:
    made = build_model(run, toys.model(seed=5), torch.device("cpu")).train(False)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    ids = torch.randint(320, (5, 7), generator=torch.Generator().manual_seed(1))
    expected = made.logits(made(ids))
    with copies(made):
        torch.testing.assert_close(made.logits(made(ids)), expected, atol=2e-5, rtol=0)
    assert torch.equal(made.logits(made(ids)), expected)
