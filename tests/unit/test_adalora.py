"""AdaLoRA trains, scores and prunes as peft's; what is left of it is a LoRA adapter with a rank per projection."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from gpt2core.adapters.adalora import BETA, WARMUP, SVDLinear, adalora, allocate, orthogonality
from gpt2core.adapters.folder import load_adapter
from gpt2core.adapters.lora import TARGETS, lora_layers
from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best
from gpt2core.describe import count_kept
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2
from gpt2core.model_folder import export
from gpt2core.packing import Packer
from gpt2core.run import Run
from gpt2core.steps import Step
from gpt2core.tasks import TASKS
from gpt2core.testing import toys
from gpt2core.testing.tasks import examples
from gpt2core.training import train
from gpt2core.weights import load_model

# peft 0.21 asks transformers 5 by an old name when it puts an adapter on a model.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CPU = torch.device("cpu")
IDS = torch.arange(30).view(2, 15)
CONFIG = toys.RUN.but(adapter="adalora", rank=2, targets="all", alpha=6.0, adalora_start=2.0)
STEPS, ALL_STEPS = 10, 14  # of the first epoch, and of the run


class _WithLoss(nn.Module):
    """A model whose output has a loss, to which peft adds the penalty."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Any:
        return SimpleNamespace(loss=self.model.losses(self.model(ids), ids).sum())


def layers(model: GPT2) -> dict[str, SVDLinear]:
    return {name: layer for name, layer in lora_layers(model) if isinstance(layer, SVDLinear)}


def test_it_trains_and_prunes_like_pefts() -> None:
    ours, base = toys.model().double(), toys.model().double()
    adalora(ours, CONFIG.but(lora_dropout=0.0))
    settings = AdaLoraConfig(
        target_r=2,
        init_r=4,
        tinit=int(WARMUP * STEPS),
        tfinal=ALL_STEPS - STEPS,
        deltaT=1,
        beta1=BETA,
        beta2=BETA,
        orth_reg_weight=0.5,
        total_step=ALL_STEPS,
        lora_alpha=3.0 * (4 + 1e-5),  # it divides by the rank at the start + 1e-5
        target_modules=TARGETS["all"],
    )
    theirs = AdaLoraModel(_WithLoss(base), settings, "default")
    peers = {name: theirs.get_submodule(f"model.model.{name}") for name in layers(ours)}
    for name, layer in layers(ours).items():
        peers[name].lora_A["default"].data, peers[name].lora_B["default"].data = (
            weight.detach().clone() for weight in (layer.lora_A.weight, layer.lora_B.weight)
        )
    our_optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=1e-2)
    their_optimizer = torch.optim.AdamW([p for name, p in theirs.named_parameters() if ".lora_" in name], lr=1e-2)
    left = []
    for step in range(ALL_STEPS):
        loss = ours.losses(ours.train()(IDS), IDS).sum() + orthogonality(ours, CONFIG)
        their_loss = theirs.train()(IDS).loss
        torch.testing.assert_close(loss, their_loss, rtol=1e-12, atol=0)
        for each, optimizer in ((loss, our_optimizer), (their_loss, their_optimizer)):
            each.backward()
            optimizer.step()
        allocate(ours, our_optimizer, CONFIG, step, STEPS)
        theirs.update_and_allocate(step + 1)
        for optimizer in (our_optimizer, their_optimizer):
            optimizer.zero_grad()
        for name, layer in layers(ours).items():
            torch.testing.assert_close(layer.lora_E, peers[name].lora_E["default"], rtol=1e-9, atol=1e-14, msg=name)
            assert torch.equal(layer.lora_E == 0, peers[name].lora_E["default"] == 0), name
        left.append(sum(int((layer.lora_E != 0).sum()) for layer in layers(ours).values()))
    assert left[1] == 4 * 12
    assert left[STEPS - 1 :] == [2 * 12] * (ALL_STEPS - STEPS + 1)


