"""A search over ways of training several tasks at once, on real Ray, and its models."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.promoting import promote
from tests.runs import python, summary

pytestmark = pytest.mark.slow

NAME = "several"
SIZES = ["dev_examples=20", "epochs=1", "decode_seeds=0"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = [word for size in SIZES for word in ("--set", size)]
    flags = ["--smoke", "--trials", "2", "--storage", str(folder), "--name", NAME, *settings]
    process = python("searches/multi_task.py", *flags)
    assert process.returncode == 0, process.stderr
    return folder


def test_its_answer_compares_combinations_and_its_gains_are_those_over_separate_models(storage: Path) -> None:
    found = summary(storage, NAME)
    assert found["answer"]["factor"]["name"] == "combination"
    assert {"sonnet/dev_loss", "cfimdb/accuracy", "log_score"} <= found["best"]["metrics"].keys()
    assert found["task_objectives"] == ["sonnet/dev_loss", "cfimdb/accuracy"]
    rows = {row["trial"]: row for row in found["gains"]}
    assert set(rows) == {"0000", "0001"}
    assert rows["0000"]["tasks"] == {"sonnet": 0, "cfimdb": 0}, "the reference is the only trial of separate models"
    assert set(found["pareto"]) <= set(rows)
    report = (storage / "searches" / NAME / "report.md").read_text()
    assert "## Tasks" in report


def test_the_best_trial_has_a_model_folder_for_each_task(storage: Path) -> None:
    best = storage / "searches" / NAME / "best"
    writer = AutoModelForCausalLM.from_pretrained(best / "sonnet")
    assert writer.config.n_layer == AutoModelForSequenceClassification.from_pretrained(best / "cfimdb").config.n_layer


def test_promoting_it_as_one_model_is_an_error_that_names_the_command_to_use(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(storage, NAME) == 2
    said = capsys.readouterr().err
    assert "has a model for each of the tasks sonnet, cfimdb" in said
    assert "gpt2-search export --checkpoint" in said
