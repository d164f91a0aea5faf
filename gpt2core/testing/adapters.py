"""The contract of adapters."""

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import gpt2core.testing.toys as toys
from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.lora import merge_lora
from gpt2core.builders import build_model
from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.describe import count_trainable, describe
from gpt2core.model import GPT2, trainable_parameters
from gpt2core.run import Run
from gpt2core.steps import take_steps
from gpt2core.tasks import TASKS
from gpt2core.testing.contract import Contract, Settings, check_keys
from gpt2core.training import train, train_epoch

CPU = torch.device("cpu")
IDS = torch.arange(30).view(2, 15)
#: A task with a head of its own, so that every adapter has something to train.
RUN = toys.RUN.but(task="cfimdb", rank=3)


def step(model: GPT2, config: RunConfig, batch: Batch, size: float = 1e-2) -> None:
    """Take two large optimizer steps; LoRA's A has no gradient until B has moved."""
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=size)
    for _ in range(2):
        optimizer.zero_grad()
        TASKS[config.task].losses(model, batch, toys.tokenizer(), config).sum().backward()
        optimizer.step()


class AdapterContract(Contract):
    """The contract of an adapter that trains something."""

    @pytest.fixture
    def config(self, case: Settings) -> RunConfig:
        """The run of a case."""
        return RUN.but(**case)

    @pytest.fixture
    def batch(self) -> Batch:
        """Four examples."""
        return collate(toys.data().splits["train"], range(4), CPU)

    def test_its_keys_have_one_meaning(self, config: RunConfig) -> None:
        check_keys(ADAPTERS[config.adapter])

    def test_only_trainable_parameters_change(self, config: RunConfig, batch: Batch) -> None:
        base = toys.model()
        kept = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        model = build_model(config, base, CPU).train(False)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        names = set(trainable_parameters(model))
        assert names
        step(model, config, batch)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (name not in names), name
        assert all(torch.equal(tensor, kept[name]) for name, tensor in base.state_dict().items()), (
            "the base was changed"
        )

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_every_trainable_parameter_trains(self, config: RunConfig, precision: str) -> None:
        run = Run(config.but(precision=precision), toys.model(), toys.data())
        before = {name: parameter.detach().clone() for name, parameter in trainable_parameters(run.model).items()}
        list(take_steps(cast(Any, train_epoch(run, 1))))
        for name, parameter in trainable_parameters(run.model).items():
            # A bias of the keys shifts all scores of a query equally, so softmax ignores it.
            assert name.endswith("key.bias") or not torch.equal(parameter, before[name]), name

    @torch.no_grad()
    def test_the_initial_output_is_that_of_the_base_model(self, config: RunConfig) -> None:
        base = toys.model()
        model = build_model(config, base, CPU).train(False)
        torch.testing.assert_close(model(IDS), base(IDS), atol=1e-5 if config.lora_init == "pissa" else 1e-6, rtol=0)

    def test_initialisation_follows_the_seed(self, config: RunConfig) -> None:
        first, second = (build_model(config, toys.model(), CPU).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_merged_adapter_is_a_plain_model_with_the_same_outputs(self, config: RunConfig, batch: Batch) -> None:
        base = toys.model()
        model = build_model(config, base, CPU).train(False)
        step(model, config, batch)
        with torch.no_grad():
            expected = model(IDS)
            torch.testing.assert_close(merge_lora(model)(IDS), expected, atol=1e-5, rtol=0)
        assert set(model.state_dict()) == {*base.state_dict(), "head.weight"}

    def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(self, config: RunConfig, tmp_path: Path) -> None:
        def losses(folder: Path | None, epochs: int) -> list[float]:
            reports = train(config.but(epochs=2), toys.model(), toys.data(), folder=folder)
            return [report.metrics["train_loss"] for report in itertools.islice(reports, epochs)]

        whole = losses(None, 2)
        assert losses(tmp_path, 1) == whole[:1]
        assert losses(tmp_path, 2) == whole

    def test_describe_counts_trainable_parameters(self, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gpt2core.describe.shape_of", lambda name: toys.SHAPE)
        model = build_model(config, toys.model(), CPU)
        trains = sum(p.numel() for p in trainable_parameters(model).values())
        said = describe(config, "plain")
        assert said["trainable_parameters"] == count_trainable(config) == trains
        assert said["total_parameters"] == sum(p.numel() for p in merge_lora(model).parameters())
        assert said["head"] == [2, toys.SHAPE.n_embd]
