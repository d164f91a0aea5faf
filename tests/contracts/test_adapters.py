"""What every adapter promises; a new entry of ADAPTERS is tested without another line."""

import pytest
import torch

from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.lora import TARGETS, merge_lora
from gpt2core.checkpoints import trained
from gpt2core.config import RunConfig
from gpt2core.describe import count_trainable
from gpt2core.model import GPT2
from gpt2core.training import build
from tests import toys

CPU = torch.device("cpu")
IDS = torch.arange(30).view(2, 15)


@pytest.fixture(params=sorted(ADAPTERS))
def config(request: pytest.FixtureRequest) -> RunConfig:
    return toys.RUN.but(adapter=request.param, rank=3)


def step(model: GPT2, size: float = 1e-2) -> None:
    """One step of training, large enough to be seen."""
    optimizer = torch.optim.AdamW(trained(model).values(), lr=size)
    for _ in range(2):  # LoRA's A has no gradient before B has moved
        optimizer.zero_grad()
        model.losses(IDS, IDS).sum().backward()
        optimizer.step()


def test_it_trains_what_it_says_and_nothing_else(config: RunConfig) -> None:
    base = toys.model()
    kept = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = build(config, base, CPU).train(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    names = set(trained(model))
    assert names
    step(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in names), name
    assert all(torch.equal(tensor, kept[name]) for name, tensor in base.state_dict().items()), "the base was changed"


@torch.no_grad()
def test_it_starts_at_the_base_model(config: RunConfig) -> None:
    base = toys.model()
    model = build(config, base, CPU).train(False)
    torch.testing.assert_close(model(IDS), base(IDS), atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_start(config: RunConfig) -> None:
    one, two = (trained(build(config, toys.model(), CPU)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_describe_counts_what_trains(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.describe.shape_of", lambda name: toys.SHAPE)
    assert count_trainable(config) == sum(p.numel() for p in trained(build(config, toys.model(), CPU)).values())


def test_freeze_trains_the_named_blocks() -> None:
    model = build(toys.RUN.but(adapter="freeze", blocks="0"), toys.model(), CPU)
    assert {name.split(".")[1] for name in trained(model)} == {"0"}


def test_all_targets_are_every_projection_of_a_block() -> None:
    block = toys.model().blocks[0]
    projections = {name.split(".")[-1] for name, part in block.named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(TARGETS["all"]) == projections
    assert set(TARGETS["qkv"]) < set(TARGETS["qkv+dense"]) < projections


@pytest.mark.parametrize("targets", sorted(TARGETS))
@pytest.mark.parametrize("blocks", ["all", "1"])
def test_lora_sits_where_it_was_asked_to_and_merges(targets: str, blocks: str) -> None:
    base = toys.model()
    config = toys.RUN.but(adapter="lora", rank=3, targets=targets, blocks=blocks, alpha="2r", lora_dropout=0.0)
    kept = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = build(config, base, CPU).train(False)
    places = {name.split(".lora_")[0].removeprefix("blocks.").replace("attention.", "") for name in trained(model)}
    assert places == {
        f"{block}.{target}" for block in ("01" if blocks == "all" else "1") for target in TARGETS[targets]
    }
    step(model)
    with torch.no_grad():
        expected = model(IDS)
        merged = merge_lora(model)
        torch.testing.assert_close(merged(IDS), expected, atol=1e-5, rtol=0)
        assert not torch.allclose(merged(IDS), base(IDS), atol=1e-4)
    assert set(merged.state_dict()) == set(base.state_dict())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in base.state_dict().items()), "the base was changed"
