"""The whole study on tiny data, from the command line."""

import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt2core.testing import toys
from tests import course
from tests.runs import mlflow_runs, python

pytestmark = pytest.mark.slow


def study(*flags: str) -> subprocess.CompletedProcess[str]:
    return python("searches/study.py", *flags)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_searches_of_tables_run_and_are_reported(storage: Path, tmp_path: Path) -> None:
    data = course.folder(tmp_path)
    course.sonnets(tmp_path / "sonnets")
    model = str(toys.folder(tmp_path / "model"))
    size = ["--smoke", "--trials", "1", "--replicates", "0", "--max-concurrent", "1"]
    flags = [*size, "--model", model, "--data-dir", str(data), "--storage", str(storage)]
    done = study("--tables", "2,4,5,6,figure-1", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    report = storage / "searches" / "study-smoke.html"
    assert f"Report: {report}" in done.stdout
    page = report.read_text()
    for part in ("SST, full", "Quora, logsparse", "logsparse, poems first", "top-k-p", "775,669,760", "reproduced"):
        assert part in page
    for mark in ("undecided", "stand-in"):
        assert f">{mark}</span>" in page
    assert "Top-p sampling is the best of the five decoders." in page
    assert "not run again on fresh seeds" in page
    assert "with model in place of gpt2" in page
    assert "give --final-test" in page
    assert "The study's claims" in done.stdout
    link = "study-smoke-sentiment-sst/report.html"
    assert f'href="{link}"' in page
    assert (storage / "searches" / link).is_file()
    assert "<svg" in page
    (trial,) = [run for run in mlflow_runs(storage, "sst") if run.data.tags.get("trial") == "0000"]
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    assert "confusion.json" in [artifact.path for artifact in client.list_artifacts(trial.info.run_id)]


def test_a_table_without_data_is_reported_as_not_run(storage: Path) -> None:
    done = study("--tables", "figure-1", "--smoke", "--storage", str(storage / "empty"))
    assert done.returncode == 1
    assert "not run" in done.stdout
    assert "--data-dir" in done.stdout


def test_bad_tables_are_refused_and_a_plan_starts_nothing(storage: Path) -> None:
    wrong = study("--tables", "figure1")
    assert (wrong.returncode, wrong.stderr) == (2, "error: Unknown table `figure1`: did you mean `figure-1`?\n")
    plan = study("--tables", "4", "--plan", "--storage", str(storage / "planned"))
    assert plan.returncode == 0
    assert "Nothing was started" in plan.stdout
    assert not (storage / "planned").exists()
