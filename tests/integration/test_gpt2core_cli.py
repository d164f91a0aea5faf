"""`python -m gpt2core` on the embedded model and data."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2core import commands
from gpt2core.__main__ import main, parser
from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.lora import TARGETS
from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import DataOrigin
from gpt2core.decoding import DECODERS
from gpt2core.errors import DataError
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS
from gpt2core.tasks.gold import check_gold
from gpt2core.weights import load_model
from tests.runs import python, status

TINY = ["--set", "train_examples=12", "--set", "decode_seeds=1", "--set", "max_new_tokens=16"]


def run(*argv: str) -> int:
    return status(main, argv)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    argv = ["train", "--out", str(out), "--adapter", "lora", "--lr", "0.01", "--epochs", "2", *TINY]
    done = python("-m", "gpt2core", *argv)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2: train loss" in done.stdout
    return out


def test_train_says_what_it_used_and_goes_on_where_it_was(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--out", str(trained), "--adapter", "lora", "--lr", "0.01", "--epochs", "3", *TINY) == 0
    printed = capsys.readouterr().out
    for part in (
        "Model: gpt2-nano, adapter lora",
        "sonnets: 131 train",
        "epoch 1/3: train loss ",
        "epoch 3/3: train loss ",
        "dev loss ",
        "chrF continuation ",
        "bits per character ",
        "Best by dev_loss: epoch ",
        "gpt2-search export",
    ):
        assert part in printed
    epochs = json.loads((trained / "metrics.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert f"epoch {load_best(trained, adapted(trained))} in {trained / 'best'}" in printed


def test_evaluate_lays_scores_beside_the_baselines(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--checkpoint", str(trained), "--split", "test") == 0
    printed = capsys.readouterr().out
    for part in (
        "gpt2-nano, adapter lora, epoch ",
        "95% interval",
        "test perplexity",
        "bits per character",
        "baseline: given lines and 11 random training lines",
        "continuation 2",
        "baseline: a bigram model of the training texts (Kneser-Ney)",
        "test loss 5.",
    ):
        assert part in printed


def test_generate_continues_each_prompt_reproducibly(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--prompt", "Shall I compare thee", "--samples", "2", "--max-new-tokens", "8", "--seed", "3"]
    assert run("generate", "--checkpoint", str(trained), *flags) == 0
    first = capsys.readouterr().out
    assert first.count("Shall I compare thee") == 2
    assert run("generate", "--checkpoint", str(trained), *flags) == 0
    assert capsys.readouterr().out == first


def generated(capsys: pytest.CaptureFixture[str], *prompts: str, samples: int = 1) -> str:
    flags = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert run("generate", "--model", "gpt2-nano", *flags, "--samples", str(samples), "--max-new-tokens", "8") == 0
    return capsys.readouterr().out


def test_a_prompt_is_continued_alike_whatever_else_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = generated(capsys, "To be", samples=3), generated(capsys, "My love", samples=3)
    assert generated(capsys, "To be", "My love", samples=3) == first + second
    assert first.startswith(generated(capsys, "To be", samples=2))
    assert first.startswith(generated(capsys, "To be"))


def test_a_prompt_may_hold_backslashes_and_new_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert generated(capsys, r"C:\\new").startswith(r"C:\new")
    assert generated(capsys, r"one\ntwo").startswith("one\ntwo")
    assert generated(capsys, r"C:\temp").startswith(r"C:\temp")


@pytest.mark.parametrize(("poems", "message"), [
    (5, "make no example (one stream with EOS behind each text, in blocks of 256"),
    (60, "the dev split has no text, but train and dev must have at least one; more texts are needed"),
])  # fmt: skip
def test_too_little_data_fails_before_training(
    poems: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps({"text": "\n".join(f"Line {n} of a poem that goes on" for n in range(30 if poems == 60 else 2))})
    (tmp_path / "pdpoems13754-000.jsonl").write_text(f"{text}\n" * poems)
    out = tmp_path / "run"
    assert run("train", "--task", "poems", "--data-dir", str(tmp_path), "--out", str(out)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def adapted(trained: Path) -> GPT2:
    model = build_model(run_config(trained), load_model("gpt2-nano"), torch.device("cpu")).train(False)
    load_best(trained, model)
    return model


@torch.no_grad()
def test_export_writes_what_transformers_loads_with_the_same_logits(trained: Path, tmp_path: Path) -> None:
    assert run("export", "--checkpoint", str(trained), "--out", str(tmp_path / "model")) == 0
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "model").train(False)
    ours = adapted(trained)
    ids = torch.arange(40).view(2, 20)
    assert (ours.logits(ours(ids)) - theirs(ids).logits).abs().max() < 1e-4
    base = load_model("gpt2-nano")
    assert (base.logits(base(ids)) - theirs(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize(("argv", "message"), [
    (["descrbe"], "Unknown command `descrbe`: did you mean `describe`?"),
    ([], "A command is missing; valid: keys, describe, train, evaluate, predict, generate, export"),
    (["--bogus", "describe"], "Unknown flag `--bogus`: valid: --help, -h"),
    (["describe", "gpt2"], "Unexpected word `gpt2`"),
    (["train", "--otu", "x"], "Unknown flag `--otu`: did you mean `--out`?"),
    (["train", "--out", "x", "--set", "lrr=1"], "Unknown key `lrr`: did you mean `lr`?"),
    (["train", "--out", "x", "--set", "attention=dnse"], "Unknown attention `dnse`: did you mean `dense`?"),
    (["train", "--out", "x", "--attention", "dense,auto,dense"], "must divide the model's n_layer, 4"),
    (["train", "--out", "x", "--adapter", "lorra"], "Unknown adapter `lorra`: did you mean `lora`?"),
    (["train", "--out", __file__], "test_gpt2core_cli.py: must be a writable folder"),
    (["describe", "--adpter", "lora"], "Unknown flag `--adpter`: did you mean `--adapter`?"),
    (["describe", "--adapter", "lorra"], "Unknown adapter `lorra`: did you mean `lora`?"),
    (["describe", "--model", "gpt2-lrge"], "There is no model `gpt2-lrge`"),
    (["describe", "--preset", "studdy"], "Unknown value of `--preset` `studdy`: did you mean `study`?"),
    (["train", "--out", "x", "--task", "sonet"], "Unknown task `sonet`: did you mean `sonnet`?"),
    (["train", "--out", "x", "--model", "gpt2-nana"], "There is no model `gpt2-nana`"),
    (["train", "--out", "x", "--data-dir", "nowhere"], "nowhere: there is no such folder"),
    (["train", "--out", "x", "--lr", "-1"], "The value of `lr` is '-1', but must be > 0"),
    (
        ["evaluate", "--checkpoint", "nowhere"],
        "nowhere: must be the folder of a run, with best/state.json, or of a model",
    ),
    (["evaluate", "--checkpoint", __file__], "test_gpt2core_cli.py: must be the folder of a run"),
    (["evaluate", "--model", __file__], "test_gpt2core_cli.py: is a file, but a model is a folder; for weights in a file, see"),
    (["train", "--out", "x", "--epochs", "1", "--rank", "4"], "The key `rank` has no effect: it needs adapter lora"),
    (["describe", "--length", "long"], "The value of `--length` is 'long', but must be a whole number"),
    (["convert", "nowhere.bin", "--out", "x"], "nowhere.bin: no such file; it must be a file that torch.save wrote"),
    (["generate", "--model", "gpt2-nano", "--prompt", "a", "--decoder", "bem"], "Unknown decoder `bem`"),
    (["generate", "--model", "gpt2-nano", "--prompt", ""], "The value of `--prompt` is '', but must not be empty"),
    (["train", "--out", ""], "The value of `--out` is '', but must not be empty"),
    (["train", "--out", "x", "--train="], "The value of `--train` is '', but must not be empty"),
    (
        ["export", "--checkpoint", "nowhere", "--out", "x"],
        "nowhere: must be the folder of a run, with best/state.json, or of a model",
    ),
    (["generate", "--model", "gpt2-nano", "--prompt", "a", "--samples", "0"], "but must be 1 to 1,000"),
    (["generate", "--model", "gpt2-nano", "--prompt", "a", "--samples", "1000000000"], "but must be 1 to 1,000"),
    (["generate", "--model", "gpt2-nano", "--prompt", "\udcff"], "but must be UTF-8 text"),
    (["evaluate", "--model", "gpt2-nano", "--split", "tset"], "`tset`: did you mean `test`?"),
    (["evaluate", "--model", "gpt2-nano", "--set", "rank=4"], "The key `rank` cannot be `--set`"),
    (["evaluate", "--model", "gpt2-nano", "--checkpoint", "x"], "not allowed with"),
    (["evaluate", "--split", "dev"], "one of the arguments --checkpoint --model is required"),
])  # fmt: skip
def test_bad_input_is_one_line_and_status_2(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir()), "bad input left something behind"


@pytest.mark.parametrize(("text", "rule"), [
    ("{", "is not JSON"),
    ("[]", "is not a JSON object"),
    ('{"config": {}, "history": []}', "must have a `config`, and a `history` of epochs"),
    ('{"config": {"rnk": 8}, "history": [{"epoch": 1}]}', "Unknown key `rnk`: did you mean `rank`?"),
    ('{"config": {}, "history": [{"epoch": 1}]}', "trained.safetensors: cannot be read"),
])  # fmt: skip
def test_a_bad_checkpoint_is_named(text: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "state.json").write_text(text)
    assert run("generate", "--checkpoint", str(tmp_path), "--prompt", "a") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}")
    assert error.count("\n") == 1
    assert rule in error


def test_nan_weights_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = load_model("gpt2-nano")
    broken.ln_f.weight.data.fill_(float("nan"))
    monkeypatch.setattr("gpt2core.pretrain_stage.load_model", lambda name: broken)
    assert run("evaluate", "--model", "gpt2-nano") == 2
    assert "gpt2-nano: cannot be scored: The cross-entropy is nan" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on() -> None:
    lines = [
        "import signal",
        "from gpt2core import __main__, commands",
        "commands.COMMANDS['train'] = lambda options: signal.raise_signal(signal.SIGINT)",
        "__main__.main(['train', '--out', 'my run'])",
    ]
    done = python("-c", "\n".join(lines))
    assert done.returncode == 130
    rule = "Interrupted. What is finished is kept; to go on: gpt2-search train --out 'my run'"
    assert done.stderr.strip() == rule


def test_help_names_all_that_the_tables_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help") == run("evaluate", "--help") == 0
    words = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for name in (*TASKS, *ADAPTERS, *TARGETS, *DECODERS):
        assert name in words, name


def test_every_command_has_its_function() -> None:
    assert set(parser().commands) == set(commands.COMMANDS)


def test_a_split_that_a_task_does_not_have_is_named(tmp_path: Path) -> None:
    splits = {"train": [Row(id="1", text="a")], "dev": []}
    plays = Corpus(name="plays", origin=DataOrigin(source="somewhere"), splits=splits)
    for split in ("dev", "test"):
        with pytest.raises(DataError, match=f"somewhere: there is no {split} split of the plays; valid: train"):
            check_gold(plays, split, "pretraining")


def test_a_test_split_without_gold_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poem = "\n".join(["a line of words"] * 14)
    (tmp_path / "sonnets.txt").write_text(f"1\n\n{poem}\n")
    (tmp_path / "TRUE_sonnets_held_out_dev.txt").write_text(f"132\n\n{poem}\n")
    (tmp_path / "sonnets_held_out.txt").write_text("145\n\none\ntwo\nthree\n")
    flags = ["--model", "gpt2-nano", "--data-dir", str(tmp_path), "--split", "test"]
    assert run("evaluate", *flags) == 2
    assert "1 of the test split's 1 texts have only the 3 given lines" in capsys.readouterr().err
