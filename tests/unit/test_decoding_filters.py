"""Filters and penalties equal transformers' logits processors, on logits of any spread."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor
from transformers.generation import logits_process as processors

from gpt2core.config import DecodingConfig
from gpt2core.decoding import DECODERS, Keep
from gpt2core.decoding.batch import columns
from gpt2core.decoding.filters import penalise
from gpt2core.decoding.sample import draw
from tests import slow_decoding

ROWS, VOCABULARY = 4, 500
shares = strategies.floats(0.01, 0.999)
# Examples are deterministic, because in one of many thousands a sum is rounded across the threshold.
many = settings(derandomize=True, max_examples=150, deadline=None)


@strategies.composite
def logits(draw: strategies.DrawFn) -> Tensor:
    seed, spread = draw(strategies.integers(0, 2**31)), draw(strategies.floats(0.05, 12.0))
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def filter_of(name: str) -> Keep:
    keep = DECODERS[name].keep
    assert keep is not None
    return keep


def kept(name: str, logits: Tensor, configs: Sequence[DecodingConfig]) -> Tensor:
    probabilities = logits.softmax(-1)
    ours = filter_of(name)(probabilities, columns(configs))
    if name != "greedy":
        assert torch.equal(ours[ours > 0], probabilities[ours > 0])
    return ours > 0


@many
@given(logits(), strategies.floats(0, 20), shares)
def test_edt_divides_logits_by_a_temperature_that_falls_with_the_entropy(
    logits: Tensor, theta: float, p: float
) -> None:
    """The temperature is 0.8 ** (theta / entropy), one row at a time."""
    config = DecodingConfig(edt_theta=theta, top_p=p)
    ours = filter_of("edt")(logits.softmax(-1), columns([config] * ROWS))
    for row, own in zip(logits.double(), ours, strict=True):
        chances = row.softmax(-1).tolist()
        entropy = -sum(chance * math.log(chance) for chance in chances if chance > 0)
        temperature = max(1e-5, 0.8 ** min(1e3, theta / max(entropy, 1e-12)))
        expected = (row / temperature).softmax(-1)
        kept = own > 0
        torch.testing.assert_close(own[kept].double(), expected[kept], rtol=1e-3, atol=1e-6)
        assert float(expected[kept].sum()) >= p - 1e-3
        assert float(expected[kept].min()) >= float(expected[~kept].max()) - 1e-6


def theirs(logits: Tensor, *warpers: object) -> Tensor:
    for warp in warpers:
        logits = warp(torch.empty(len(logits), 0), logits)  # type: ignore[operator]
    return (logits > -torch.inf) & (logits.softmax(-1) > 0)


@many
@given(logits(), strategies.lists(strategies.tuples(strategies.integers(1, 600), shares), min_size=ROWS, max_size=ROWS))
def test_top_k_and_top_p_with_parameters_of_each_row(logits: Tensor, parameters: list[tuple[int, float]]) -> None:
    configs = [DecodingConfig(top_k=k, top_p=p) for k, p in parameters]
    ours = {name: kept(name, logits, configs) for name in ("top-k", "top-p", "top-k-p", "top-k-p-study")}
    for row, (k, p) in enumerate(parameters):
        row_logits = logits[row : row + 1]
        by_k, by_p = processors.TopKLogitsWarper(k), processors.TopPLogitsWarper(p)
        assert torch.equal(ours["top-k"][row], theirs(row_logits, by_k)[0])
        assert torch.equal(ours["top-p"][row], theirs(row_logits, by_p)[0])
        assert torch.equal(ours["top-k-p"][row], theirs(row_logits, by_k, by_p)[0])
        assert torch.equal(ours["top-k-p-study"][row], (theirs(row_logits, by_k) & theirs(row_logits, by_p))[0])


@many
@given(logits(), strategies.lists(strategies.tuples(shares, shares, shares), min_size=ROWS, max_size=ROWS))
def test_min_p_typical_and_eta_read_each_rows_keys(
    logits: Tensor, parameters: list[tuple[float, float, float]]
) -> None:
    configs = [DecodingConfig(min_p=m, typical_p=t, epsilon=e**3) for m, t, e in parameters]
    ours = {name: kept(name, logits, configs) for name in ("min-p", "typical", "eta")}
    for row, (m, t, e) in enumerate(parameters):
        row_logits = logits[row : row + 1]
        assert torch.equal(ours["min-p"][row], theirs(row_logits, processors.MinPLogitsWarper(m))[0])
        assert_nearly_the_same(
            ours["typical"][row], theirs(row_logits, processors.TypicalLogitsWarper(t))[0], row_logits[0].softmax(-1)
        )
        assert torch.equal(ours["eta"][row], theirs(row_logits, processors.EtaLogitsWarper(e**3))[0])


def assert_nearly_the_same(ours: Tensor, theirs: Tensor, probabilities: Tensor) -> None:
    """Two sets of typical tokens may differ only in tokens at the border that are equal in float32."""
    surprise = -probabilities.log()
    distance = (surprise - (probabilities * surprise).nansum()).abs()
    assert ((distance - distance[theirs].max())[ours ^ theirs].abs() < 1e-5).all()


@many
@given(logits(), strategies.integers(1, 40), strategies.floats(0.3, 4.0), strategies.integers(1, 4))
def test_penalties_give_the_scores_of_transformers(logits: Tensor, length: int, penalty: float, n: int) -> None:
    tokens = torch.randint(6, (ROWS, length), generator=torch.Generator().manual_seed(length))
    both = columns([DecodingConfig(repetition_penalty=penalty, no_repeat_ngram=n)] * ROWS)
    expected = processors.NoRepeatNGramLogitsProcessor(n)(
        tokens, processors.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits)
    )
    torch.testing.assert_close(penalise(logits, tokens, both), expected)


def test_penalties_are_per_row_and_ignore_padding() -> None:
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    texts = [[3, 4, 3, 4, 3], [5, 5], [6], [7, 8, 9, 7, 8]]
    configs = [
        DecodingConfig(repetition_penalty=1.5, no_repeat_ngram=3),
        DecodingConfig(no_repeat_ngram=1),
        DecodingConfig(repetition_penalty=0.5, no_repeat_ngram=2),
        DecodingConfig(),
    ]
    ours = penalise(logits, torch.tensor([[20] * (5 - len(text)) + text for text in texts]), columns(configs))
    rows = zip(logits.tolist(), texts, configs, strict=True)
    torch.testing.assert_close(ours, torch.tensor([slow_decoding.penalised(*row) for row in rows]))
    assert torch.equal(ours[3], logits[3])


def test_no_token_is_banned_if_all_would_be() -> None:
    logits = torch.zeros(1, 3)
    everything = columns([DecodingConfig(no_repeat_ngram=1)])
    assert torch.equal(penalise(logits, torch.tensor([[0, 1, 2]]), everything), logits)


@pytest.mark.parametrize("name", ["top-p", "typical"])
def test_a_share_of_1_keeps_everything(name: str) -> None:
    spread = torch.tensor([0.1, 3.0, 3.0])[:, None]
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1)) * spread
    configs = [DecodingConfig(top_p=p, typical_p=p) for p in (1.0, 1.0, 0.5)]
    assert kept(name, logits, configs).sum(-1).tolist()[:2] == [3000, 3000]
    assert not kept(name, logits, configs)[2].all()


def test_mirostat_keeps_tokens_up_to_a_surprise_of_mu() -> None:
    """As in Basu et al. (2021): mu starts at 2 tau, and each token changes it by eta times its error."""
    random, mu, tau, rate = torch.Generator().manual_seed(2), 6.0, 3.0, 0.4
    parameters = columns([DecodingConfig(mirostat_tau=tau, mirostat_eta=rate)])
    for _ in range(50):
        probabilities = (torch.randn(1, 200, generator=random) * 2).softmax(-1)
        surprise = -probabilities.log2()
        expected = (surprise <= mu) | (surprise == surprise.min())
        ours = filter_of("mirostat")(probabilities, parameters)
        assert torch.equal(ours > 0, expected)
        token = int(draw(ours, torch.rand(1, generator=random)))
        mu -= rate * (float(surprise[0, token]) - tau)
        parameters["drawn"] += 1
        parameters["surprise"] += surprise[0, token]


def test_top_k_keeps_at_most_k_of_equal_tokens() -> None:
    probabilities = torch.full((1, 10), 0.1)
    for name in ("top-k", "top-k-p", "top-k-p-study", "greedy"):
        assert int((filter_of(name)(probabilities, columns([DecodingConfig(top_k=1, top_p=1.0)])) > 0).sum()) == 1, name


def test_tokens_of_probability_0_are_never_drawn() -> None:
    probabilities = torch.zeros(1, 50)
    probabilities[0, [3, 20]] = torch.tensor([0.3, 0.2])
    uniform = torch.linspace(0, 1, 1001).clamp(max=1 - 2**-24)
    drawn = [int(draw(probabilities, u[None])) for u in uniform]
    assert set(drawn) == {3, 20}
    assert drawn.count(3) == pytest.approx(600, abs=2)
