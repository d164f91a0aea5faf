"""A user's own data from training to prediction, and as the subject of a search."""

import csv
import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from searches.__main__ import main
from searches.lora_rank import SEARCH
from searches.options import parse
from tests import own
from tests.integration.test_gpt2core_cli import run
from tests.runs import search, status, summary

NAME = "lora_rank-my_reviews-smoke"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own.table(tmp_path_factory.mktemp("data") / "my reviews.csv", own.records(120))


@pytest.fixture(scope="module")
def trained(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    flags = ["--train", str(reviews), "--text", "review", "--label", "stars", "--lr", "0.002", "--epochs", "3"]
    assert run("train", "--out", str(out), *flags) == 0
    return out


def test_evaluate_shows_all_metrics_and_baselines(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--checkpoint", str(trained)) == 0
    printed = capsys.readouterr().out
    for part in (
        "own data: 96 train, 12 dev, 12 test",
        "accuracy ",
        "macro F1",
        "mcc",
        "baseline: always `",
        "naive Bayes",
    ):
        assert part in printed


def test_new_texts_are_classified_without_the_training_data(trained: Path, tmp_path: Path) -> None:
    new, out = tmp_path / "new.csv", tmp_path / "predicted.csv"
    new.write_text("review\npoor rose\n\nfine rose\n")
    flags = ["--checkpoint", str(trained), "--test", str(new), "--out", str(out), "--set", "train=none"]
    assert run("predict", *flags) == 0
    header, *rows = csv.reader(out.read_text().splitlines())
    assert header == ["id", "text", "stars"]
    assert rows == [["1", "poor rose", "1"], ["2", "fine rose", "3"]]


def test_the_exported_model_has_the_names_of_the_classes(trained: Path, tmp_path: Path) -> None:
    assert run("export", "--checkpoint", str(trained), "--out", str(tmp_path)) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "1", "1": "2", "2": "3"}
    assert config["label2id"] == {"1": 0, "2": 1, "3": 2}


@pytest.mark.parametrize(("flags", "parts"), [
    (
        ["--target", "title", "--set", "decode_seeds=1"],
        ("ROUGE L", "exact match", "chrF", "baseline: a copy of the prompt", "trigram"),
    ),
    ([], ("bits per character", "trigram")),
])  # fmt: skip
def test_texts_are_generated_and_modelled(
    flags: list[str], parts: tuple[str, ...], reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--train", str(reviews), "--text", "review", *flags]
    settings = ["--set", "train_examples=8", "--set", "max_new_tokens=8"]
    assert run("train", "--out", str(tmp_path), "--epochs", "1", *data, *settings) == 0
    assert run("evaluate", "--checkpoint", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    for part in parts:
        assert part in printed


@pytest.mark.parametrize("place", ["reviews.csv", "owner/name"])
def test_a_place_is_absolute_unless_it_is_on_the_hub(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own.table(tmp_path / "reviews.csv")
    plan = parse(SEARCH, ["--train", place, "--text", "review"]).plan
    assert plan.fixed["train"] == (str(tmp_path / place) if place == "reviews.csv" else place)


@pytest.fixture(scope="module")
def searched(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CompletedProcess[str], Path]:
    storage = tmp_path_factory.mktemp("runs")
    flags = ["--smoke", "--trials", "4", "--set", "epochs=1", "--objective", "mcc"]
    return search(storage, *flags, "--train", str(reviews), "--text", "review", "--label", "stars"), storage


@pytest.mark.slow
def test_a_search_asks_its_question_about_own_data(searched: tuple[CompletedProcess[str], Path], reviews: Path) -> None:
    done, storage = searched
    assert done.returncode == 0, done.stderr
    result = summary(storage, NAME)
    assert result["question"] == "Does the rank of LoRA matter for my reviews.csv?"
    assert (result["task"], result["objective"]) == ("classify", "mcc")
    assert {"majority_class", "bag_of_words"} <= result["baselines"].keys()
    assert json.loads((storage / "searches" / NAME / "best" / "config.json").read_text())["label2id"]["3"] == 2


@pytest.mark.slow
def test_its_report_needs_no_data(searched: tuple[CompletedProcess[str], Path], reviews: Path) -> None:
    _, storage = searched
    moved = reviews.rename(reviews.with_suffix(".moved"))
    try:
        assert status(main, ["report", NAME, "--storage", str(storage)]) == 0
    finally:
        moved.rename(reviews)
