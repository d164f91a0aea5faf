"""What a machine hears from its cloud, and what Ray is told; a node that is drained is in tests/faults/test_nodes.py."""

from collections.abc import Iterator

import pytest

from cluster.preemption import CLOUDS, main
from tests.clusters import Cloud
from tests.runs import python


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


@pytest.mark.parametrize(("name", "seconds"), [("aws", 120), ("google", 30)])
def test_a_notice_of_a_cloud_is_heard(name: str, seconds: int, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which no metadata is asked through
    _, ask = CLOUDS[name]
    assert ask(cloud.address) is None
    cloud.told = True
    assert ask(cloud.address) == seconds


@pytest.mark.parametrize("name", CLOUDS)
def test_a_machine_of_no_cloud_hears_nothing(name: str) -> None:
    _, ask = CLOUDS[name]
    assert ask("http://127.0.0.1:9") is None


@pytest.mark.parametrize("words", [[], ["leave"], ["leave", "soon"], ["watch", "a", "b"]])
def test_a_wrong_command_gets_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: usage: python -m cluster.preemption")


def test_where_no_ray_listens_it_is_one_line() -> None:
    done = python("-m", "cluster.preemption", "leave", "1", "f" * 56, RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Ray did not drain the node: ")
    assert done.stderr.count("\n") == 1
