"""A winner as its users get it: a folder for transformers or peft, a card, a version in MLflow's registry, our commands."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from huggingface_hub import ModelCard
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
)

from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.config import RunConfig
from gpt2core.decoding.generate import generate
from gpt2core.model import GPT2, TrunkInput
from gpt2core.model_folder import load_folder
from gpt2core.naming import words
from gpt2core.weights import load_model, model_folder
from tests import course
from tests.integration.test_gpt2core_cli import run
from tests.promoting import ended, promote, python_blocks, searched
from tests.runs import events, search, summary
from tests.server import Server
from trainables.tracking import open_client

pytestmark = [
    # peft 0.21 asks transformers 5 by an old name when it puts an adapter on a model.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # mlflow.pyfunc 3.17 warns of a type hint of its own when it is imported.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

NAME = "lora_rank-smoke"
MODEL = f"gpt2-sonnet-{NAME}"
IDS = torch.arange(40).view(2, 20)


@pytest.fixture(autouse=True, scope="module")
def own_mlflow() -> Iterator[None]:
    """Leave MLflow's address, which promoting sets for this process and those it starts, as it was."""
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = search(folder, "--smoke", "--trials", "1", "--replicates", "0", "--set", "epochs=1", "--set", "lr=0.01")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(storage: Path) -> Path:
    assert promote(storage, NAME) == 0
    return storage / "searches" / NAME / "promoted"


@pytest.fixture(scope="module")
def adapter(storage: Path, whole: Path) -> Path:
    """The adapter folder, promoted after the model folder."""
    assert promote(storage, NAME, "--format", "adapter", "--out", str(storage / "adapter")) == 0
    return storage / "adapter"


@pytest.fixture(scope="module")
def ours(storage: Path) -> GPT2:
    folder = storage / "searches" / NAME / "trials" / "0000"
    model = build_model(run_config(folder), load_model("gpt2-nano"), torch.device("cpu")).train(False)
    load_best(folder, model)
    return model


@torch.no_grad()
def test_transformers_and_peft_and_we_compute_the_same(whole: Path, adapter: Path, ours: GPT2) -> None:
    expected = ours.logits(ours(IDS))
    base = load_model("gpt2-nano")
    assert (base.logits(base(IDS)) - expected).abs().max() > 0.01, "what this test is about"
    for theirs in (GPT2LMHeadModel.from_pretrained(whole), AutoPeftModelForCausalLM.from_pretrained(adapter)):
        torch.testing.assert_close(theirs.train(False)(IDS).logits, expected, atol=1e-5, rtol=0)
    for folder in (whole, adapter):
        again = load_folder(folder).model
        torch.testing.assert_close(again.logits(again(IDS)), expected, atol=1e-5, rtol=0)


def test_transformers_writes_what_we_write(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, theirs = AutoTokenizer.from_pretrained(whole), GPT2LMHeadModel.from_pretrained(whole)
    inputs = tokenizer("Shall I compare thee", return_tensors="pt")
    written = theirs.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=tokenizer.eos_token_id)
    loaded = load_folder(whole)
    decoding = loaded.config.but(decoder="greedy", max_new_tokens=8).decoding_config
    new = generate(loaded.model, inputs.input_ids.tolist(), decoding, seeds=[1], eos=tokenizer.eos_token_id)
    assert written[0, inputs.input_ids.shape[1] :].tolist() == new[0]
    argv = ["--prompt", "Shall I compare thee", "--decoder", "greedy", "--max-new-tokens", "8"]
    assert run("generate", "--checkpoint", str(whole), *argv) == 0
    assert capsys.readouterr().out.strip() == tokenizer.decode(written[0], skip_special_tokens=True).strip()


