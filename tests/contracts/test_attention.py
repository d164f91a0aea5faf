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


def two_segments(shape: tuple[int, ...]) -> Tensor:
    """The first two tokens of row 0 are a segment of their own, such as padding; row 1 changes in the middle."""
    b, _, _, s, _ = shape
    segments = torch.ones(b, s, dtype=torch.long)
    segments[0, :2] = 0
    segments[-1, s // 2 :] = 7
    return segments


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_reference_with_gradients(attend: Attend, shape: tuple[int, ...], segmented: bool) -> None:
    inputs = tensors(shape)
    segments = two_segments(shape) if segmented else None
    ours, theirs = attend(*inputs, segments, 0.0), reference(*inputs, segments)
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
