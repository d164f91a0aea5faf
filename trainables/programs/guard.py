"""Runs a command in a process group of its own, and ends the whole group when the command or standard input ends.

A worker starts this file as a script and holds its standard input open, so the command ends with the worker, however that dies.
Usage: guard.py SECONDS COMMAND..., with the seconds between SIGTERM and SIGKILL.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

NOT_STARTED = 127  # exit status, as in shells
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main(grace: float, words: list[str]) -> int:
    """Run the command; return its exit status, or as in shells 128 + the number of the signal that ended it."""
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        with suppress(AttributeError):  # only Linux has it
            libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)

    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)
    except OSError as error:
        print(f"{words[0]}: cannot be started ({error.strerror})", flush=True)
        return NOT_STARTED
    ended = threading.Event()

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        _signal(process.pid, signal.SIGTERM)
        if not ended.wait(grace):
            _signal(process.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = process.wait()
    ended.set()
    _signal(process.pid, signal.SIGKILL)  # what the command left running
    return status if status >= 0 else 128 - status


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
