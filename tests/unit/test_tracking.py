"""What MLflow is told of an answer."""

from searches.running.tracking import answer_numbers
from tests.summaries import nothing_compared, summary


def test_the_numbers_of_an_answer_are_those_that_are_known() -> None:
    answer = summary()["answer"]
    found = answer_numbers(answer)
    assert found.keys() == {"answer/p_value", "answer/excluded", "answer/largest_difference"}
    assert found["answer/largest_difference"] == max(abs(pair["difference"]) for pair in answer["pairs"])
    assert answer_numbers(nothing_compared("nothing was run again")) == {}
    assert answer_numbers({"text": "none"}) == {}
