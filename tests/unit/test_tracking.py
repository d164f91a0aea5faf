"""What MLflow is told of an answer, and what is told of MLflow."""

import pytest
from mlflow.exceptions import MlflowException

from searches.running.delivery import LATER
from searches.running.tracking import answer_numbers
from tests.summaries import nothing_compared, summary
from trainables.tracking import why


def test_the_numbers_of_an_answer_are_those_that_are_known() -> None:
    answer = summary()["answer"]
    found = answer_numbers(answer)
    assert found.keys() == {"answer/p_value", "answer/excluded", "answer/largest_difference"}
    assert found["answer/largest_difference"] == max(abs(pair["difference"]) for pair in answer["pairs"])
    assert answer_numbers(nothing_compared("nothing was run again")) == {}
    assert answer_numbers({"text": "none"}) == {}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("database or disk is full", "the disk of its database is full"),
        ("database is locked", "its database is locked"),
    ],
)
def test_a_database_that_takes_nothing_now_is_waited_for(said: str, shown: str) -> None:
    """SQLAlchemy says first when it came to the error, and the error only then."""
    error = MlflowException(f"(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) {said}")
    assert why(error, "sqlite:///mlflow.db") == shown
    assert any(sign in shown for sign in LATER)
