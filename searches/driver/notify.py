"""Tell a URL or a command that a search has ended: `--notify`."""

import json
import shlex
import subprocess
import urllib.request
from collections.abc import Callable

from gpt2core.errors import first_line, without_password
from gpt2core.storage import address
from searches.options import WEB, Options
from searches.result_files import REPORT
from searches.summary import Summary

SECONDS = 30.0  # that the receiver may take


def message(options: Options, summary: Summary, status: str) -> str:
    """Return the message as a JSON object. `text` is a line for people, as chat services expect it."""
    answer = summary.answer.claim if status == "FINISHED" else "It can go on by the same command."
    ended = {"FINISHED": "has ended", "KILLED": "was interrupted", "FAILED": "has failed"}[status]
    return json.dumps({
        "text": f"{options.name} {ended}: {answer}",
        "name": options.name,
        "status": status.lower(),
        "outcome": summary.answer.outcome,
        "answer": summary.answer.text,
        "report": str(address(options.results_folder / REPORT)),
    })  # fmt: skip


def notify(receiver: str | None, text: str, warn: Callable[[str], None]) -> None:
    """Send a message by POST, or give it to a command on standard input; a failure is only a warning."""
    if receiver is None:
        return
    try:
        if receiver.startswith(WEB):
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(receiver, data=text.encode(), headers=headers)
            with urllib.request.urlopen(request, timeout=SECONDS):
                return
        subprocess.run(
            shlex.split(receiver), input=text.encode(), check=True, timeout=SECONDS, stdout=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        warn(f"{without_password(receiver)} could not be notified: {first_line(error)}")
