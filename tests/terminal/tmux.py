"""A real terminal of any size: tmux runs a command in it and tells what is on its screen."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.runs import ROOT

TMUX = shutil.which("tmux")
INSTALL = "there is no tmux to run a terminal in: apt-get install tmux"
READY = "TERMINAL_READY"  # the command that a program runs once its screen can be looked at
HISTORY = 2_000  # lines above the screen


@contextmanager
def _server() -> Iterator[list[str]]:
    tmux = [str(TMUX), "-L", f"gpt2-search-{uuid4().hex[:8]}", "-f", "/dev/null"]
    try:
        yield tmux
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True, check=False)


def screen(words: list[str], folder: Path, width: int, height: int = 40, **environment: str) -> str:
    """The screen, and what has gone from it, of a Python command when it has ended or says that it is ready."""
    with _server() as tmux:
        ready = shlex.join([*tmux, "wait-for", "-S", "ready"])
        settings = {"PYTHONPATH": str(ROOT), "TZ": "UTC", "LANG": "C.UTF-8", READY: ready, **environment}
        command = [
            "env",
            "-u",
            "COLUMNS",
            "-u",
            "LINES",
            *(f"{key}={value}" for key, value in settings.items()),
            sys.executable,
            *words,
        ]
        size = ["-x", str(width), "-y", str(height)]
        text = f"cd {shlex.quote(str(folder))} && {shlex.join(command)}; {ready}; exec cat"
        subprocess.run([*tmux, "new-session", "-d", *size, text], check=True)
        subprocess.run([*tmux, "wait-for", "ready"], check=True, timeout=120)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-p", "-S", f"-{HISTORY}"], check=True, capture_output=True, text=True
        )
    return "\n".join(line.rstrip() for line in shown.stdout.rstrip("\n").split("\n")) + "\n"
