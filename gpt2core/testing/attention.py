"""The contract of attention kernels."""

from collections.abc import Callable, Collection

import pytest
import torch
from torch import Tensor

import gpt2core.testing.toys as toys
from gpt2core.attention import ATTENTION, kernels
from gpt2core.attention.reference import reference
from gpt2core.config import AttentionConfig, RunConfig
from gpt2core.model import GPT2, KVCache, TrunkInput, initialise
from gpt2core.testing.contract import Contract, Settings, check_keys

SHAPES = [(2, 3, 9, 9, 8), (1, 2, 1, 7, 16), (2, 1, 33, 33, 4), (2, 2, 5, 12, 8), (1, 1, 1, 1, 4)]  # B, H, T, S, D
SHAPE = toys.SHAPE.but(n_layer=4)

Inputs = list[Tensor]
Kernel = Callable[..., Tensor]  # of the signature `Attend`


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Inputs:
    """Return random queries, keys and values for (B, H, T, S, D)."""
    b, h, t, s, d = shape
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(b, h, n, d, generator=generator) for n in (t, s, s)]
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def two_segments(shape: tuple[int, ...]) -> Tensor:
    """Return segments: the first two tokens of row 0 are separate, like padding; the last row changes in the middle."""
    b, _, _, s, _ = shape
    segments = torch.ones(b, s, dtype=torch.long)
    segments[0, :2] = 0
    segments[-1, s // 2 :] = 7
    return segments


def same_with_gradients(ours: Tensor, theirs: Tensor, inputs: Inputs) -> None:
    """Assert that two outputs are equal, and their gradients too."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = (torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, theirs))
    for a, r in zip(*gradients, strict=True):
        torch.testing.assert_close(a, r, atol=1e-5, rtol=0)


def attending(config: AttentionConfig) -> GPT2:
    """Return a GPT-2 of 4 blocks at random weights, larger than at a usual start, so that errors show."""
    made = GPT2(SHAPE, attention=config)
    initialise(made, 0)
    for parameter in made.parameters():
        parameter.data *= 3.0
    return made.train(False)


class ScheduleContract(Contract):
    """The contract of the kernels of a model's blocks."""

    @pytest.fixture
    def config(self, case: Settings) -> AttentionConfig:
        """The attention settings of a case."""
        return RunConfig.of(case).attention_config

    def seen(self, config: AttentionConfig, length: int) -> Collection[int]:
        """Return the distances at which a token attends to the tokens before it: all, unless a subclass says otherwise."""
        return range(length)

    @pytest.mark.parametrize("padded", [False, True])
    @pytest.mark.parametrize("chunks", [[24], [13, 1, 1, 9], [1] * 24], ids=str)
    @torch.no_grad()
    def test_cached_steps_equal_a_single_pass(self, config: AttentionConfig, chunks: list[int], padded: bool) -> None:
        gpt2 = attending(config)
        ids = torch.randint(SHAPE.vocab_size, (3, 24), generator=torch.Generator().manual_seed(7))
        mask = torch.ones_like(ids)
        for row, hidden in enumerate((0, 3, 11)):
            mask[row, : hidden if padded else 0] = 0
        cache = KVCache(gpt2, 3, 24)
        parts = zip(ids.split(chunks, dim=1), mask.split(chunks, dim=1), strict=True)
        stepwise = torch.cat([gpt2(i, m if padded else None, cache) for i, m in parts], dim=1)
        once = gpt2(ids, mask if padded else None)
        torch.testing.assert_close(
            gpt2.logits(stepwise)[mask.bool()], gpt2.logits(once)[mask.bool()], atol=1e-5, rtol=0
        )
        for row, hidden in enumerate((0, 3, 11) if padded else ()):
            alone = gpt2(ids[row : row + 1, hidden:])[0]
            torch.testing.assert_close(once[row, hidden:], alone, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_gradients_reach_every_parameter(self, config: AttentionConfig, precision: str) -> None:
        gpt2 = attending(config).train()
        ids = torch.randint(SHAPE.vocab_size, (2, 90), generator=torch.Generator().manual_seed(7))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = gpt2.losses(gpt2(ids), ids).sum()
        loss.backward()
        # A bias of the keys shifts all scores of a query equally, so softmax ignores it; of a single score it ignores all.
        unread = (
            ("key.bias",)
            if len(self.seen(config, 90)) > 1
            else ("key.bias", "key.weight", "query.bias", "query.weight")
        )
        for name, parameter in gpt2.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert name.endswith(unread) or parameter.grad.abs().sum() > 0, name

    @torch.no_grad()
    def test_last_hidden_states_equal_those_of_a_full_pass(self, config: AttentionConfig) -> None:
        """Classification uses only last tokens, so the last block computes no others."""
        gpt2 = attending(config)
        lengths = torch.tensor([9, 1, 30, 17])
        ids = torch.randint(toys.SHAPE.vocab_size, (4, 30), generator=torch.Generator().manual_seed(3))
        every = gpt2.run_trunk(TrunkInput(ids))
        torch.testing.assert_close(
            gpt2.run_trunk(TrunkInput(ids, lengths=lengths)), every[torch.arange(4), lengths - 1]
        )


class AttentionContract(ScheduleContract):
    """The contract of a kernel: equality with a slow reference, and the contract of a model that uses it in each block."""

    @pytest.fixture
    def attend(self, config: AttentionConfig) -> Kernel:
        """The kernel with the values of its keys."""
        return kernels(config, 1)[0]

    def expected(self, config: AttentionConfig, inputs: Inputs, segments: Tensor | None) -> Tensor:
        """Return the output of the reference."""
        q, k, v = inputs
        return reference(q, k, v, segments, self.seen(config, k.shape[-2]))

    def test_its_keys_have_one_meaning(self, config: AttentionConfig) -> None:
        check_keys(ATTENTION[config.schedule])

    @pytest.mark.parametrize("segmented", [False, True])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_it_equals_the_reference_with_gradients(
        self, attend: Kernel, config: AttentionConfig, shape: tuple[int, ...], segmented: bool
    ) -> None:
        inputs = tensors(shape)
        segments = two_segments(shape) if segmented else None
        same_with_gradients(attend(*inputs, segments, 0.0), self.expected(config, inputs, segments), inputs)

    @pytest.mark.parametrize("queries", [12, 8])
    def test_a_token_does_not_affect_earlier_ones(self, attend: Kernel, config: AttentionConfig, queries: int) -> None:
        q, k, v = (tensor.detach() for tensor in tensors((1, 2, queries, 12, 8)))
        before = attend(q, k, v, None, 0.0)
        k, v = k.clone(), v.clone()
        k[:, :, 7], v[:, :, 7] = 5.0, -5.0
        after = attend(q, k, v, None, 0.0)
        changed = 7 - (12 - queries)  # the queries are the last of the 12 tokens
        distances = self.seen(config, 12)
        assert torch.equal(before[:, :, :changed], after[:, :, :changed])
        for query in range(changed, queries):
            assert torch.allclose(before[:, :, query], after[:, :, query]) == (query - changed not in distances)

    def test_dropout_follows_the_seed_and_keeps_the_mean(self, attend: Kernel) -> None:
        q, k, v = (tensor.detach() for tensor in tensors((1, 2, 24, 24, 4)))

        def dropped(seed: int) -> Tensor:
            torch.manual_seed(seed)
            return attend(q, k, v, None, 0.3)

        assert torch.equal(dropped(1), dropped(1))
        assert not torch.equal(dropped(1), dropped(2))
        mean = torch.stack([dropped(seed) for seed in range(100)]).mean(0)
        assert (mean - attend(q, k, v, None, 0.0)).abs().mean() < 0.05

    @pytest.mark.parametrize("length", [16, 100])
    def test_bfloat16_is_near_float32_and_keeps_its_type(self, attend: Kernel, length: int) -> None:
        shape = (2, 2, length, length, 8)
        narrow = tensors(shape, torch.bfloat16)
        wide = [tensor.detach().float().requires_grad_() for tensor in narrow]
        ours, theirs = (attend(*inputs, two_segments(shape), 0.0) for inputs in (narrow, wide))
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, atol=0.03, rtol=0)
        gradients = zip(
            *(torch.autograd.grad(out.sum(), i) for out, i in ((ours, narrow), (theirs, wide))), strict=True
        )
        for a, r in gradients:
            torch.testing.assert_close(a.float(), r, atol=0.1, rtol=0)
