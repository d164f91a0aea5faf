"""The parameter counts of the study's Table 6, without weights."""

import json

import pytest
import torch

from gpt2core.__main__ import main
from gpt2core.adapters.lora import TARGETS, count_lora
from gpt2core.builders import build_model
from gpt2core.describe import PRESETS, without_weights
from gpt2core.model import trainable_parameters
from gpt2core.testing import toys
from tests.runs import status

REWRITING = ["--task", "rewriting", "--set", "pairs=/pairs"]


@pytest.fixture(autouse=True)
def _memory_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a second for each description of gpt2-large; `test_gpu_memory` predicts."""
    monkeypatch.setattr("gpt2core.describe.predicted_gpu_memory_gb", lambda *_: 1.234)


def described(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    assert status(main, ["describe", "--json", *flags]) == 0
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


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_table_for_people_says_the_same(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    status(main, ["describe", "--model", "gpt2-large", "--adapter", "lora", "--rank", "16", "--preset", preset])
    printed = capsys.readouterr().out
    for part in (
        "1,474,560",
        "4,423,680",
        "774,030,080",
        "775,669,760",
        "pooler",
        "1.23 GB",
        "predicted, not measured",
    ):
        assert part in printed


@pytest.mark.parametrize("targets", sorted(TARGETS))
@pytest.mark.parametrize("blocks", ["default", "all", "0", "1-2", "0,2", "upper-half"])
def test_lora_is_counted_as_it_is_added(targets: str, blocks: str) -> None:
    shape = toys.SHAPE.but(n_layer=3)
    config = toys.RUN.but(adapter="lora", rank=3, targets=targets, blocks=blocks)
    added = trainable_parameters(build_model(config, toys.model(shape=shape), torch.device("cpu")))
    assert count_lora(without_weights(shape), config) == sum(p.numel() for p in added.values()) > 0


def test_a_model_without_weights_has_the_parameters_of_one_with() -> None:
    shapes = {name: tensor.shape for name, tensor in without_weights(toys.SHAPE).state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in toys.model().state_dict().items()}


def test_blocks_that_were_asked_for_win(capsys: pytest.CaptureFixture[str]) -> None:
    result = described(capsys, "--model", "gpt2", "--adapter", "lora", "--blocks", "0", "--rank", "2")
    assert result["trainable_parameters"] == 2 * 3 * (768 + 768)
    assert result["beside"] is None


@pytest.mark.parametrize(("flags", "message"), [
    (["--preset", "study"], "The preset `study` means blocks 0-11, but `gpt2-nano` has only blocks 0-3"),
    (["--blocks", "none"], "The value of `blocks` is 'none', but must be one of all, lower-half, upper-half"),
    (["--blocks", "7"], "The value of `blocks` is '7', but must name blocks 0 to 3 of this model"),
])  # fmt: skip
def test_blocks_that_do_not_exist_fail(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, ["describe", "--adapter", "lora", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "count"), [
    (["last-linear"], 5 * 1280),
    (["lora", "--rank", "16"], 3 * 1_474_560 + 5 * 1280),
    (["lora", "--rank", "16", "--dora"], 3 * (1_474_560 + 12 * 3 * 1280) + 5 * 1280),
    (["lora", "--rank", "16", "--rslora", "--lora-init", "pissa", "--lora-plus", "16"], 3 * 1_474_560 + 5 * 1280),
    (["full"], 774_030_080 + 5 * 1280),
], ids=lambda value: " ".join(value) if isinstance(value, list) else str(value))  # fmt: skip
def test_the_head_of_a_task_is_counted(flags: list[str], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--model", "gpt2-large", "--task", "sst", "--adapter", *flags]
    result = described(capsys, *argv)
    assert (result["trainable_parameters"], result["total_parameters"]) == (count, 774_030_080 + 5 * 1280)
    assert (result["task"], result["head"]) == ("sst", [5, 1280])
    status(main, ["describe", *argv])
    assert "Both counts include the head of sst: 5 x 1,280 = 6,400" in capsys.readouterr().out


def test_variants_of_lora_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rslora", "--dora", "--lora-init", "pissa", "--lora-plus", "16"]
    assert described(capsys, "--adapter", "lora", *flags)["variants"] == ["rslora", "dora", "pissa", "lora_plus 16"]
    assert described(capsys, "--adapter", "lora", "--dora", "false")["variants"] == []
    assert described(capsys, "--adapter", "full")["variants"] is None


@pytest.mark.parametrize(("flags", "pairs", "share"), [
    ([], 524_800, 1.0),
    (["--attention", "logsparse"], 10_241, 10_241 / 524_800),
    (["--attention", "auto"], 10_241, 10_241 / 524_800),
    (["--attention", "logsparse", "--attention-window", "5"], 11_262, 11_262 / 524_800),  # offset 3 besides
    (["--attention", "logsparse", "--attention-restart", "1"], 524_800, 1.0),
    (["--attention", "dense,logsparse"], 267_520, 535_041 / 1_049_600),
], ids=lambda value: " ".join(value) if isinstance(value, list) else str(value))  # fmt: skip
def test_attention_is_counted(flags: list[str], pairs: int, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    attention = described(capsys, "--model", "gpt2", "--length", "1024", *flags)["attention"]
    assert isinstance(attention, dict)
    assert (attention["length"], attention["attended_pairs"], attention["dense_pairs"]) == (1024, pairs, 524_800)
    assert attention["share"] == pytest.approx(share)
    assert attention["dense_flops"] == 12 * 4 * 768 * 524_800
    assert attention["flops"] == pytest.approx(share * attention["dense_flops"])
    assert len(attention["schedule"]) == len(attention["attended_pairs_by_block"]) == 12


@pytest.mark.parametrize(("flags", "message"), [
    (["--adapter", "full", "--rank", "8"], "The key `rank` has no effect: it needs adapter lora or adalora or nested"),
    (["--adapter", "last-linear", "--blocks", "0"], "The key `blocks` has no effect: it needs adapter freeze or lora"),
    (["--attention-window", "4"], "The key `attention_window` has no effect: it needs attention auto or logsparse"),
    (["--set", "pretrain_lr=0.1"], "The key `pretrain_lr` has no effect: it needs first stage pretrain"),
    (["--set", "dpo_beta=0.2"], "The value of `dpo_beta` is 0.2, but the task `sonnet` ignores it with the run's other "),
    (["--set", "dpo_beta=0.2", "--set", "pretrain=poems"], "The value of `dpo_beta` is 0.2, but the task `sonnet` ignores"),
    (["--task", "sst", "--set", "temperature=0.5"], "The value of `temperature` is 0.5, but the task `sst` ignores it"),
    (["--task", "cfimdb", "--set", "decoder=beam"], "The value of `decoder` is 'beam', but the task `cfimdb` ignores it"),
    (["--task", "paraphrase", "--set", "decode_seeds=1"], "The value of `decode_seeds` is 1, but the task `paraphrase` ig"),
    (["--task", "poems", "--set", "decode_seeds=1"], "The value of `decode_seeds` is 1, but the task `poems` ignores it"),
    ([*REWRITING, "--set", "kl_weight=0", "--set", "kl_on=own"], "The value of `kl_on` is 'own', but the task `rewriting`"),
])  # fmt: skip
def test_a_flag_that_the_run_does_not_read_is_an_error(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(main, ["describe", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.endswith(("; leave it out\n", "; leave it out, or choose that too\n"))


@pytest.mark.parametrize("flags", [
    ["--task", "poems", "--set", "decoder=beam", "--set", "num_beams=3"],  # which `generate` uses for the trained model
    ["--set", "decode_seeds=0"],
    ["--set", "temperature=0"],
    [*REWRITING, "--set", "kl_on=own"],
])  # fmt: skip
def test_a_flag_that_the_run_reads_is_accepted(flags: list[str]) -> None:
    assert status(main, ["describe", *flags]) == 0


@pytest.mark.parametrize(("ranks", "words"), [
    ("rising", "ranks rising with the mean 8 (3,6,10,13)"),
    ("4,4,8,16", "ranks 4,4,8,16"),
    ("0-1:4", "ranks 0-1:4 (4,4,0,0)"),
    ("uniform", "rank 8"),
])  # fmt: skip
def test_the_rank_of_each_block_is_shown(ranks: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    status(main, ["describe", "--adapter", "lora", "--set", f"ranks={ranks}"])
    assert capsys.readouterr().out.startswith(f"gpt2-nano, adapter lora of {words} on query, key, value\n")


def test_keys_of_the_first_stage_are_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    first = ["pretrain=paraphrase", "pretrain_lr=0.1", "head_dropout=0.5"]
    assert described(capsys, *[word for pair in first for word in ("--set", pair)])["task"] == "sonnet"


def test_attention_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    status(main, ["describe", "--model", "gpt2", "--attention", "logsparse", "--length", "1024"])
    assert "Attention logsparse at 1,024 tokens: 10,241 pairs of 524,800 (1.95%)" in capsys.readouterr().out
    status(main, ["describe", "--attention", "dense,logsparse"])
    assert "Attention dense, logsparse, dense, logsparse at 512 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [
    (["--length", "0"], "The value of `length` is 0, but must be 1 to 512, the context of gpt2-nano"),
    (["--length", "513"], "The value of `length` is 513, but must be 1 to 512, the context of gpt2-nano"),
    (["--attention", "dense,logsparse,auto"], "names that the blocks take in turn, but their number must divide"),
    (["--attention", "dense,logspars"], "Unknown attention `logspars`: did you mean `logsparse`?"),
    (["--attention-window", "0"], "The value of `attention_window` is '0', but must be >= 1"),
])  # fmt: skip
def test_impossible_attention_is_an_error(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, ["describe", *flags]) == 2
    assert message in capsys.readouterr().err
