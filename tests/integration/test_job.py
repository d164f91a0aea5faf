"""Searches as Ray jobs on a local head behind a token: what is uploaded, logs, a stop, and the same search as another job."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from zipfile import ZipFile

import psutil
import pytest
import yaml

import cluster.local
from gpt2core.errors import UserError
from searches.running.ledger import COMPLETED, State, read_state
from tests.faults.test_search_killed import in_mlflow_once
from tests.killing import NAME, command, make_toy
from tests.runs import ROOT, events, program, python, summary
from tests.server import free_port
from tests.stored import reports
from tests.waiting import PATIENCE, wait_until

Environment = dict[str, str]
RUNTIME_ENV = "cluster/runtime_env.yaml"
UPLOAD = ("--working-dir", ".", "--runtime-env", RUNTIME_ENV)
SCRIPTS = sorted(path for path in (ROOT / "searches").glob("*.py") if "main(SEARCH)" in path.read_text())
PACKAGES = ("cluster", "gpt2core", "searches", "trainables")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A home and a port of their own, so that no head and no token of this machine is touched; and a proxy that is gone."""
    proxies = {"http_proxy": "http://127.0.0.1:9", "All_Proxy": "http://127.0.0.1:9", "RAY_ADDRESS": "elsewhere:1"}
    return {**os.environ, **proxies, "HOME": str(tmp_path_factory.mktemp("home")), "GPT2_SEARCH_PORT": str(free_port())}


def local(environment: Environment, *words: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "cluster.local", *words, **environment)


@pytest.fixture(scope="module")
def head(environment: Environment) -> Iterator[Environment]:
    started = local(environment, "up")
    assert started.returncode == 0, started.stderr
    (note,) = (Path(environment["HOME"]) / ".ray").glob(f"gpt2-search-head-{environment['GPT2_SEARCH_PORT']}.pid")
    session = int(note.read_text().split()[0])
    yield environment
    assert processes(session)
    assert local(environment, "down").returncode == 0
    assert processes(session) == [], "it is gone when the command is"
    assert "There is no head to stop." in local(environment, "down").stdout


def processes(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_head_that_is_given_up_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heads: list[psutil.Process] = []
    whole = psutil.Popen

    def start(*arguments: Any, **more: Any) -> psutil.Process:
        heads.append(whole(*arguments, **more))
        return heads[-1]

    for name, file in {"RAY": "", "TOKEN": "token", "HEAD": "head.pid", "LOG": "head.log"}.items():
        monkeypatch.setattr(cluster.local, name, tmp_path / "ray" / file)
    monkeypatch.setattr(cluster.local, "PORT", str(free_port()))
    monkeypatch.setattr(cluster.local, "_wait_until", lambda reached: False)
    monkeypatch.setattr(psutil, "Popen", start)
    with pytest.raises(UserError, match="The head failed twice to start"):
        cluster.local.up()
    assert [(head.poll() is None, processes(head.pid)) for head in heads] == [(False, []), (False, [])]
    assert not (tmp_path / "ray" / "head.pid").exists()


def test_a_python_that_a_head_cannot_start_is_told_at_once(environment: Environment, tmp_path: Path) -> None:
    venv = tmp_path / "a b" / ".venv"
    venv.parent.mkdir()
    venv.symlink_to(sys.prefix)
    told = program([str(venv / "bin" / "python"), "-m", "cluster.local", "up"], **environment)
    assert told.returncode == 2
    assert "whose path has spaces or shell characters; move the checkout, or run the search directly" in told.stderr


def test_a_note_of_another_process_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster.local, "HEAD", tmp_path / "head.pid")
    for text in (f"{os.getpid()} 1.0", "0 0", "-1 5", "one two", f"{10**30} 1", ""):
        (tmp_path / "head.pid").write_text(text)
        assert cluster.local._head() is None, text


@pytest.mark.parametrize("port", ["abc", "0", "80", "65536", "-1", "8265 ", "../x"])
def test_a_port_that_is_none_is_told_the_rule(environment: Environment, port: str) -> None:
    for word in ("up", "down"):
        done = local({**environment, "GPT2_SEARCH_PORT": port}, word)
        assert (done.returncode, done.stderr) == (
            2,
            f"error: The value of GPT2_SEARCH_PORT is {port!r}, but must be a port, 1024 to 65535\n",
        )


@pytest.mark.parametrize("answer", [b"HTTP/1.0 404 Not Found\r\n\r\n", b"220 mail.example ESMTP\r\n"])
def test_a_port_of_another_program_is_named(environment: Environment, answer: bytes) -> None:
    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                with server.accept()[0] as asked:
                    asked.recv(1000)
                    asked.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        Thread(target=serve, args=[server], daemon=True).start()
        done = local({**environment, "GPT2_SEARCH_PORT": port}, "up")
        server.shutdown(socket.SHUT_RDWR)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: another program answers at http://127.0.0.1:{port}"), done.stderr


def test_a_search_is_submitted_as_a_job_and_its_logs_are_followed(head: Environment, tmp_path: Path) -> None:
    flags = ["--smoke", "--trials", "1", "--replicates", "0", "--storage", str(tmp_path)]
    job = local(head, "submit", "--", "python", "searches/lora_rank.py", *flags)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "Answer:" in job.stdout
    assert summary(tmp_path, "lora_rank-smoke")["counts"]["completed"] == 1


def test_a_job_that_fails_fails_the_command(head: Environment, tmp_path: Path) -> None:
    job = local(head, "submit", "--", "python", "searches/lora_rank.py", "--profil", "quick")
    assert job.returncode != 0
    assert "Unknown flag `--profil`: did you mean `--profile`?" in job.stdout + job.stderr


