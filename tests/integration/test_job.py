"""`make job`'s way: a local head behind a token, and the search as a Ray job with its logs followed."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import ROOT, summary

Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A home and a port of their own, so that no head and no token of this machine is touched."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {**os.environ, "HOME": str(tmp_path_factory.mktemp("home")), "GPT2_SEARCH_PORT": str(port)}


def local(environment: Environment, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.local", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def head(environment: Environment) -> Iterator[Environment]:
    started = local(environment, "up")
    assert started.returncode == 0, started.stderr
    yield environment
    assert local(environment, "down").returncode == 0
    assert "There is no head to stop." in local(environment, "down").stdout


def test_a_search_is_submitted_as_a_job_and_its_logs_are_followed(head: Environment, tmp_path: Path) -> None:
    flags = ["--smoke", "--trials", "1", "--replicates", "0", "--storage", str(tmp_path)]
    job = local(head, "submit", "--", "python", "searches/lora_rank.py", *flags)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "Verdict:" in job.stdout
    assert summary(tmp_path, "lora_rank-smoke")["counts"]["completed"] == 1


def test_a_job_that_fails_fails_the_command(head: Environment, tmp_path: Path) -> None:
    job = local(head, "submit", "--", "python", "searches/lora_rank.py", "--profil", "quick")
    assert job.returncode != 0
    assert "Unknown flag `--profil`: did you mean `--profile`?" in job.stdout + job.stderr


def test_without_the_token_it_is_refused(head: Environment) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{head['GPT2_SEARCH_PORT']}/api/jobs/", timeout=10)
    refused.value.close()
    assert refused.value.code in (401, 403)


def test_another_token_is_told_that_the_port_is_taken(head: Environment, tmp_path: Path) -> None:
    stranger = local({**head, "HOME": str(tmp_path)}, "up")
    assert stranger.returncode == 1
    assert "refuses the token" in stranger.stderr


def test_a_wrong_command_gets_the_usage(environment: Environment) -> None:
    wrong = local(environment, "sumbit", "python")
    assert (wrong.returncode, wrong.stderr.split(":")[0]) == (2, "usage")
