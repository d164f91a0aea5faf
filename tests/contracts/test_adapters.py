"""The contract of adapters, run for each entry of ADAPTERS and for variants of LoRA."""

import itertools
from pathlib import Path

import pytest
import torch

from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.lora import TARGETS, lora_layers, merge_lora
from gpt2core.builders import build_model, learning_rate
from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.describe import count_trainable, describe
from gpt2core.errors import ConfigError
from gpt2core.identity import identity
from gpt2core.model import GPT2, trainable_parameters
from gpt2core.run import Run
from gpt2core.steps import take_steps
from gpt2core.tasks import TASKS
from gpt2core.training import train, train_epoch
from tests import toys

CPU = torch.device("cpu")
IDS = torch.arange(30).view(2, 15)
#: A task with a head of its own, so that every adapter has something to train.
RUN = toys.RUN.but(task="cfimdb", rank=3)
LORA = RUN.but(adapter="lora")
VARIANTS = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"lora_init": "pissa"},
    "lora+": {"lora_plus": 16.0},
    "rslora, dora, pissa, lora+": {"rslora": True, "dora": True, "lora_init": "pissa", "lora_plus": 4.0},
}
TRAINING = [name for name in ADAPTERS if name != "frozen"]
CASES = {name: RUN.but(adapter=name) for name in TRAINING} | {k: LORA.but(**keys) for k, keys in VARIANTS.items()}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def config(request: pytest.FixtureRequest) -> RunConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def batch() -> Batch:
    return collate(toys.data().splits["train"], range(4), CPU)


def step(model: GPT2, config: RunConfig, batch: Batch, size: float = 1e-2) -> None:
    """Take two large optimizer steps; LoRA's A has no gradient until B has moved."""
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=size)
    for _ in range(2):
        optimizer.zero_grad()
        TASKS[config.task].losses(model, batch, toys.tokenizer(), config).sum().backward()
        optimizer.step()


def test_only_trainable_parameters_change(config: RunConfig, batch: Batch) -> None:
    base = toys.model()
    kept = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = build_model(config, base, CPU).train(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    names = set(trainable_parameters(model))
    assert names
    step(model, config, batch)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in names), name
    assert all(torch.equal(tensor, kept[name]) for name, tensor in base.state_dict().items()), "the base was changed"


@torch.no_grad()
def test_the_initial_output_is_that_of_the_base_model(config: RunConfig) -> None:
    base = toys.model()
    model = build_model(config, base, CPU).train(False)
    torch.testing.assert_close(model(IDS), base(IDS), atol=1e-5 if config.lora_init == "pissa" else 1e-6, rtol=0)


def test_initialisation_follows_the_seed(config: RunConfig) -> None:
    first, second = (build_model(config, toys.model(), CPU).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_merged_adapter_is_a_plain_model_with_the_same_outputs(config: RunConfig, batch: Batch) -> None:
    base = toys.model()
    model = build_model(config, base, CPU).train(False)
    step(model, config, batch)
    with torch.no_grad():
        expected = model(IDS)
        torch.testing.assert_close(merge_lora(model)(IDS), expected, atol=1e-5, rtol=0)
    assert set(model.state_dict()) == {*base.state_dict(), "head.weight"}


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(config: RunConfig, tmp_path: Path) -> None:
    def losses(folder: Path | None, epochs: int) -> list[float]:
        reports = train(config.but(epochs=2), toys.model(), toys.data(), folder=folder)
        return [report.metrics["train_loss"] for report in itertools.islice(reports, epochs)]

    whole = losses(None, 2)
    assert losses(tmp_path, 1) == whole[:1]
    assert losses(tmp_path, 2) == whole


def test_describe_counts_trainable_parameters(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.describe.shape_of", lambda name: toys.SHAPE)
    model = build_model(config, toys.model(), CPU)
    trains = sum(p.numel() for p in trainable_parameters(model).values())
    said = describe(config, "plain")
    assert said["trainable_parameters"] == count_trainable(config) == trains
    assert said["total_parameters"] == sum(p.numel() for p in merge_lora(model).parameters())
    assert said["head"] == [2, toys.SHAPE.n_embd]


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
    for name in ADAPTERS:
        config = RUN.but(adapter=name)
        assert (identity(config.but(**keys)) == identity(config)) == (name != "lora"), name
    for key, value in keys.items():
        assert identity(LORA.but(**{key: value})) != identity(LORA), key
    head = RUN.but(adapter="last-linear")
    assert identity(head.but(dropout=0.5)) == identity(head), "its trunk runs without dropout"
    assert identity(head.but(pretrain="poems", dropout=0.5)) != identity(head.but(pretrain="poems"))