def test_evaluate_repeats_the_search_scores(storage: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = summary(storage, NAME)["best"]
    assert run("evaluate", "--checkpoint", str(adapter)) == 0
    printed = capsys.readouterr().out
    assert f"Model: {adapter}, search {NAME}, trial 0000, epoch 1, data {best['data']['digest'][:12]}" in printed
    assert f"dev loss {best['score']:.3f}" in re.sub(r"[\s│]+", " ", printed)


def test_the_card_says_what_the_search_knows(storage: Path, whole: Path) -> None:
    result, card = summary(storage, NAME), ModelCard.load(whole / "README.md")
    data = card.data
    assert (data.license, data.language, data.library_name, data.pipeline_tag) == (
        "mit", "en", "transformers", "text-generation",
    )  # fmt: skip
    scores = {score.metric_name: score for score in data.eval_results}
    metrics = result["best"]["metrics"]
    assert metrics["dev_loss"] == result["best"]["score"]
    for name, kind in (("dev_loss", "loss"), ("chrf_continuation", "chrf")):
        score = scores[words(name)]
        assert (score.metric_type, score.dataset_split) == (kind, "dev")
        assert score.metric_value == pytest.approx(metrics[name], abs=1e-4)
        assert score.metric_args["low"] == pytest.approx(metrics[f"{name}_low"], abs=1e-4)
        assert score.dataset_args == {"digest": result["data"]["digest"]}
    baselines = [baseline["meaning"] for baseline in result["baselines"].values() if "dev_loss" in baseline["scores"]]
    assert len(baselines) == 4
    for part in (
        *(result["question"], result["answer"]["text"], result["data"]["digest"], result["data"]["data"]),
        *result["answer"]["notes"],
        *(result["versions"]["torch"], *baselines, "small stand-in", "**dev** split", "It learnt from 16 training"),
        *("public domain", f"{metrics['dev_loss_low']:.3f} to {metrics['dev_loss_high']:.3f}"),
        f"{metrics['chrf_continuation_low']:.2f} to {metrics['chrf_continuation_high']:.2f}",
        *("There is no winner; this trial has the best dev_loss", "It is not claimed to be better", "| `rank` | 8 |"),
    ):
        assert part in card.text, part


def test_card_code_runs(
    whole: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (whole, adapter):
        monkeypatch.chdir(folder)
        (code,) = python_blocks(Path("README.md").read_text())
        exec(compile(code, "README.md", "exec"), {})
        assert capsys.readouterr().out.startswith("Shall I compare thee to a summer's day?")


def versions(storage: Path) -> list[ModelVersion]:
    return list(MlflowClient(f"sqlite:///{storage / 'mlflow.db'}").search_model_versions(f"name = '{MODEL}'"))


def test_mlflow_has_a_version_of_the_trials_run_that_can_be_fetched(
    storage: Path, adapter: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (note,) = (event for event in events(storage, NAME, "run") if event["trial"] == "0000")
    result = summary(storage, NAME)
    first, second = sorted(versions(storage), key=lambda version: int(version.version))
    assert first.run_id == second.run_id == note["run_id"]
    assert (first.tags["format"], second.tags["format"]) == ("model", "adapter")
    told = {"search": NAME, "trial": "0000", "epoch": "1", "data_digest": result["data"]["digest"]}
    assert first.tags.items() >= (told | {"answer": result["answer"]["text"], "outcome": "undecided"}).items()
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    outputs = client.get_run(note["run_id"]).outputs.model_outputs
    assert {first.source, second.source} == {f"models:/{output.model_id}" for output in outputs}
    # The same again makes no third version, but takes the alias back.
    assert client.get_model_version_by_alias(MODEL, "champion").version == second.version
    capsys.readouterr()
    assert promote(storage, NAME) == 0
    assert f"version 1 of {MODEL}, alias champion" in capsys.readouterr().out
    assert len(versions(storage)) == 2
    assert client.get_model_version_by_alias(MODEL, "champion").version == first.version
    mlflow.set_tracking_uri(client.tracking_uri)
    fetched = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@champion", dst_path=str(tmp_path)))
    added = {path.name for path in fetched.iterdir()} - {path.name for path in whole.iterdir()}
    assert added >= {"MLmodel", "components"}
    assert (fetched / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_mlflow_and_transformers_load_what_is_registered(
    storage: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(storage, NAME) == 0
    mlflow.set_tracking_uri(f"sqlite:///{storage / 'mlflow.db'}")
    uri, prompt = f"models:/{MODEL}@champion", "Shall I compare thee"
    fetched = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    tokenizer, theirs = AutoTokenizer.from_pretrained(fetched), AutoModelForCausalLM.from_pretrained(fetched)
    inputs = tokenizer(prompt, return_tensors="pt")
    written = theirs.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=tokenizer.eos_token_id)
    (result,) = mlflow.transformers.load_model(uri)(prompt, do_sample=False, max_new_tokens=8)
    assert result["generated_text"] == tokenizer.decode(written[0])
    (text,) = mlflow.pyfunc.load_model(uri).predict([prompt])
    assert text.startswith(prompt)
    assert text != prompt
    assert "trust" not in (Path(fetched) / "MLmodel").read_text()
    assert not [*Path(fetched).rglob("*.pkl"), *Path(fetched).rglob("*.py")]


def test_mlflow_puts_a_registered_adapter_on_its_base_model(storage: Path, adapter: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{storage / 'mlflow.db'}")
    version = next(v for v in versions(storage) if v.tags["format"] == "adapter")
    uri, prompt = f"models:/{MODEL}/{version.version}", "Shall I compare thee"
    base = AutoTokenizer.from_pretrained(model_folder("gpt2-nano"))
    theirs = AutoPeftModelForCausalLM.from_pretrained(adapter)
    written = theirs.generate(
        **base(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=8, pad_token_id=base.eos_token_id
    )
    (result,) = mlflow.transformers.load_model(uri)(prompt, do_sample=False, max_new_tokens=8)
    assert result["generated_text"] == base.decode(written[0])
    assert mlflow.pyfunc.load_model(uri).predict([prompt])[0].startswith(prompt)


def test_mlflow_loads_a_registered_classifier(
    sentiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_client(f"sqlite:///{sentiment / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("sst")).info.run_id
    copy = shutil.copytree(sentiment, tmp_path / "copy")
    with (copy / "searches" / "films" / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps({"event": "run", "trial": "0001", "run_id": run}) + "\n")
    folder = tmp_path / "folder"
    uri = f"sqlite:///{copy / 'mlflow.db'}"
    assert promote(copy, "films", "--format", "huggingface", "--out", str(folder), "--tracking-uri", uri) == 0
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model("models:/gpt2-sst-films@champion")
    fetched = mlflow.artifacts.download_artifacts("models:/gpt2-sst-films@champion", dst_path=str(tmp_path / "x"))
    theirs = AutoModelForSequenceClassification.from_pretrained(fetched).train(False)
    text = "a fine film , and a long one ."
    logits = theirs(**AutoTokenizer.from_pretrained(fetched)(text, return_tensors="pt")).logits
    predicted = loaded.predict([text])
    assert predicted["label"].tolist() == [theirs.config.id2label[int(logits.argmax())]]


@pytest.mark.parametrize(("argv", "message"), [
    (["promote", "lora_rank-smok"], "did you mean `lora_rank-smoke`?; see --storage"),
    (["promote", "../x"], "The name of the search is '../x', but must be letters"),
    (["promote", NAME, "--trial", "0001"], "There is no trial `0001` in the search lora_rank-smoke: did you mean"),
    (["promote", NAME, "--format", "adaptr"], "`adaptr`: did you mean `adapter`?"),
    (["promote", NAME, "--registered-name", "a/b"], "The value of `--registered-name` is 'a/b', but must consist"),
    (["promote", NAME, "--out", "."], "exists already and was not promoted from lora_rank-smoke"),
    (["promote", NAME, "--out", f"{__file__}/x"], "must be a folder that can be written to (Not a directory)"),
])  # fmt: skip
def test_bad_input_is_one_line_and_changes_nothing(
    argv: list[str], message: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert promote(storage, *argv[1:]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a search for sentiment that MLflow never heard of: trial 0001 is LoRA, the answer names it."""
    folder = tmp_path_factory.mktemp("sentiment")
    course.folder(folder / "data")
    course.sentiment(folder / "data" / "sst" / "ids-sst-test-student.csv", [("x", " a fine film")])
    base = RunConfig(task="sst", data_dir=str(folder / "data"), adapter="last-linear", lr=1e-3, epochs=1)
    trials = {"0000": base, "0001": base.but(adapter="lora", rank=2, lr=1e-2)}
    row = {"trial": "0001", "runs": [41.0, 42.0], "mean": 41.5, "low": 40.25, "high": 42.75}
    answer = {"winner": "0001", "chosen": "0001", "text": "trial 0001 wins. By | how much.", "rows": [row]}
    answer |= {"evidence": ["Better by 1.5.", "Measured by 2."], "scope": "Measured by 2.", "notes": ["It is small."]}
    scores = {name: {"estimate": 40.0 + int(name), "low": 38.0, "high": 43.5} for name in trials}
    ended(searched(folder, "films", trials), list(trials), answer, {"scores": scores})
    return folder


@torch.no_grad()
def test_a_head_of_classes_comes_along_in_both_forms(
    sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = sentiment / "searches" / "films" / "trials" / "0001"
    ours = build_model(run_config(trial), load_model("gpt2-nano"), torch.device("cpu")).train(False)
    load_best(trial, ours)
    expected = ours.head(ours.run_trunk(TrunkInput(IDS[:1], lengths=torch.tensor([20]))))
    for form in ("huggingface", "adapter"):
        out = tmp_path / form
        assert promote(sentiment, "films", "--format", form, "--out", str(out)) == 1
        said = capsys.readouterr()
        assert f"It is the winner. Trial 0001, epoch 1: {out}\nAnswer: trial 0001 wins. By | how much.\n" in said.out
        assert "not registered: the search has noted no run of trial 0001 in MLflow" in said.err
        again = load_folder(out).model
        torch.testing.assert_close(again.head(again(IDS[:1])[:, -1]), expected, atol=1e-5, rtol=0)
        monkeypatch.chdir(out)
        card = ModelCard.load("README.md")
        assert (card.data.license, card.data.pipeline_tag) == ("other", "text-classification")
        assert "belong to those who wrote them" in card.text
        assert "had 41.00 [38.00, 43.50], that of trial 0000 40.00 [38.00, 43.50]" in card.text
        assert "2 runs on fresh seeds had a mean of 41.50 [40.25, 42.75]" in card.text
        for part in ("**Answer:** trial 0001 wins. By \\| how much.", "- Better by 1.5.", "**Note:** It is small."):
            assert part in card.text
        assert card.text.count("Measured by 2.") == 1
        assert "It is not claimed to be better" not in card.text
        assert str(sentiment) not in (out / "run.json").read_text() + card.text, "a place of this machine"
        (code,) = python_blocks(card.text)
        exec(compile(code, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip() in ("very negative", "negative", "neutral", "positive", "very positive")
        files = ["--data-dir", str(sentiment / "data")]
        assert run("predict", "--checkpoint", str(out), "--out", "predictions.csv", *files) == 0
        assert re.search(r"x, \d", Path("predictions.csv").read_text())
        assert run("evaluate", "--checkpoint", str(out), *files) == 0
        assert "accuracy" in capsys.readouterr().out
    theirs = GPT2ForSequenceClassification.from_pretrained(tmp_path / "huggingface").train(False)
    peft = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=5).train(False)
    for model in (theirs, peft):
        torch.testing.assert_close(model(IDS[:1]).logits, expected, atol=1e-5, rtol=0)


def test_unfinished_searches_promote_too(sentiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sentiment / "searches" / "films"
    text = (folder / "ledger.jsonl").read_text()
    other = sentiment / "searches" / "cut"
    (other / "trials").mkdir(parents=True)
    for name in ("0000", "0001"):
        (other / "trials" / name).symlink_to(folder / "trials" / name)
    (other / "ledger.jsonl").write_text(text[: text.rindex('{"event": "ended"')] + '{"event": "repo')
    ended(other, ["0000"], {"winner": "0000", "chosen": "0000", "text": "what an earlier end said", "rows": []})
    out = tmp_path / "cut"
    assert promote(sentiment, "cut", "--out", str(out)) == 1
    assert "There is no answer yet; this trial has the best accuracy" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "**Answer:** not known yet: the search has not come to its end" in card
    assert "1 trial had not ended" in card
    assert "what an earlier end said" not in card
    # Another trial of the search takes its place, and a folder of another search does not.
    assert promote(sentiment, "cut", "--out", str(out), "--trial", "0000") == 1
    assert promote(sentiment, "films", "--out", str(out)) == 2
    assert "was not promoted from films" in capsys.readouterr().err


def test_what_has_no_form_of_pefts_says_the_way_out(sentiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(sentiment, "films", "--trial", "0000", "--format", "adapter") == 2
    assert (
        "The adapter `last-linear` cannot be written in the format of peft; use --format huggingface"
        in capsys.readouterr().err
    )


def test_mlflow_is_not_needed(storage: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert promote(storage, NAME, "--out", str(out), "--tracking-uri", "http://127.0.0.1:9") == 1
    error = capsys.readouterr().err
    assert error.startswith("warning: the folder is complete, but not registered: MLflow at http://127.0.0.1:9 did not")
    assert error.count("\n") == 1
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.fixture
def server(storage: Path, tmp_path: Path) -> Iterator[str]:
    server = Server(tmp_path / "server", database=f"sqlite:///{storage / 'mlflow.db'}")
    server.wait()
    yield server.uri
    server.kill()


def test_a_server_takes_it_once(storage: Path, tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tracking-uri", server, "--registered-name", "from a server", "--out", str(tmp_path / "out")]
    for _ in range(2):
        assert promote(storage, NAME, *flags) == 0, capsys.readouterr().err
        assert "version 1 of from a server, alias champion" in capsys.readouterr().out
    client = MlflowClient(server, registry_uri=server)
    version = client.get_model_version_by_alias("from a server", "champion")
    fetched = Path(client.download_artifacts(version.run_id, "samples.md", str(tmp_path)))
    assert fetched.is_file(), "its run is the trial's"
    mlflow.set_tracking_uri(server)
    mlflow.artifacts.download_artifacts("models:/from a server@champion", dst_path=str(tmp_path / "fetched"))
    assert ModelCard.load(tmp_path / "fetched" / "README.md").data.model_name == "from a server"
