"""Training in float16 scales losses, and skips updates whose gradients are not finite."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2core.config import RunConfig
from gpt2core.model import trainable_parameters
from gpt2core.packing import Packer
from gpt2core.precision import narrow_type
from gpt2core.run import Run
from gpt2core.steps import Step, take_steps
from gpt2core.testing import toys
from gpt2core.training import loop, train

BATCH = np.arange(4)
TOO_LARGE = 2.0**40  # a scale at which gradients exceed what float16 can hold
FULL = toys.RUN.but(precision="float16", clip_norm=1.0)
LORA = FULL.but(adapter="lora", rank=4)


def run_of(config: RunConfig) -> Run:
    run = Run(config, toys.model(), toys.data())
    run.model.train()
    return run


def weights(run: Run) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainable_parameters(run.model).values()]


def set_scale(run: Run, scale: float) -> None:
    run.optimizer.scaler.load_state_dict(run.optimizer.scaler.state_dict() | {"scale": scale})


def gradients(config: RunConfig, scale: float = 1.0) -> Tensor:
    """All gradients of a step, without the scale of its losses."""
    run = run_of(config)
    if config.precision == "float16":
        set_scale(run, scale)
    run.apply_update = lambda *_: None  # type: ignore[method-assign]
    run.step(0, BATCH)
    return torch.cat([p.grad.flatten() / scale for p in trainable_parameters(run.model).values() if p.grad is not None])


def updates(run: Run) -> set[float]:
    """How often each parameter was updated."""
    return {float(state["step"]) for state in run.optimizer.state.values()}


CONFIGS = {"full": FULL, "LoRA": LORA, "classes": FULL.but(task="sst"), "accumulation": FULL.but(accumulation=2)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_scaled_gradients_are_those_of_float32(config: RunConfig) -> None:
    expected = gradients(config.but(precision="float32"))
    assert (gradients(config, 2.0**6) - expected).norm() < 0.02 * expected.norm()
    assert (gradients(config, 2.0**-26) - expected).norm() > 0.2 * expected.norm(), "they vanish at a small scale"


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_update_whose_gradients_overflow_is_skipped_and_the_scale_halved(clip_norm: float | None) -> None:
    run = run_of(FULL.but(clip_norm=clip_norm))
    run.step(0, BATCH)
    set_scale(run, TOO_LARGE)
    before = weights(run)
    run.step(1, BATCH)
    assert all(torch.equal(old, new) for old, new in zip(before, weights(run), strict=True))
    assert run.optimizer.scaler.get_scale() == 2.0**39
    assert updates(run) == {1}
    for number in range(2, 40):
        run.step(number, BATCH)
    assert min(updates(run)) > 1
    assert not all(torch.equal(old, new) for old, new in zip(before, weights(run), strict=True))


def test_a_resumed_run_is_like_an_uninterrupted_one(tmp_path: Path) -> None:
    config = LORA.but(epochs=3)
    whole = [
        report.metrics["train_loss"] for report in train(config, toys.model(), toys.data(), folder=tmp_path / "whole")
    ]
    list(take_steps(loop(config, toys.model(), toys.data(), folder=tmp_path / "parts", until=1)))
    parts = [
        report.metrics["train_loss"] for report in train(config, toys.model(), toys.data(), folder=tmp_path / "parts")
    ]
    assert parts == whole
    for name in ("trained", "optimizer"):
        one, other = (tmp_path / folder / "epoch-0003" / f"{name}.safetensors" for folder in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes()


def test_runs_in_a_pack_have_scales_of_their_own() -> None:
    configs, packer = [LORA, LORA.but(rank=2, seed=3)], Packer()
    alone = [run_of(config) for config in configs]
    together = [run_of(config) for config in configs]
    for runs in (alone, together):
        set_scale(runs[1], TOO_LARGE)
    for number in range(3):
        losses = [run.step(number, BATCH).item() for run in alone]
        results = packer.take([Step(run, number, BATCH, 100) for run in together])
        assert [result.loss for result in results] == pytest.approx(losses, rel=2e-3)  # type: ignore[union-attr]
    assert [run.optimizer.scaler.get_scale() for run in together] == [2.0**16, 2.0**37]


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_gpus_without_bfloat16_use_float16(
    has_bfloat16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16 or including_emulation
    )
    assert narrow_type(RunConfig(), torch.device("cuda")) == expected
    assert narrow_type(RunConfig(precision="float32"), torch.device("cuda")) is None
    assert narrow_type(RunConfig(), torch.device("cpu")) is None
