"""Weights that are cast once a pass give the losses and gradients of PyTorch's autocast, in half the operations."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2core.config import RunConfig
from gpt2core.packing import Packer
from gpt2core.run import Run
from gpt2core.steps import Step
from gpt2core.testing import toys
from tests.benchmarks.launches import operations

BATCH = np.arange(4)
FULL = toys.RUN.but(precision="bfloat16", dropout=0.2, lora_dropout=0.2)
LORA = FULL.but(adapter="lora", rank=4)
CONFIGS = {
    "full": FULL,
    "freeze": FULL.but(adapter="freeze"),
    "LoRA": LORA,
    "LoRA without dropout": LORA.but(dropout=0.0, lora_dropout=0.0),
    "LoRA on all": LORA.but(targets="all", rslora=True),
    "DoRA": LORA.but(dora=True),
    "classifier": LORA.but(task="sst"),
    "accumulation": LORA.but(accumulation=3),
    "recomputed": FULL.but(gradient_checkpointing=True),
}


def run_of(config: RunConfig) -> Run:
    run = Run(config, toys.model(), toys.data())
    run.model.train()
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            if "lora_B" in name:  # so that A has a gradient
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return run


@contextmanager
def gradients_kept(run: Run) -> Iterator[dict[str, Tensor]]:
    """Fill in what the gradients of a step were; the weights stay as they are."""
    kept: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        named = run.model.named_parameters()
        kept.update({name: p.grad.clone() for name, p in named if p.grad is not None})
        run.discard_gradients()

    run.apply_update, apply_update = keep, run.apply_update  # type: ignore[method-assign]
    try:
        yield kept
    finally:
        run.apply_update = apply_update  # type: ignore[method-assign]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_losses_and_gradients_are_those_of_autocast(config: RunConfig) -> None:
    cast, autocast = run_of(config), run_of(config)
    autocast.working = None
    with gradients_kept(cast) as here, gradients_kept(autocast) as there:
        for _ in range(2):  # the second step reads the frozen weights as they were cast for the first
            assert cast.step(3, BATCH).item() == pytest.approx(autocast.step(3, BATCH).item(), rel=2e-3)
    assert here.keys() == there.keys()
    noise = 1e-3 * max(
        float(gradient.norm()) for gradient in there.values()
    )  # the biases of keys have no gradient but this
    for name, gradient in here.items():
        assert gradient.dtype == torch.float32
        assert float((gradient - there[name]).norm()) < 0.03 * float(there[name].norm()) + noise, name


def test_trained_weights_are_cast_anew_at_each_step() -> None:
    run = run_of(FULL.but(lr=1e-2))
    losses = [run.step(number, BATCH).item() for number in range(5)]
    assert losses[-1] < losses[0] * 0.95


def test_outside_of_a_step_the_weights_are_in_float32() -> None:
    run = run_of(LORA)
    run.step(0, BATCH)
    with torch.inference_mode():
        hidden = run.model.train(False)(run.collate(BATCH).input_ids)
    assert hidden.dtype == torch.float32
    assert all(getattr(part, "working", None) is None for part in run.model.modules())


def test_runs_in_a_pack_read_weights_that_are_cast_too() -> None:
    configs = [LORA, LORA.but(rank=2, seed=3)]
    alone = [run_of(config).step(0, BATCH).item() for config in configs]
    runs = [run_of(config) for config in configs]
    together = Packer().take([Step(run, 0, BATCH, 100) for run in runs])
    assert [result.loss for result in together] == pytest.approx(alone, rel=2e-3)


@pytest.mark.parametrize(("config", "share"), [(FULL, 0.55), (LORA, 0.5)], ids=["full", "LoRA"])
def test_a_step_takes_half_the_operations_of_autocast(config: RunConfig, share: float) -> None:
    config = config.but(dropout=0.0, lora_dropout=0.0)
    cast, autocast = run_of(config), run_of(config)
    autocast.working = None
    cast.step(0, BATCH)
    counts = [operations(lambda run=run: run.step(1, BATCH)) for run in (cast, autocast)]
    assert counts[0].total() <= share * counts[1].total()


def test_runs_of_one_base_share_its_cast_weights() -> None:
    base, data = toys.model(), toys.data()
    runs = [Run(config, base, data) for config in (LORA, LORA.but(rank=2))]
    for run in runs:
        run.model.train()
        run.step(0, BATCH)
    one, two = ([weight.data_ptr() for weight, _ in run.working.constants] for run in runs)
    assert one == two
