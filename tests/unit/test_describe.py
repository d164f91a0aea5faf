"""The parameter counts of the study's Table 6, without weights."""

import json

import pytest

from gpt2core.__main__ import main


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
    assert "all blocks" in result["beside"]["meaning"]  # type: ignore[index]


def test_freezing_of_the_study_and_its_plain_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2-large", "--adapter", "freeze", "--preset", "study")
    assert result["trainable_parameters"] == 118_064_640
    assert result["beside"]["trainable"] == 3 * 118_064_640  # type: ignore[index]  # 18 blocks in place of 6
    assert "predicted, not measured" in str(result["gpu_memory"])


def test_blocks_that_were_asked_for_win(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2", "--adapter", "lora", "--blocks", "0", "--rank", "2")
    assert result["trainable_parameters"] == 2 * 3 * (768 + 768)
    assert result["beside"] is None
