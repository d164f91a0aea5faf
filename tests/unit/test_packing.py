"""Runs that are packed have the losses, gradients and weights that they have one by one, which is the slow, obvious way."""

import itertools

import pytest
import torch
from torch import Tensor

from gpt2core.config import RunConfig
from gpt2core.model import GPT2
from gpt2core.packing import step_together
from gpt2core.tasks import TaskData
from gpt2core.training import Done, Run, Step
from tests import toys

LORA = toys.RUN.but(adapter="lora", rank=4, lora_dropout=0.1, dropout=0.2, lr=3e-3, epochs=50)

#: Runs that differ in all that a search may vary.
RUNS = [
    LORA,
    LORA.but(rank=1, alpha=3.0, lr=1e-2, seed=5, targets="all", clip_norm=0.5),
    LORA.but(rank=8, weight_decay=0.1, batch_size=7, accumulation=3, blocks="1", lora_dropout=0.0),
    LORA.but(rslora=True, lora_plus=4.0, targets="qkv+dense", schedule="cosine", warmup_steps=5, dropout=0.0),
    LORA.but(task="sst", head_dropout=0.3, contrastive_weight=0.4),
    LORA.but(attention="dense,logsparse", attention_window=2, batch_size=1, blocks="0"),
]


def steps_of(config: RunConfig, base: GPT2, data: TaskData) -> "Script":
    return Script(config, base, data)


class Script:
    """A run that waits at its next step; its evaluations are passed over."""

    def __init__(self, config: RunConfig, base: GPT2, data: TaskData) -> None:
        self.run = Run(config, base, data)
        self.steps = self._steps()
        self.waits: Step = next(self.steps)
        self.losses: list[float] = []

    def _steps(self):  # type: ignore[no-untyped-def]
        for epoch in itertools.count(1):
            yield from self.run.epoch(epoch)

    def took(self, done: Done) -> None:
        self.losses.append(done.loss)
        self.waits = self.steps.send(done)

    def trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.run.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_thirty_steps_together_are_those_of_each_alone(dtype: torch.dtype, tolerance: float) -> None:
    base, data = toys.model().to(dtype), toys.data()
    alone, packed = ([Script(config, base, data) for config in RUNS] for _ in range(2))
    for _ in range(30):
        for script in alone:
            done = script.waits.alone()
            assert isinstance(done, Done)
            script.took(done)
        for script, done in zip(packed, step_together([script.waits for script in packed]), strict=True):
            assert isinstance(done, Done)
            script.took(done)
    for one, other in zip(alone, packed, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=tolerance, abs=tolerance)
        assert one.losses[-1] != one.losses[0]
        for name, weight in other.trained().items():
            torch.testing.assert_close(weight, one.trained()[name], rtol=tolerance, atol=tolerance, msg=name)
