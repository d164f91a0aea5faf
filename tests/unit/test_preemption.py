"""Preemption notices of clouds, and the drain command; tests/faults/test_nodes.py drains a node."""

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
def test_a_notice_of_a_cloud_is_read(name: str, seconds: int, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which no metadata is asked through
    _, ask = CLOUDS[name]
    assert ask(cloud.address) is None
    cloud.told = True
    assert ask(cloud.address) == seconds


@pytest.mark.parametrize("name", CLOUDS)
def test_a_machine_outside_clouds_gets_no_notice(name: str) -> None:
    _, ask = CLOUDS[name]
    assert ask("http://127.0.0.1:9") is None


@pytest.mark.parametrize("words", [[], ["leave"], ["leave", "soon"], ["watch", "a", "b"]])
def test_a_wrong_command_gets_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: usage: python -m cluster.preemption")


def test_draining_without_ray_is_a_one_line_error() -> None:
    done = python("-m", "cluster.preemption", "leave", "1", "f" * 56, RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Ray did not drain the node: ")
    assert done.stderr.count("\n") == 1
