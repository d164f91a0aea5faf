"""Waiting for what tells nobody when it happens: files, servers, jobs, other machines."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0  # seconds that anything may take on a busy machine
PAUSE = 0.05  # seconds between two questions


def wait_until(
    reached: Callable[[], Any], process: subprocess.Popen[Any] | None = None, said: Callable[[], str] = lambda: ""
) -> None:
    """Ask until `reached` is true. Fail, with what was `said` so far, where the process ends first or patience does."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process is None or process.poll() is None, f"it ended too early: {said()}"
        assert time.monotonic() < deadline, f"it took more than {PATIENCE:g} s: {said()}"
        time.sleep(PAUSE)  # what counts is the answer
