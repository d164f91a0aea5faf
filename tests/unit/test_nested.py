"""Nested LoRA: a step trains the first directions, and a cut-out is LoRA of these directions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gpt2core.__main__ import main
from gpt2core.adapters.lora import lora_layers
from gpt2core.adapters.nested import NestedLinear, draw_widths, nested, set_widths
from gpt2core.cutting import Cuts, agreement
from gpt2core.errors import ConfigError
from gpt2core.model import trainable_parameters
from gpt2core.run import Run
from gpt2core.testing import toys
from gpt2core.training import train
from tests.runs import status

IDS = torch.arange(30).view(2, 15)
CONFIG = toys.RUN.but(adapter="nested", rank=4, targets="all", alpha=6.0)


@pytest.mark.parametrize("width", range(5))
def test_a_width_is_the_update_of_the_first_directions(width: int) -> None:
    model, base = toys.model().double(), toys.model().double()
    nested(model, CONFIG)
    for name, layer in lora_layers(model):
        layer.lora_B.weight.data.normal_()
        plain = base.get_submodule(name)
        update = sum(
            torch.outer(layer.lora_B.weight[:, place], layer.lora_A.weight[place]) * 6.0 / width
            for place in range(width)
        )
        plain.weight.data += update
    set_widths(model, {0: width, 1: width})
    torch.testing.assert_close(model.train(False)(IDS), base(IDS), rtol=1e-10, atol=1e-10)


def test_a_step_moves_no_direction_beyond_its_width() -> None:
    run = Run(CONFIG.but(weight_decay=0.0), toys.model(), toys.data())
    before = {name: parameter.detach().clone() for name, parameter in trainable_parameters(run.model).items()}
    draw_widths(run.model, run.config, 7)
    widths = {name: layer.width for name, layer in lora_layers(run.model) if isinstance(layer, NestedLinear)}
    run.step(7, np.arange(4))
    for name, layer in lora_layers(run.model):
        moved = (layer.lora_B.weight != before[f"{name}.lora_B.weight"]).any(dim=0)
        assert moved.nonzero().flatten().tolist() == list(range(widths[name] or 0)), name
        assert isinstance(layer, NestedLinear)
        assert layer.width is None, "evaluations use all directions"


def test_widths_follow_seed_and_step_and_are_uniform() -> None:
    model = toys.model()
    nested(model, CONFIG)
    drawn = []
    for number in range(2000):
        draw_widths(model, CONFIG, number)
        drawn.append([layer.width for _, layer in lora_layers(model) if isinstance(layer, NestedLinear)])
    assert {len(set(widths[:6])) for widths in drawn} == {1}, "projections of a block share a width"
    shares = np.bincount([width for widths in drawn for width in (widths[0], widths[6])], minlength=5) / 4000
    assert shares == pytest.approx([0.2] * 5, abs=0.025)
    assert abs(np.corrcoef([widths[0] for widths in drawn], [widths[6] for widths in drawn])[0, 1]) < 0.1


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A nested run on the embedded model."""
    argv = [
        "train",
        "--out",
        str(tmp_path / "run"),
        "--adapter",
        "nested",
        "--rank",
        "4",
        "--lr",
        "1e-2",
        "--epochs",
        "1",
    ]
    assert (
        status(main, [*argv, "--set", "train_examples=16", "--set", "dev_examples=4", "--set", "decode_seeds=0"]) == 0
    )
    return tmp_path / "run"


@torch.no_grad()
def test_a_cut_out_is_lora_with_the_first_directions(trained: Path) -> None:
    cuts = Cuts(trained, {})
    set_widths(cuts.nested, {0: 0, 1: 1, 2: 4, 3: 3})
    cut = cuts.cut_out("0,1,4,3")
    torch.testing.assert_close(cut(IDS), cuts.nested.train(False)(IDS), atol=1e-5, rtol=0)
    assert [len(layer.lora_A.weight) for _, layer in lora_layers(cut)] == [1] * 3 + [4] * 3 + [3] * 3
    scores = cuts.scored(2, 12)
    assert len(scores) == 12
    assert {"2,2,2,2", "4,4,0,0", "0,0,4,4"} < scores.keys()
    assert {sum(map(int, ranks.split(","))) for ranks in scores} == {8}
    assert max(int(rank) for ranks in scores for rank in ranks.split(",")) <= 4
    assert list(scores.values()) == sorted(scores.values())
    with pytest.raises(ConfigError, match="The value of `--rank` is 5, but must be at most the rank of the run, 4"):
        cuts.scored(5, 3)


@pytest.mark.slow
def test_the_command_compares_cut_outs_with_lora_trained_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    argv = ["--checkpoint", str(trained), "--rank", "2", "--patterns", "8", "--alone", "5", "--out", str(out)]
    assert status(main, ["cut", *argv]) == 0
    scores, alone = json.loads(out.read_text()).values()
    assert len(scores) == 8
    assert len(alone) == 5
    cuts = Cuts(trained, {})
    ranks, score = next(iter(alone.items()))
    assert score == min(r.metrics["dev_loss"] for r in train(cuts.alone(ranks), cuts.base, cuts.data))
    correlation = spearmanr([scores[ranks] for ranks in alone], list(alone.values())).statistic
    printed = " ".join(capsys.readouterr().out.split())
    assert "cut to the mean rank 2: 9,216 parameters each" in printed
    assert f"Rank correlation of both scores (Spearman) over 5 patterns: {correlation:.2f} [" in printed
    command = printed.partition("Confirm the best on fresh seeds: ")[2]
    assert "layer_rank" in command
    assert f"ranks=uniform;{next(ranks for ranks in scores if ranks != '2,2,2,2')}" in command


def test_only_a_nested_run_can_be_cut(tmp_path: Path) -> None:
    config = toys.RUN.but(adapter="lora", model="gpt2-nano", epochs=1)
    list(train(config, toys.model(), toys.data(), folder=tmp_path))
    with pytest.raises(ConfigError, match="has the adapter `lora` and 1 folds, but must have `nested` and 1"):
        Cuts(tmp_path, {})


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_interval_of_a_rank_correlation_covers_it(correlation: float) -> None:
    random = np.random.default_rng(3)
    true = 6 / np.pi * np.arcsin(correlation / 2)  # Spearman's, of two normal scores
    covered = 0
    for _ in range(1000):
        first, noise = random.normal(size=(2, 12))
        found = agreement(first.tolist(), (correlation * first + np.sqrt(1 - correlation**2) * noise).tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / 1000 <= 0.98


def test_few_or_equal_scores_have_no_interval() -> None:
    assert agreement([1, 2, 3], [1, 3, 2]).low is None
    assert agreement([1.0] * 8, [1.0] * 8).low is None
