"""searches/distillation.py, the whole way: pairs are generated once, trials learn from them, MLflow says from which."""

import subprocess
from pathlib import Path

import pytest

from gpt2core.data.quora import load_quora
from gpt2core.errors import DataError
from searches.distillation import SEARCH
from searches.options import parse
from searches.pairs import jobs
from searches.planning.checking import check
from tests import course, generated, runs

pytestmark = pytest.mark.slow

FEW = ["--set", "epochs=1", "--set", "train_examples=6"]  # so that enough of the tiny data is left as real pairs
SCRIPT = ["searches/distillation.py", "--smoke", *FEW, "--replicates", "0", "--max-concurrent", "1"]


def search(storage: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return runs.python(*SCRIPT, "--storage", str(storage), *flags)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(course.folder(tmp_path_factory.mktemp("course")))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = search(folder, "--data-dir", data_dir, "--trials", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Pairs, temperature-0.7-critic-overlap: 12 contexts" in done.stdout
    assert "a stand-in for entailment" in done.stdout
    assert "filters basic, so the stored scores were filtered again" in done.stdout
    return folder


def test_as_many_trials_with_pairs_as_without_the_study_s_among_them(storage: Path) -> None:
    trials = runs.summary(storage, "distillation-smoke")["trials"]
    assert [row["status"] for row in trials] == ["completed"] * 6, "four were asked for"
    origins = [(row["origin"], row["point"]["added_pairs"]) for row in trials]
    assert origins[:3] == [("reference", None), ("default", "generated"), ("default", "real")]
    assert set(origins[3:]) == {("sampler", "real"), ("study", "generated"), ("study", None)}
    reference, default, real = trials[:3]
    (approach,) = (row for row in trials[3:] if row["point"]["added_pairs"] == "generated")
    assert [row["point"]["filters"] for row in (default, approach)] == ["all", "basic"]
    assert not any("generated_pairs" in row["data"] for row in (reference, real))
    assert [row["data"]["generated_pairs"] for row in (default, approach)] == [4, 4], "the number is equal"
    assert real["data"]["real_pairs"] == 4
    assert approach["data"]["generated_digest"] != default["data"]["generated_digest"]
    assert "filters basic, so the stored scores were filtered again" in approach["data"]["note"]
    assert "filters" not in default["data"]["note"].split("so the stored scores")[0], "it has the default ones"
    assert not any("note" in row["data"] for row in (reference, real))


def test_mlflow_says_of_each_trial_what_it_learnt_from(storage: Path) -> None:
    tags = {trial: run.data.tags for trial, run in runs.mlflow_trials(storage, "paraphrase").items()}
    trial = runs.summary(storage, "distillation-smoke")["trials"][1]
    assert tags["0001"]["data_generated_digest"] == trial["data"]["generated_digest"]
    assert tags["0001"]["data_generated_pairs"] == str(trial["data"]["generated_pairs"])
    assert "temperature-0.7-critic-overlap_digest" in tags[""]


def test_going_on_generates_nothing_again(storage: Path, data_dir: str) -> None:
    shards = {path: path.stat().st_mtime_ns for path in storage.rglob("candidates/*/*/*.parquet")}
    assert shards
    done = search(storage, "--data-dir", data_dir, "--trials", "9")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    trials = runs.summary(storage, "distillation-smoke")["trials"]
    assert len(trials) == 9
    (approach,) = (row for row in trials[6:] if row["origin"] == "study")
    assert (approach["point"]["filters"], approach["point"]["clean_text"]) == ("all", False), "of the study"


def test_pairs_that_are_there_are_taken(tmp_path: Path, data_dir: str) -> None:
    pairs = generated.folder(tmp_path / "pairs")
    done = search(tmp_path, "--data-dir", data_dir, "--set", f"pairs={pairs}", "--trials", "3")
    assert done.returncode == 0, done.stderr
    assert "Pairs, " not in done.stdout
    assert runs.summary(tmp_path, "distillation-smoke")["trials"][1]["data"]["generated_pairs"] == 4


def test_temperatures_that_nobody_can_prepare_are_refused(tmp_path: Path, data_dir: str) -> None:
    done = search(tmp_path, "--data-dir", data_dir, "--set", "pairs_temperature=none")
    assert done.returncode == 2
    assert done.stderr.startswith("error: The key `pairs_temperature` must be a Choice or fixed")
    assert "Starting Ray" not in done.stdout


def test_data_is_checked_before_there_are_pairs(tmp_path: Path, data_dir: str) -> None:
    def checked(*settings: str) -> str:
        flags = [word for setting in ("added_pairs=generated", *settings) for word in ("--set", setting)]
        options = parse(SEARCH, ["--smoke", "--storage", str(tmp_path), "--data-dir", data_dir, *flags])
        to_make = list(jobs(options.plan, options.results_folder))
        return check(options.plan, without_pairs=bool(to_make)).corpus.digest

    assert checked() == load_quora(data_dir).digest
    with pytest.raises(DataError, match=r"must be the manifest of generated pairs"):
        checked(f"pairs={tmp_path / 'nowhere'}")
