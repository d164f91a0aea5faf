"""`python -m gpt2core` on the embedded model and data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2core import checkpoints
from gpt2core.__main__ import main
from gpt2core.training import build
from gpt2core.weights import load_model

TINY = ["--set", "train_examples=12", "--set", "decode_seeds=1", "--set", "max_new_tokens=16"]


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert run("train", "--out", str(out), "--adapter", "lora", "--lr", "0.01", "--epochs", "2", *TINY) == 0
    return out


def test_train_says_what_it_used_and_goes_on_where_it_was(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--out", str(trained), "--adapter", "lora", "--lr", "0.01", "--epochs", "3", *TINY) == 0
    printed = capsys.readouterr().out
    for part in (
        "Model: gpt2-nano, adapter lora",
        "sonnets: 131 train",
        "epoch 1/3",
        "epoch 3/3",
        "python -m gpt2core export",
    ):
        assert part in printed
    epochs = json.loads((trained / "metrics.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]


def test_evaluate_lays_scores_beside_the_floors(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--checkpoint", str(trained), "--split", "test") == 0
    printed = capsys.readouterr().out
    for part in (
        "chrf_continuation_low",
        "test_perplexity",
        "floor, no model: given lines and 11 random training lines",
    ):
        assert part in printed


def test_generate_continues_each_prompt_and_is_the_same_twice(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--prompt", "Shall I compare thee", "--samples", "2", "--max-new-tokens", "8", "--seed", "3"]
    assert run("generate", "--checkpoint", str(trained), *flags) == 0
    first = capsys.readouterr().out
    assert first.count("Shall I compare thee") == 2
    assert run("generate", "--checkpoint", str(trained), *flags) == 0
    assert capsys.readouterr().out == first


@torch.no_grad()
def test_export_writes_what_transformers_loads_with_the_same_logits(trained: Path, tmp_path: Path) -> None:
    assert run("export", "--checkpoint", str(trained), "--out", str(tmp_path / "model")) == 0
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "model").train(False)
    adapted = build(checkpoints.run_config(trained), load_model("gpt2-nano"), torch.device("cpu")).train(False)
    checkpoints.load_best(trained, adapted)
    ids = torch.arange(40).view(2, 20)
    assert (adapted.logits(adapted(ids)) - theirs(ids).logits).abs().max() < 1e-4
    base = load_model("gpt2-nano")
    assert (base.logits(base(ids)) - theirs(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["descrbe"], "Unknown choice `descrbe`: did you mean `describe`?"),
        (["describe", "--adpter", "lora"], "Unknown flag `--adpter`: did you mean `--adapter`?"),
        (["describe", "--adapter", "lorra"], "Unknown adapter `lorra`: did you mean `lora`?"),
        (["describe", "--model", "gpt2-lrge"], "There is no model `gpt2-lrge`"),
        (["describe", "--preset", "studdy"], "Unknown choice `studdy`: did you mean `study`?"),
        (["train", "--out", "x", "--task", "sonet"], "Unknown task `sonet`: did you mean `sonnet`?"),
        (["train", "--out", "x", "--lr", "-1"], "The value of `lr` is '-1', but must be greater than 0"),
        (["evaluate", "--checkpoint", "nowhere"], "nowhere/best/state.json: there is no such file"),
        (["generate", "--model", "gpt2-nano", "--prompt", "a", "--decoder", "bem"], "Unknown decoder `bem`"),
        (["generate", "--model", "gpt2-nano", "--prompt", ""], "A prompt has 0 tokens"),
        (["export", "--checkpoint", "nowhere", "--out", "x"], "nowhere/best/state.json: there is no such file"),
        (["evaluate", "--split", "dev"], "one of the arguments --checkpoint --model is required"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_test_split_without_gold_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poem = "\n".join(["a line of words"] * 14)
    (tmp_path / "sonnets.txt").write_text(f"1\n\n{poem}\n")
    (tmp_path / "TRUE_sonnets_held_out_dev.txt").write_text(f"132\n\n{poem}\n")
    (tmp_path / "sonnets_held_out.txt").write_text("145\n\none\ntwo\nthree\n")
    flags = ["--model", "gpt2-nano", "--data-dir", str(tmp_path), "--split", "test"]
    assert run("evaluate", *flags) == 2
    assert "1 of the test split's 1 texts are the 3 given lines alone" in capsys.readouterr().err


def test_help_imports_nothing_heavy(root: Path) -> None:
    code = (
        "import sys\nfrom gpt2core.__main__ import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