def test_without_the_token_it_is_refused(head: Environment) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{head['GPT2_SEARCH_PORT']}/api/jobs/", timeout=PATIENCE)
    refused.value.close()
    assert refused.value.code in (401, 403)


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/nodes?view=summary", "/api/cluster_status"])
@pytest.mark.parametrize(
    "said", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Authorization": "Bearer x"}]
)
def test_without_the_token_it_is_refused_whoever_asks(head: Environment, path: str, said: dict[str, str]) -> None:
    body = b'{"entrypoint": "true"}' if path == "/api/jobs/" else None  # a job that would run
    address = f"http://127.0.0.1:{head['GPT2_SEARCH_PORT']}{path}"
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json", **said})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=PATIENCE)
    refused.value.close()
    assert refused.value.code in (401, 403)


def test_another_token_is_told_that_the_port_is_taken(head: Environment, tmp_path: Path) -> None:
    stranger = local({**head, "HOME": str(tmp_path)}, "up")
    assert stranger.returncode == 2
    assert "refuses the token" in stranger.stderr


def job(head: Environment, *words: str) -> str:
    ours = {
        "RAY_ADDRESS": f"http://127.0.0.1:{head['GPT2_SEARCH_PORT']}",
        "RAY_AUTH_MODE": "token",
        "no_proxy": "127.0.0.1",
        "RAY_AUTH_TOKEN_PATH": f"{head['HOME']}/.ray/auth_token",
    }
    done = program([str(Path(sys.executable).with_name("ray")), "job", *words], **(head | ours))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(head: Environment, what: str, method: str = "GET") -> dict[str, Any]:
    token = (Path(head["HOME"]) / ".ray/auth_token").read_text()
    address = f"http://127.0.0.1:{head['GPT2_SEARCH_PORT']}/api/jobs/{what}"
    request = urllib.request.Request(address, method=method, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return dict(json.load(answer))


def state_of(storage: Path) -> State:
    ledger = storage / "searches" / NAME / "ledger.jsonl"
    return read_state(ledger) if ledger.exists() else State()


@pytest.mark.slow
def test_a_job_that_was_stopped_goes_on_as_another_one(head: Environment, tmp_path: Path) -> None:
    toy, storage = make_toy(tmp_path / "toy"), tmp_path / "storage"
    search = ["python", *command(storage, toy, "--trials", "6", "--replicates", "0")[1:]]  # the head's Python
    job(head, "submit", *UPLOAD, "--submission-id", "first", "--no-wait", "--", *search)

    def logs() -> str:
        return job(head, "logs", "first")

    wait_until(lambda: any(trial.status == COMPLETED for trial in state_of(storage).trials.values()), said=logs)
    ask(head, "first/stop", "POST")  # as `ray job stop` does, whose start may take longer than the rest of the search
    wait_until(lambda: ask(head, "first")["status"] != "RUNNING", said=logs)
    assert ask(head, "first")["status"] == "STOPPED"
    assert "Interrupted. What is finished is kept; to go on: " in logs()
    before = state_of(storage)
    assert len(before.trials) > len(events(storage, NAME, "ended")) > 0, "it was stopped in the middle"

    job(head, "submit", *UPLOAD, "--submission-id", "second", "--", *search)
    assert "Answer:" in job(head, "logs", "second")
    after = state_of(storage)
    assert reports(before).items() <= reports(after).items(), "an epoch was trained again"
    assert before.runs.items() <= after.runs.items(), "a trial got another run of MLflow"
    assert twice(events(storage, NAME, "report"), "trial", "epoch") == []
    assert twice(events(storage, NAME, "ended"), "trial") == [], "a finished trial ran again"
    in_mlflow_once(summary(storage, NAME), f"sqlite:///{storage / 'mlflow.db'}")


def twice(found: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [what for what, count in Counter(tuple(event[key] for key in keys) for event in found).items() if count > 1]


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job finds in its working folder, packed and unpacked as Ray does it."""
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path_factory.mktemp("package") / "package.zip"
    excludes = yaml.safe_load((ROOT / RUNTIME_ENV).read_text())["excludes"]
    create_package(str(ROOT), package, include_gitignore=True, excludes=excludes)
    with ZipFile(package) as packed:
        packed.extractall(package.parent / "unpacked")
    return package.parent / "unpacked"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_search_starts_from_what_is_uploaded(script: Path, upload: Path) -> None:
    shown = python(f"searches/{script.name}", "--help", cwd=upload, PYTHONPATH=str(upload))  # as Ray sets it for a job
    assert shown.returncode == 0, shown.stderr
    assert "--storage" in shown.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_of_a_package_stays_behind(package: str, upload: Path) -> None:
    """`--help` does not miss what is imported or read late. Weights are where the package is installed."""
    left = files(ROOT / package) - files(upload / package)
    assert {path for path in left if path.suffix != ".safetensors"} == set()


def test_the_model_that_ships_is_found_from_what_is_uploaded(upload: Path) -> None:
    assert not list(upload.rglob("*.safetensors"))
    flags = ("--model", "gpt2-nano", "--prompt", "Thou", "--max-new-tokens", "2")
    written = python("-m", "gpt2core", "generate", *flags, cwd=upload, PYTHONPATH=str(upload))
    assert written.returncode == 0, written.stderr


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_a_wrong_command_gets_the_usage(environment: Environment) -> None:
    wrong = local(environment, "sumbit", "python")
    assert (wrong.returncode, wrong.stderr.split(":")[0]) == (2, "usage")
