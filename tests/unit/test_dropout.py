"""Dropout on a CPU: as random as it says, and the same for an example wherever it stands."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gpt2core.attention import ATTENTION
from gpt2core.attention.dense import causal_mask
from gpt2core.config import AttentionConfig, RunConfig
from gpt2core.dropout import Mask, Stream, attend_with_dropout, dropout, start_block
from gpt2core.testing import toys
from gpt2core.training import train

CPU = torch.device("cpu")
ONES = torch.ones(8, 64, 128)
ADAPTED = toys.RUN.but(adapter="lora", lora_dropout=0.2, dropout=0.2)


def stream(examples: int = 8, seed: int = 0, step: int = 0) -> Stream:
    return Stream(seed, step, 0, np.arange(examples), CPU)


def masks(source: Stream, count: int = 1, p: float = 0.1) -> list[np.ndarray]:
    """Where elements are dropped, in some dropout layers one after another."""
    with source.drawing():
        return [(dropout(ONES, p) == 0).numpy() for _ in range(count)]


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.9])
def test_elements_are_dropped_at_the_probability_that_is_configured(p: float) -> None:
    dropped = np.stack(masks(stream(), 50, p))
    assert stats.binomtest(int(dropped.sum()), dropped.size, p).pvalue > 1e-4
    for axis in range(4):  # layer, example, token, channel
        counts = np.moveaxis(dropped, axis, 0).reshape(dropped.shape[axis], -1).sum(axis=1)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    with stream().drawing():
        kept = dropout(ONES, 0.25)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])


def test_masks_of_other_layers_steps_seeds_examples_and_neighbours_are_independent() -> None:
    first, second = masks(stream(), 2, 0.5)
    others = [second, *masks(stream(seed=1), p=0.5), *masks(stream(step=1), p=0.5), np.roll(first, 1, axis=0)]
    others += [np.roll(first, by, axis) for axis in (1, 2) for by in (1, 4, 16)]
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 4.5 / math.sqrt(first.size)


def test_a_mask_follows_the_example_wherever_it_stands_and_however_it_is_padded() -> None:
    x = torch.ones(3, 5, 6)
    for from_end in (False, True):

        def drawn(examples: list[int], x: Tensor, from_end: bool = from_end) -> Tensor:
            with Stream(0, 0, 0, np.array(examples), CPU).drawing():
                start_block(0, from_end=from_end)
                return dropout(x, 0.5)

        alone = drawn([7], x[:1])
        padding = torch.ones(3, 2, 6)
        padded = torch.cat([padding, x] if from_end else [x, padding], dim=1)
        together = drawn([2, 7, 1], padded)[1:2]
        assert torch.equal(alone, together[:, 2:] if from_end else together[:, :5])


def test_a_gradient_passes_where_the_forward_pass_kept_an_element() -> None:
    x = torch.ones(8, 16, 32, requires_grad=True)
    with stream().drawing():
        out = dropout(x, 0.3)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("length", [1, 7, 50, 140])
def test_attention_with_dropout_is_that_of_the_formula(from_end: bool, length: int) -> None:
    shape = (3, 2, length, 4)
    random = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for _ in range(4)]
    q, k, v, direction = given
    segments = torch.arange(length).expand(3, length) // 5
    allowed = causal_mask(length, length, segments, CPU)
    results = []
    for formula in (False, True):
        source = stream(3)
        with source.drawing():
            start_block(1, from_end=from_end)
            if formula:
                mask = Mask(source, (3, 2, length, length), 0.4, (2, 3)).draw(torch.float64).view(3, 2, length, length)
                weights = (q @ k.mT / 2).masked_fill(~allowed, -math.inf).softmax(dim=-1)
                out = (weights * mask) @ v
            else:
                out = attend_with_dropout(q, k, v, allowed, 0.4)
        results.append([out, *torch.autograd.grad((out * direction).sum(), (q, k, v))])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "logsparse"])
def test_attention_with_dropout_follows_the_example_however_it_is_padded(name: str) -> None:
    attend = ATTENTION[name].of(AttentionConfig())
    q, k, v = torch.randn(3, 4, 2, 12, 8, generator=torch.Generator().manual_seed(0))
    for from_end, queries in ((False, slice(0, 9)), (True, slice(-9, None)), (True, slice(-1, None))):
        outputs = []
        for rows in (slice(0, 4), slice(2, 3)):
            tokens = slice(None) if rows.stop == 4 else (slice(-9, None) if from_end else slice(0, 9))
            padded = from_end and tokens == slice(None)
            segments = (torch.arange(12) >= 3).long().expand(4, 12) if padded else None
            with Stream(0, 0, 0, np.arange(4)[rows], CPU).drawing():
                start_block(0, from_end=from_end)
                last = queries == slice(-1, None)
                asked = q[rows][:, :, queries if last else tokens]
                out = attend(asked, k[rows][:, :, tokens], v[rows][:, :, tokens], segments, 0.3)
            outputs.append(out)
        whole, alone = outputs
        torch.testing.assert_close(whole[2:3, :, queries], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        toys.RUN.but(dropout=0.2),
        ADAPTED,
        ADAPTED.but(attention="dense,logsparse"),
        ADAPTED.but(task="sst", head_dropout=0.3),
        toys.RUN.but(task="sst", dropout=0.2),
    ],
    ids=["language model", "LoRA", "LogSparse", "LoRA classifier", "classifier"],
)
def test_losses_with_dropout_do_not_depend_on_how_a_batch_is_divided(config: RunConfig) -> None:
    def losses(config: RunConfig) -> list[float]:
        reports = train(config.but(epochs=1), toys.model(), toys.data())
        return [report.metrics["train_loss"] for report in reports]

    whole = losses(config)
    assert losses(config.but(accumulation=2)) == pytest.approx(whole, rel=1e-5)
    assert losses(config.but(accumulation=3)) == pytest.approx(whole, rel=1e-5)
    assert losses(config.but(seed=1)) != pytest.approx(whole, rel=1e-3)
