"""What every attention kernel promises; a new entry of ATTENTION is tested without another line."""

import pytest
import torch

from gpt2core.attention import ATTENTION, Attend
from gpt2core.attention.reference import reference

SHAPES = [(2, 3, 9, 9, 8), (1, 2, 1, 7, 16), (2, 1, 33, 33, 4)]  # B, H, T, S, D


@pytest.fixture(params=sorted(ATTENTION))
def attend(request: pytest.FixtureRequest) -> Attend:
    return ATTENTION[request.param]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_reference_with_gradients(attend: Attend, shape: tuple[int, ...], masked: bool) -> None:
    b, h, t, s, d = shape
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(b, h, n, d, generator=generator, requires_grad=True) for n in (t, s, s)]
    mask = torch.ones(b, 1, t, s, dtype=torch.bool).tril(diagonal=s - t)
    if masked:
        mask[0, :, :, 0] = t == 1 and s == 1
    ours = attend(*inputs, mask if masked else None, 0.0)
    theirs = reference(*inputs, mask)
    real = mask.any(-1, keepdim=True)
    torch.testing.assert_close(ours.where(real, 0.0), theirs.where(real, 0.0), atol=1e-5, rtol=0)
    if bool(real.all()):
        weight = torch.randn(ours.shape, generator=generator)
        for a, r in zip(
            torch.autograd.grad((ours * weight).sum(), inputs),
            torch.autograd.grad((theirs * weight).sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(a, r, atol=1e-5, rtol=0)


def test_a_token_changes_nothing_before_it(attend: Attend) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 12, 8, generator=generator) for _ in range(3))
    before = attend(q, k, v, None, 0.0)
    k, v = k.clone(), v.clone()
    k[:, :, 7], v[:, :, 7] = 5.0, -5.0
    after = attend(q, k, v, None, 0.0)
    torch.testing.assert_close(before[:, :, :7], after[:, :, :7])
    assert not torch.allclose(before[:, :, 7:], after[:, :, 7:])
