"""Start and stop a program in a process group of its own, with its output in a log file."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trainables.programs import guard
from trainables.programs.terminal import shown_text

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LAST, LONGEST = 3, 300  # lines and characters of the output that a failure shows
TAIL = 2**16  # bytes of the log that are searched for them


class Process:
    """A running program. It ends with this process, see `guard`, which keeps the file `held` open until then."""

    def __init__(
        self, words: Sequence[str], folder: Path, log: Path, cpus: int, *, held: int, grace: float = GRACE
    ) -> None:
        env = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(cpus)}  # lines arrive when they are printed
        command = [sys.executable, "-I", "-S", guard.__file__, str(grace), *words]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                pass_fds=[held],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        return self.process.poll()

    def stop(self) -> None:
        """End the program and all processes that it started; wait for that."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def last_lines(log: Path) -> str:
    """Return the last lines of a log in one line, shortened from the front."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = [text for line in file.read().split(b"\n") if (text := shown_text(line))]
    text = " | ".join(lines[-LAST:])
    return text if len(text) <= LONGEST else f"...{text[-LONGEST:]}"
