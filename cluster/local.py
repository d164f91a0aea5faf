"""A Ray head on this machine: `python -m cluster.local up | submit -- COMMAND | down`.

It listens on loopback and asks for a token: whoever reaches a job API can run code. Other Rays of this machine are left alone.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

DASHBOARD = f"http://127.0.0.1:{os.environ.get('GPT2_SEARCH_PORT', '8265')}"
RAY = Path.home() / ".ray"
TOKEN = RAY / "auth_token"  # where Ray itself looks for it
HEAD, LOG = RAY / "gpt2-search-head.pid", RAY / "gpt2-search-head.log"
USAGE = "usage: python -m cluster.local up | submit -- COMMAND | down"
PATIENCE = 90  # seconds that a head may take to start or to stop


def environment() -> dict[str, str]:
    """Return the environment of all Ray commands: token on, telemetry off, this interpreter's programs first."""
    if not TOKEN.exists():
        RAY.mkdir(parents=True, exist_ok=True)
        TOKEN.touch(mode=0o600)
        TOKEN.write_text(secrets.token_hex(32))
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",  # by itself Ray kills after three, and a search writes everything down first
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def is_up() -> bool:
    """Whether a head answers on this machine with our token."""
    token = TOKEN.read_text() if TOKEN.exists() else ""
    request = urllib.request.Request(f"{DASHBOARD}/api/version", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        sys.exit(
            f"error: another Ray at {DASHBOARD} refuses the token in {TOKEN} ({error.code}); stop it with `ray stop`, "
            "or choose a port with GPT2_SEARCH_PORT"
        )
    except OSError:
        return False


def up() -> int:
    """Start a head if there is none, and wait until it answers."""
    env = environment()
    if is_up():
        return 0
    print(f"Starting a Ray head on {DASHBOARD} ...", flush=True)
    port = DASHBOARD.rsplit(":", 1)[1]
    host = ["--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--dashboard-port", port, "--port", "0"]
    host += ["--dashboard-agent-listen-port", "0"]  # any: the usual one may be that of a search's own Ray
    command = ["ray", "start", "--head", "--block", *host, "--include-dashboard", "true", "--disable-usage-stats"]
    with LOG.open("wb") as log:
        head = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    HEAD.write_text(str(head.pid))
    _wait_until(lambda: is_up() or head.poll() is not None)
    if not is_up():
        HEAD.unlink()
        print(f"error: the head did not start; its last words, of {LOG}:\n{_last_words()}", file=sys.stderr)
        return 1
    print("It runs until `python -m cluster.local down`.", flush=True)
    return 0


def _wait_until(reached: Callable[[], bool]) -> bool:
    """Ask again and again, for a head tells nobody of its start or end; False where PATIENCE ran out."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)  # between two questions; what counts is the answer
    return True


def _last_words() -> str:
    return "\n".join(LOG.read_text(errors="replace").strip().splitlines()[-5:])


def submit(command: list[str]) -> int:
    """Run `command` as a Ray job with this folder as its working folder, and follow its logs."""
    failed = up()
    if failed:
        return failed
    job = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", ".", "--", *command]
    return subprocess.call(job, env=environment())


def down() -> int:
    """Stop the head that `up` started, and wait until it is gone."""
    if not HEAD.exists() or not is_up():
        HEAD.unlink(missing_ok=True)
        print("There is no head to stop.")
        return 0
    os.kill(int(HEAD.read_text()), signal.SIGTERM)
    if not _wait_until(lambda: not is_up()):
        print(f"error: the head, process {HEAD.read_text()}, did not stop; see {LOG}", file=sys.stderr)
        return 1
    HEAD.unlink()
    return 0


def main(argv: list[str]) -> int:
    """Run one command; return its exit status."""
    match argv:
        case ["up"]:
            return up()
        case ["submit", "--", *command] if command:
            return submit(command)
        case ["down"]:
            return down()
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
