"""Two stages of training: the first is made once, shared, and what the second starts from."""

import dataclasses
from pathlib import Path

import pytest
import torch

from gpt2core import pretrain_stage
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError
from gpt2core.identity import identity
from gpt2core.model import GPT2
from gpt2core.pretrain_stage import first_stage, starting_model
from gpt2core.testing import toys
from gpt2core.training import train
from gpt2core.weights import save_model


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrain_stage, "run_data", lambda config: toys.data())
    folder = str(toys.folder(tmp_path / "toy"))
    return toys.RUN.but(model=folder, pretrain="sonnet", pretrain_epochs=2, pretrain_lr=1e-2, pretrain_examples=4)


def weights(model: GPT2) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_a_run_without_a_first_stage_starts_from_the_model_itself(config: RunConfig) -> None:
    assert first_stage(config.but(pretrain=None)) is None
    torch.testing.assert_close(weights(starting_model(config.but(pretrain=None))), weights(toys.model()))


def test_the_first_stage_is_trained_once_and_shared(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = starting_model(config)
    assert not torch.allclose(weights(first), weights(toys.model()))
    monkeypatch.setattr("gpt2core.training.train_epoch", None)  # training again would fail
    again = starting_model(config.but(lr=0.5, adapter="lora", rank=2, seed=3, decoder="greedy"))
    assert torch.equal(weights(again), weights(first))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_what_decides_the_first_stage_makes_another(config: RunConfig) -> None:
    first = weights(starting_model(config))
    for change in ({"pretrain_lr": 1e-3}, {"pretrain_seed": 5}, {"pretrain_examples": 5}):
        assert not torch.equal(weights(starting_model(config.but(**change))), first), change


def test_a_run_with_a_first_stage_is_another_run(config: RunConfig) -> None:
    alone = config.but(pretrain=None)
    assert identity(config) != identity(alone)
    assert identity(alone) == identity(alone.but(pretrain_lr=0.1, pretrain_epochs=77))


def test_changed_inputs_train_another_first_stage(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [starting_model(config)]
    words = toys.tokenizer()
    words.digest = "of another tokenizer"
    monkeypatch.setattr(pretrain_stage, "run_data", lambda config: dataclasses.replace(toys.data(), tokenizer=words))
    starts.append(starting_model(config))
    monkeypatch.setattr(pretrain_stage, "run_data", lambda config: toys.data(train=12))
    starts.append(starting_model(config))
    save_model(toys.model(seed=1), Path(config.model))
    starts.append(starting_model(config))
    assert len({start.origin for start in starts}) == 4
    assert starting_model(config.but(pretrain=None)).origin is None


def test_a_run_is_not_gone_on_with_from_another_first_stage(config: RunConfig, tmp_path: Path) -> None:
    run = config.but(adapter="lora", decode_seeds=0)
    list(train(run.but(epochs=1), starting_model(run), toys.data(), folder=tmp_path))
    again = starting_model(run)
    again.blocks[0].mlp_in.weight.data += 1e-7  # as it may be where another machine trained it
    assert len(list(train(run, again, toys.data(), folder=tmp_path))) == 3
    other = starting_model(run.but(pretrain_seed=5))
    with pytest.raises(CheckpointError, match="was trained from another model"):
        list(train(run, other, toys.data(), folder=tmp_path))