def test_the_penalty_is_that_of_singular_vectors_one_by_one() -> None:
    model = toys.model()
    adalora(model, CONFIG)
    norms = []
    for layer in layers(model).values():
        for vectors in (layer.lora_A.weight.detach().numpy(), layer.lora_B.weight.detach().numpy().T):
            deviations = [(a @ b - (i == j)) ** 2 for i, a in enumerate(vectors) for j, b in enumerate(vectors)]
            norms.append(sum(deviations) ** 0.5)
    assert orthogonality(model, CONFIG).item() == pytest.approx(0.5 * float(np.mean(norms)), rel=1e-5)


@torch.no_grad()
def test_pruned_adapters_are_pefts_lora_with_a_rank_per_projection(tmp_path: Path) -> None:
    """Some projections have no triplet left, so adapter_config.json names the others."""
    base = toys.folder(tmp_path / "base")
    config = CONFIG.but(model=str(base), rank=1, adalora_start=3.0, epochs=2, lr=3e-2, decode_seeds=0)
    with torch.enable_grad():
        list(train(config, load_model(str(base)), toys.data(), folder=tmp_path / "run"))
    export(config, tmp_path / "run", tmp_path / "adapter", "adapter")
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert values["rank_pattern"]
    assert len(values["target_modules"]) < 2 * 4
    ours = build_model(config, load_model(str(base)), CPU).train(False)
    load_best(tmp_path / "run", ours)
    pairs = [layer.pair() for layer in layers(ours).values()]
    assert sum(len(pair.down) for pair in pairs) == 1 * 12
    expected = ours.logits(ours(IDS))
    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), tmp_path / "adapter").train(False)
    torch.testing.assert_close(theirs(IDS).logits, expected, atol=1e-5, rtol=0)
    again = load_adapter(tmp_path / "adapter", load_model(str(base)))
    torch.testing.assert_close(again.logits(again(IDS)), expected, atol=1e-5, rtol=0)
    plain = load_model(str(base))
    assert (plain.logits(plain(IDS)) - expected).abs().max() > 0.01, "what this test is about"


def test_it_keeps_as_many_parameters_as_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.describe.shape_of", lambda name: toys.SHAPE)
    for targets in TARGETS:
        assert count_kept(CONFIG.but(targets=targets)) == count_kept(CONFIG.but(adapter="lora", targets=targets))


@pytest.mark.parametrize("task", ["sonnet", "sst"])
def test_a_run_reports_the_parameters_that_it_keeps_beside_those_that_train(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2core.describe.shape_of", lambda name: toys.SHAPE)
    run = CONFIG.but(task=task, epochs=1)
    pruned, plain = (
        next(train(each, toys.model(), examples(TASKS[task]))).metrics for each in (run, run.but(adapter="lora"))
    )
    assert pruned["kept_parameters"] == count_kept(run) == plain["trainable_parameters"]
    assert pruned["trainable_parameters"] > pruned["kept_parameters"]
    assert "kept_parameters" not in plain


def test_float16_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`adalora` compares gradients .*: set `precision` to float32 or bfloat16"):
        build_model(CONFIG.but(precision="float16"), toys.model(), CPU)


@pytest.mark.parametrize("adapter", ["adalora", "nested"])
def test_a_pack_takes_its_steps_one_by_one(adapter: str) -> None:
    """Its layers are no plain pairs, so runs do not share a pass, and have the same losses as alone."""
    config, base, data = toys.RUN.but(adapter=adapter, rank=2), toys.model(), toys.data()
    batch = np.arange(4)

    def runs() -> list[Run]:
        return [Run(config.but(seed=seed), base, data) for seed in (1, 2)]

    together = [
        Packer().take([Step(run, number, batch, 1) for run in pack]) for pack in [runs()] for number in range(3)
    ]
    for place, run in enumerate(runs()):
        alone = [Step(run, number, batch, 1).take() for number in range(3)]
        assert [results[place].loss for results in together] == [result.loss for result in alone]  # type: ignore[union-attr]
