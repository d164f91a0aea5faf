"""What every attention kernel promises; a new entry of ATTENTION is tested without another line."""

import pytest
import torch
from torch import Tensor

from gpt2core.attention import ATTENTION, Attend
from gpt2core.attention.reference import reference

SHAPES = [(2, 3, 9, 9, 8), (1, 2, 1, 7, 16), (2, 1, 33, 33, 4), (2, 2, 5, 12, 8)]  # B, H, T, S, D


@pytest.fixture(params=sorted(ATTENTION))
def attend(request: pytest.FixtureRequest) -> Attend:
    return ATTENTION[request.param]


def tensors(shape: tuple[int, ...]) -> list[Tensor]:
    b, h, t, s, d = shape
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(b, h, n, d, generator=generator, requires_grad=True) for n in (t, s, s)]


def padded_mask(shape: tuple[int, ...]) -> Tensor:
    """Causal, with the first two keys of row 0 as padding; as in the model, each token sees itself."""
    b, _, t, s, _ = shape
    mask = torch.ones(b, 1, t, s, dtype=torch.bool).tril(diagonal=s - t)
    mask[0, :, :, :2] = False
    return mask | torch.eye(t, s, dtype=torch.bool).roll(s - t, dims=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_reference_with_gradients(attend: Attend, shape: tuple[int, ...], masked: bool) -> None:
    inputs = tensors(shape)
    mask = padded_mask(shape) if masked else None
    ours, theirs = attend(*inputs, mask, 0.0), reference(*inputs, mask)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = (torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, theirs))
    for a, r in zip(*gradients, strict=True):
        torch.testing.assert_close(a, r, atol=1e-5, rtol=0)


@pytest.mark.parametrize("queries", [12, 8])
def test_a_token_changes_nothing_before_it(attend: Attend, queries: int) -> None:
    q, k, v = (tensor.detach() for tensor in tensors((1, 2, queries, 12, 8)))
    before = attend(q, k, v, None, 0.0)
    k, v = k.clone(), v.clone()
    k[:, :, 7], v[:, :, 7] = 5.0, -5.0
    after = attend(q, k, v, None, 0.0)
    changed = 7 - (12 - queries)  # the queries are the last of the 12 tokens
    assert torch.equal(before[:, :, :changed], after[:, :, :changed])
    for query in range(changed, queries):
        assert not torch.allclose(before[:, :, query], after[:, :, query])
