"""The contract of adapters, run for each entry of ADAPTERS and for variants of LoRA."""

import pytest
import torch

from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.lora import TARGETS, lora_layers
from gpt2core.builders import build_model, learning_rate
from gpt2core.errors import ConfigError
from gpt2core.identity import identity
from gpt2core.model import trainable_parameters
from gpt2core.run import Run
from gpt2core.steps import take_steps
from gpt2core.tasks import TASKS
from gpt2core.testing import AdapterContract, toys
from gpt2core.testing.adapters import CPU, IDS, RUN
from gpt2core.training import train, train_epoch

LORA = RUN.but(adapter="lora")
VARIANTS = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"lora_init": "pissa"},
    "lora+": {"lora_plus": 16.0},
    "rising ranks": {"ranks": "rising", "rslora": True},
    "one block, pissa": {"ranks": "upper-half", "lora_init": "pissa", "alpha": "r"},
    "rslora, dora, pissa, lora+": {"rslora": True, "dora": True, "lora_init": "pissa", "lora_plus": 4.0},
}
CASES = {
    **{name: {"adapter": name} for name in ADAPTERS if name != "frozen"},
    **{name: {"adapter": "lora", **keys} for name, keys in VARIANTS.items()},
}


class TestAdapters(AdapterContract):
    cases = CASES


def test_frozen_trains_nothing_and_scores_the_base_model() -> None:
    base, config = toys.model(), toys.RUN.but(adapter="frozen", epochs=1)
    assert not trainable_parameters(build_model(config, base, CPU))
    (report,) = train(config, base, toys.data())
    scores = TASKS["sonnet"].evaluate(toys.model(), toys.data(), config, "dev").metrics
    assert report.metrics == report.metrics | scores | {"trainable_parameters": 0}
    assert "train_loss" not in report.metrics
    with pytest.raises(ConfigError, match="the head of the task `cfimdb` starts at random"):
        build_model(RUN.but(adapter="frozen"), toys.model(), CPU)


def test_last_linear_trains_only_the_head_on_a_trunk_without_dropout() -> None:
    model = build_model(RUN.but(adapter="last-linear", dropout=0.5), toys.model(), CPU).train()
    assert set(trainable_parameters(model)) == {"head.weight"}
    assert torch.equal(model(IDS), model(IDS))


@pytest.mark.parametrize(
    "keys", [{"task": "sonnet"}, {"task": "pretraining"}, {"task": "paraphrase", "paraphrase_head": "cloze"}]
)
def test_last_linear_without_a_head_is_an_error_with_alternatives(keys: dict[str, str]) -> None:
    config = RUN.but(adapter="last-linear", **keys)
    with pytest.raises(
        ConfigError, match=f"but the task `{config.task}` has no head in this configuration; choose the adapter full"
    ):
        build_model(config, toys.model(), CPU)


def test_freeze_trains_the_named_blocks() -> None:
    model = build_model(toys.RUN.but(adapter="freeze", blocks="0"), toys.model(), CPU)
    assert {name.split(".")[1] for name in trainable_parameters(model)} == {"0"}


def test_all_targets_are_every_projection_of_a_block() -> None:
    block = toys.model().blocks[0]
    projections = {name.split(".")[-1] for name, part in block.named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(TARGETS["all"]) == projections
    assert set(TARGETS["qkv"]) < set(TARGETS["qkv+dense"]) < projections


@pytest.mark.parametrize("targets", sorted(TARGETS))
@pytest.mark.parametrize("blocks", ["all", "1"])
def test_lora_adapts_the_configured_blocks_and_targets(targets: str, blocks: str) -> None:
    model = build_model(toys.RUN.but(adapter="lora", rank=3, targets=targets, blocks=blocks), toys.model(), CPU)
    places = {
        name.split(".lora_")[0].removeprefix("blocks.").replace("attention.", "")
        for name in trainable_parameters(model)
    }
    adapted = "01" if blocks == "all" else "1"
    assert places == {f"{block}.{target}" for block in adapted for target in TARGETS[targets]}


@pytest.mark.parametrize(("keys", "scale"), [({}, 8.0), ({"rslora": True}, 16.0), ({"alpha": "2r"}, 2.0)], ids=str)
def test_the_scale_is_alpha_over_rank_or_its_square_root(keys: dict[str, object], scale: float) -> None:
    model = build_model(LORA.but(rank=4, **keys), toys.model(), CPU)
    assert {layer.scale for _, layer in lora_layers(model)} == {scale}


def test_lora_plus_raises_the_learning_rate_of_b() -> None:
    config = LORA.but(lora_plus=16.0, schedule="cosine", warmup_steps=2)
    run = Run(config, toys.model(), toys.data())
    assert list(take_steps(train_epoch(run, 1))) == [], "all that it asks for are steps"
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    rate = learning_rate(config, run.first_steps[1] - 1, run.first_steps[-1])
    for name, parameter in trainable_parameters(run.model).items():
        assert rates[id(parameter)] == (16.0 * rate if ".lora_B." in name else rate), name


@pytest.mark.parametrize("targets", ["qkv", "all"])
def test_pissa_starts_at_the_largest_singular_directions(targets: str) -> None:
    base = toys.model()
    for name, layer in lora_layers(build_model(LORA.but(lora_init="pissa", targets=targets), base, CPU)):
        weight = base.get_submodule(name).weight
        values = torch.linalg.svdvals(weight)
        rest = layer.base.weight
        torch.testing.assert_close(layer.pair().applied_to(rest), weight, atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.linalg.svdvals(rest)[:-3], values[3:], atol=1e-5, rtol=0)


def test_pissa_with_too_large_a_rank_is_an_error() -> None:
    with pytest.raises(ConfigError, match="The value of `rank` is 33, but must be at most 32 with lora_init pissa"):
        build_model(LORA.but(lora_init="pissa", rank=33), toys.model(), CPU)


def test_keys_that_an_adapter_ignores_are_not_part_of_its_identity() -> None:
    keys = {"rslora": True, "dora": True, "lora_init": "pissa", "lora_plus": 4.0, "rank": 7}
    for name, adapter in ADAPTERS.items():
        config = RUN.but(adapter=name)
        for key, value in keys.items():
            is_read = key in adapter.keys.model_fields
            assert (identity(config.but(**{key: value})) != identity(config)) == is_read, (name, key)
    head = RUN.but(adapter="last-linear")
    assert identity(head.but(dropout=0.5)) == identity(head), "its trunk runs without dropout"
    assert identity(head.but(pretrain="poems", dropout=0.5)) != identity(head.but(pretrain="poems"))
