"""Train, evaluate and predict a classification on small files of the course's formats."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from gpt2core.config import RunConfig
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.errors import ConfigError
from gpt2core.submission import FILES, file_name
from tests import course
from tests.integration.test_gpt2core_cli import run
from tests.runs import python
from trainables.trial import TrialSpec, payloads


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course's files, with test files that have no labels."""
    folder = course.folder(tmp_path_factory.mktemp("data"))
    rows = [("x", " a fine film"), ("y", " dull"), ("z", " joy")]
    course.sentiment(folder / "sst" / "ids-sst-test-student.csv", rows)
    course.quora(folder / "quora" / "quora-test-student.csv", [("q", 'Is it "so"?', "Is it?")])
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    flags = ["--data-dir", str(data), "--adapter", "last-linear", "--lr", "0.001", "--epochs", "1"]
    assert run("train", "--task", "sst", "--out", str(out), *flags) == 0
    return out


def test_evaluate_lays_accuracy_beside_the_majority_class(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--checkpoint", str(trained)) == 0
    printed = capsys.readouterr().out
    for part in ("sst: 12 train, 7 dev, 3 test", "accuracy ", "macro F1", "baseline: always `very negative`"):
        assert part in printed
    assert json.loads((trained / "metrics.json").read_text())["epochs"][0]["accuracy"] <= 100


def test_an_unlabelled_split_is_predicted(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--checkpoint", str(trained), "--split", "test") == 2
    error = capsys.readouterr().err
    assert "3 of the test split's 3 texts have no label, so there is no score" in error
    assert "gpt2-search predict --checkpoint RUN --split test --out FILE" in error
    assert error.count("\n") == 1
    out = tmp_path / "new" / "sst.csv"
    assert run("predict", "--checkpoint", str(trained), "--split", "test", "--out", str(out)) == 0
    assert f"3 predictions are in {out}" in capsys.readouterr().out
    header, *lines = out.read_text().splitlines()
    assert header == "id \t Predicted_Sentiment "
    assert [line.split(", ")[0] for line in lines] == ["x", "y", "z"]
    assert all(0 <= int(line.split(", ")[1]) < 5 for line in lines)


def test_pairs_are_predicted_too(data: Path, tmp_path: Path) -> None:
    files = ["--data-dir", str(data)]
    assert run("train", "--task", "paraphrase", "--out", str(tmp_path / "run"), "--epochs", "1", *files) == 0
    out = tmp_path / "quora.csv"
    assert run("predict", "--checkpoint", str(tmp_path / "run"), "--out", str(out)) == 0
    assert out.read_text() in ("id \t Predicted_Is_Paraphrase \nq, 0 \n", "id \t Predicted_Is_Paraphrase \nq, 1 \n")


def test_the_files_of_the_course_are_written_and_zipped(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {
        "paraphrase": ["--data-dir", str(data)],
        "sonnet": ["--set", "max_new_tokens=16", "--set", "decode_seeds=1"],
    }
    for task, flags in own.items():
        few = ["--set", "train_examples=4", "--epochs", "1", *flags]
        assert run("train", "--task", task, "--out", str(tmp_path / task), *few) == 0
    runs = [str(trained), str(tmp_path / "paraphrase"), str(tmp_path / "sonnet")]
    out = tmp_path / "predictions"
    assert run("submit", "--runs", *runs, "--out", str(out)) == 0
    mine = [
        *("last-linear-layer-sst-dev-out.csv", "last-linear-layer-sst-test-out.csv"),
        *("para-dev-output.csv", "para-test-output.csv", "generated_sonnets_dev.txt", "generated_sonnets.txt"),
    ]
    printed = capsys.readouterr().out
    assert "6 files and submission.zip are in" in printed
    assert set(printed.rpartition("do not give: ")[2].strip().split(", ")) == set(FILES) - set(mine)
    with zipfile.ZipFile(out / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"predictions/{name}" for name in mine)
        assert all(archive.read(f"predictions/{name}") == (out / name).read_bytes() for name in mine)
    assert (out / "para-test-output.csv").read_text() in [
        f"id \t Predicted_Is_Paraphrase \nq, {token} \n" for token in (3919, 8505)
    ]
    poems = (out / "generated_sonnets.txt").read_text()
    assert poems.startswith("--Generated Sonnets-- \n\n\n")
    assert [line for line in poems.splitlines() if line.isdigit()] == [
        row.id for row in load_sonnets(None).splits["test"]
    ]
    assert run("submit", "--runs", runs[1], "--labels", "classes", "--out", str(out)) == 0
    assert (out / "para-test-output.csv").read_text().splitlines()[1] in ("q, 0 ", "q, 1 ")


def test_submit_reads_files_in_folders_and_beside_each_other_alike(trained: Path, data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(data / "sst", flat)
    for folder in (data, flat):
        assert (
            run("submit", "--runs", str(trained), "--data-dir", str(folder), "--out", str(tmp_path / folder.name)) == 0
        )
    for name in ("last-linear-layer-sst-dev-out.csv", "last-linear-layer-sst-test-out.csv"):
        assert (tmp_path / "flat" / name).read_bytes() == (tmp_path / data.name / name).read_bytes()


def test_submit_runs_in_the_folder_of_the_courses_project(trained: Path, tmp_path: Path) -> None:
    folder = course.modules(tmp_path / "project")
    done = python("-m", "gpt2core", "submit", "--runs", str(trained), "--out", "predictions", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "predictions" / "last-linear-layer-sst-test-out.csv").is_file()


def test_two_runs_for_one_file_and_runs_for_none_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("submit", "--runs", str(trained), str(trained), "--out", str(tmp_path / "out")) == 2
    assert "would be last-linear-layer-sst-dev-out.csv; give only one of them" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(ConfigError, match="The project asks for no file of the task `poems`"):
        file_name(RunConfig(task="poems"), "dev")


@pytest.mark.parametrize(("argv", "message"), [
    (["--task", "sonnet", "--model", "gpt2-nano", "--out", "x"], "those that do: sst, cfimdb, paraphrase"),
    (["--task", "sst", "--model", "gpt2-nano", "--out", "x"], "The model has no head for the 5 classes"),
    (["--task", "cfimdb", "--model", "gpt2-nano", "--out", "x"], "there is no test split of the cfimdb"),
    (["--model", "gpt2-nano"], "the following arguments are required: --out"),
])  # fmt: skip
def test_what_cannot_be_predicted_is_said_in_one_line(
    argv: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run("predict", *argv, "--data-dir", str(data)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "--checkpoint", str(trained), "--out", str(Path(__file__) / "x")) == 2
    assert "must be a writable file" in capsys.readouterr().err


def test_what_a_trial_reports_holds_the_tables(data: Path, tmp_path: Path) -> None:
    config = RunConfig(task="cfimdb", data_dir=str(data), epochs=1, adapter="last-linear")
    (payload,) = payloads(TrialSpec(name="0", run=config, folder=str(tmp_path)))
    assert payload["objective"] == payload["metrics"]["accuracy"]
    assert sum(map(sum, payload["tables"]["confusion"])) == 7
