"""Output that cannot be written ends nothing; a signal ends a command once, and only one that listens to it."""

import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2core.output import SteadyStream

#: A command that shows much, then writes its result.
COMMAND = """
import sys
from pathlib import Path
from gpt2core.cli import run_or_explain

def command():
    for number in range(20_000):
        print(number, "\\N{PLUS-MINUS SIGN} \\N{BOX DRAWINGS LIGHT HORIZONTAL} \\u00fc \\udcff")
    Path(sys.argv[1]).write_text("the result")
    return 0

run_or_explain(command, "")
"""
#: One that waits for a signal, even if it comes before the wait, and takes a moment to write down how it stands.
WAITING = """
import os, signal
from gpt2core.cli import run_or_explain

def command():
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    try:
        print("waits", flush=True)
        os.read(told, 1)
    finally:
        for _ in range(5):
            signal.sigtimedwait([], 0.1)
        print("written down", flush=True)

run_or_explain(command, "the same command")
"""
CLOSED = ["sh", "-c", '"$@" >&-', "sh"]
ERRORS_CLOSED = ["sh", "-c", '"$@" 2>&-', "sh"]
FULL = ["sh", "-c", '"$@" >/dev/full', "sh"]
BOTH_FULL = ["sh", "-c", '"$@" >/dev/full 2>&1', "sh"]
HEAD = ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "bash"]


def run(how: list[str], result: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [*how, sys.executable, "-c", COMMAND, str(result)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, timeout=60, check=False)


@pytest.mark.parametrize(("how", "errors"), [
    (CLOSED, b""),
    (ERRORS_CLOSED, b""),
    (HEAD, b""),
    (BOTH_FULL, b""),
    (FULL, b"warning: the output cannot be written (No space left on device); the command continues\n"),
], ids=["closed", "errors closed", "head", "both full", "full"])  # fmt: skip
def test_a_command_works_though_nothing_can_be_printed(tmp_path: Path, how: list[str], errors: bytes) -> None:
    ended = run(how, tmp_path / "result")
    assert (ended.returncode, ended.stderr) == (0, errors)
    assert (tmp_path / "result").read_text() == "the result"


@pytest.mark.parametrize("environment", [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "utf-8"},
])  # fmt: skip
def test_a_sign_that_the_encoding_lacks_is_written_in_others(tmp_path: Path, environment: dict[str, str]) -> None:
    ended = run([], tmp_path / "result", **environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    encoding = environment.get("PYTHONIOENCODING", "ascii")
    shown = {"ascii": "0 +/- ? \\xfc ?", "latin-1": "0 \N{PLUS-MINUS SIGN} ? \u00fc ?"}
    line = shown.get(encoding, "0 \N{PLUS-MINUS SIGN} \N{BOX DRAWINGS LIGHT HORIZONTAL} \u00fc ?")
    assert ended.stdout.decode(encoding).splitlines()[0] == line


def test_a_terminal_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "result")]
    with subprocess.Popen(command, stdout=its, stderr=its, start_new_session=True) as process:
        os.close(its)
        os.read(ours, 100)
        os.close(ours)
        assert process.wait(60) == 0
    assert (tmp_path / "result").read_text() == "the result"


@pytest.fixture
def not_under_nohup() -> Iterator[None]:
    """Let processes that this one starts end when a terminal closes, even if this one does not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("not_under_nohup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_ends_once_however_often_it_is_asked(number: signal.Signals) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WAITING], **pipes) as process:
        assert process.stderr is not None
        assert process.stdout.readline() == "waits\n"
        for _ in range(3):
            process.send_signal(number)
        assert process.stdout.read() == "written down\n"
        assert process.stderr.read() == "\nInterrupted. What is finished is kept; to go on: the same command\n"
        assert process.wait(60) == 130


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    ignoring = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
    with subprocess.Popen(
        [*ignoring, sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130


def test_a_stream_that_is_detached_is_no_terminal() -> None:
    stream = SteadyStream(io.TextIOWrapper(io.BytesIO(), "utf-8"), "output")
    stream.detach()
    assert not stream.isatty()
