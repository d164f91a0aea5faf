"""The parameter counts of the study's Table 6, without weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2core.__main__ import main
from gpt2core.adapters.lora import TARGETS
from gpt2core.checkpoints import trained
from gpt2core.describe import PRESETS, count_lora, without_weights
from gpt2core.training import build
from tests import toys


def described(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as stopped:
        main(["describe", "--json", *flags])
    assert stopped.value.code == 0
    return dict(json.loads(capsys.readouterr().out))


def test_full_tuning_of_gpt2_large(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2-large", "--preset", "study")
    assert result["total_parameters_with_pooler"] == 775_669_760
    assert result["total_parameters"] == result["trainable_parameters"] == 774_030_080


@pytest.mark.parametrize(("rank", "count"), [(4, 368_640), (8, 737_280), (16, 1_474_560), (32, 2_949_120)])
def test_lora_of_the_study_and_its_plain_meaning(rank: int, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2-large", "--adapter", "lora", "--rank", str(rank), "--preset", "study")
    assert result["trainable_parameters"] == count
    assert result["beside"]["trainable"] == 3 * count  # type: ignore[index]  # 36 blocks in place of 12
    assert "all blocks, 0-35" in result["beside"]["meaning"]  # type: ignore[index]
    assert "blocks 0-11, as in the study" in result["chosen"]["meaning"]  # type: ignore[index]


def test_freezing_of_the_study_and_its_plain_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2-large", "--adapter", "freeze", "--preset", "study")
    assert result["trainable_parameters"] == 118_064_640
    assert result["beside"]["trainable"] == 3 * 118_064_640  # type: ignore[index]  # 18 blocks in place of 6
    assert "the first half is frozen, blocks 18-35 train" in result["beside"]["meaning"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("flags", "gigabytes"),
    [(["full"], 12.78), (["freeze"], 4.77), (["lora", "--rank", "4"], 3.34), (["lora", "--rank", "8"], 3.35)],
)
def test_memory_is_predicted_near_what_the_study_measured(
    flags: list[str], gigabytes: float, capsys: pytest.CaptureFixture[str]
) -> None:
    result = described(capsys, "--model", "gpt2-large", "--preset", "study", "--adapter", *flags)
    assert result["chosen"]["predicted_gpu_memory_gb"] == pytest.approx(gigabytes, rel=0.015)  # type: ignore[index]
    assert "predicted, not measured" in str(result["gpu_memory"])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_table_for_people_says_the_same(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["describe", "--model", "gpt2-large", "--adapter", "lora", "--rank", "16", "--preset", preset])
    printed = capsys.readouterr().out
    for part in ("1,474,560", "4,423,680", "774,030,080", "775,669,760", "pooler", "predicted, not measured"):
        assert part in printed


@pytest.mark.parametrize("targets", sorted(TARGETS))
@pytest.mark.parametrize("blocks", ["default", "all", "0", "1-2", "0,2", "upper-half"])
def test_lora_is_counted_as_peft_adds_it(targets: str, blocks: str) -> None:
    shape = toys.SHAPE.but(n_layer=3)
    config = toys.RUN.but(adapter="lora", rank=3, targets=targets, blocks=blocks)
    added = trained(build(config, toys.model(shape=shape), torch.device("cpu")))
    assert count_lora(without_weights(shape), config) == sum(p.numel() for p in added.values()) > 0


def test_a_model_without_weights_has_the_parameters_of_one_with() -> None:
    shapes = {name: tensor.shape for name, tensor in without_weights(toys.SHAPE).state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in toys.model().state_dict().items()}


def test_counting_imports_neither_peft_nor_the_compiler(root: Path) -> None:
    code = (
        "import sys\nfrom gpt2core.__main__ import main\n"
        "try: main(['describe', '--adapter', 'lora', '--json'])\nexcept SystemExit as stop: assert not stop.code\n"
        "heavy = {'peft', 'transformers', 'torch._dynamo'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_blocks_that_were_asked_for_win(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2", "--adapter", "lora", "--blocks", "0", "--rank", "2")
    assert result["trainable_parameters"] == 2 * 3 * (768 + 768)
    assert result["beside"] is None


def test_blocks_are_not_claimed_for_an_adapter_that_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2", "--blocks", "3")
    assert result["chosen"]["meaning"] == "every parameter trains"  # type: ignore[index]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "study"], "The preset `study` means blocks 0-11, but `gpt2-nano` has blocks 0-3 only"),
        (["--blocks", "none"], "The value of `blocks` is 'none', but must be one of all, lower-half, upper-half"),
        (["--blocks", "7"], "The value of `blocks` is '7', but must name blocks 0 to 3 of this model"),
    ],
)
def test_blocks_that_are_not_there_are_an_error(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["describe", "--adapter", "lora", *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
