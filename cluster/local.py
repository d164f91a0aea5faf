"""A Ray head on this machine: `python -m cluster.local up | submit -- COMMAND | down`.

It listens on loopback and requires a token, because whoever reaches a job API can run code. It leaves other Rays on this
machine alone. Each port, `GPT2_SEARCH_PORT`, has its own head.
"""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from cluster.auth_token import private_token
from cluster.connect import check_temporary_folder
from cluster.environment import HIDE_GPUS
from gpt2core.cli import bypass_proxies, command_text, run_or_explain
from gpt2core.errors import ConfigError, UserError
from gpt2core.files import home
from gpt2core.machine import cpus

PORT = os.environ.get("GPT2_SEARCH_PORT") or "8265"
DASHBOARD = f"http://127.0.0.1:{PORT}"
RAY = Path(os.path.expanduser("~/.ray"))  # noqa: PTH111 (Path raises if there is no home, see `check`)
TOKEN = RAY / "auth_token"  # where Ray looks for it by default
HEAD, LOG = RAY / f"gpt2-search-head-{PORT}.pid", RAY / f"gpt2-search-head-{PORT}.log"
USAGE = "usage: python -m cluster.local up | submit -- COMMAND | down"
PATIENCE = 90  # seconds that a head may take to start or to stop
ANOTHER = "choose another port with GPT2_SEARCH_PORT"
SHELL_SIGNS = set(" \t\n\"'\\$`&|;<>(){}*?[]")
#: Variables that would direct Ray's commands to another cluster.
ELSEWHERE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def environment() -> dict[str, str]:
    """Return the environment of Ray commands: with the token, without telemetry and proxies, this Python's programs first."""
    private_token(TOKEN)
    programs = str(Path(sys.executable).parent)
    variables = {
        **{name: value for name, value in os.environ.items() if name not in ELSEWHERE},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        **HIDE_GPUS,
        "RAY_JOB_STOP_WAIT_TIME_S": "30",  # not Ray's 3: a search needs time to save
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    bypass_proxies(variables)
    return variables


def check() -> None:
    """Raise ConfigError if the port is invalid, or there is no home folder for the token and the log."""
    if not (PORT.isascii() and PORT.isdecimal() and 1024 <= int(PORT) <= 65535):
        raise ConfigError(f"The value of GPT2_SEARCH_PORT is {PORT!r}, but must be a port, 1024 to 65535")
    try:
        home()
        RAY.mkdir(parents=True, exist_ok=True)
        LOG.open("ab").close()
    except OSError as error:
        raise ConfigError(f"{RAY}: cannot be written to ({error.strerror}); set HOME to a folder of yours") from None


def is_up() -> bool:
    """Whether a head accepts our token on this machine. Raises UserError if something else answers."""
    token = TOKEN.read_text() if TOKEN.exists() else ""
    request = urllib.request.Request(f"{DASHBOARD}/api/version", headers={"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise UserError(
                f"another Ray at {DASHBOARD} refuses the token in {TOKEN} ({error.code}); stop it with `ray stop`, or {ANOTHER}"
            ) from None
        raise UserError(f"another program answers at {DASHBOARD} ({error.code}); {ANOTHER}") from None
    except http.client.HTTPException:
        raise UserError(f"another program answers at {DASHBOARD}, and not in HTTP; {ANOTHER}") from None
    except OSError:
        return False


def up() -> int:
    """Start a head if none runs, and wait until it answers; raise UserError after two attempts."""
    check()
    if SHELL_SIGNS & set(sys.executable):  # Ray does not quote it in a shell command
        raise ConfigError(
            f"{sys.executable}: Ray's head cannot start a Python whose path has spaces or shell characters; move the checkout, "
            "or run the search directly, which needs no head"
        )
    env = environment()
    if is_up():
        return 0
    check_temporary_folder()
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            port.bind(("127.0.0.1", int(PORT)))
        except OSError as error:
            raise UserError(f"The port {PORT} cannot be used ({error.strerror}); {ANOTHER}") from None
    print(f"Starting a Ray head on {DASHBOARD} ...", flush=True)
    if not (_start(env) or _start(env)):
        raise UserError(f"The head failed twice to start; the last line of {LOG}: {_last_line()}")
    print("It runs until `python -m cluster.local down`.", flush=True)
    return 0


def _start(env: dict[str, str]) -> bool:
    """Start a head; return whether it answers. A head that does not answer in time is stopped."""
    # Any free ports but the dashboard's: the usual ports may belong to a search's own Ray, or to another head.
    ports = ["--port", "0", "--dashboard-agent-listen-port", "0", "--min-worker-port", "0", "--max-worker-port", "0"]
    ports += ["--dashboard-port", PORT]
    host = ["--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--num-cpus", str(cpus())]
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        *host,
        *ports,
        "--include-dashboard",
        "true",
        "--disable-usage-stats",
    ]
    with LOG.open("wb") as log:
        head = psutil.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        HEAD.write_text(f"{head.pid} {head.create_time()}")
        _wait_until(lambda: is_up() or head.poll() is not None)
        if head.poll() is None and is_up():
            return True
    except BaseException:
        _stop(head)
        raise
    _stop(head)
    return False


def _wait_until(reached: Callable[[], bool]) -> bool:
    """Poll until `reached`, as a head does not announce its start or end; return False after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _stop(head: psutil.Process) -> None:
    """Stop a head, wait until all its processes are gone, and forget it; processes that do not end in time are killed."""
    processes = _processes(head)
    with contextlib.suppress(psutil.NoSuchProcess):
        head.terminate()
    _, left = psutil.wait_procs(processes, timeout=PATIENCE)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=PATIENCE)
    HEAD.unlink(missing_ok=True)


def _processes(head: psutil.Process) -> list[psutil.Process]:
    """Return a head and all processes that it has started: its children, and those in its session."""
    processes = {head}
    with contextlib.suppress(psutil.NoSuchProcess):
        processes |= set(head.children(recursive=True))
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == head.pid:
                processes.add(process)
    return list(processes)


def _last_line() -> str:
    lines = [line.strip() for line in LOG.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "none"


def submit(command: list[str]) -> int:
    """Run `command` as a Ray job with this folder as its working folder, and follow its logs."""
    up()
    job = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", ".", "--", *command]
    return subprocess.call(job, env=environment())


def down() -> int:
    """Stop the head that `up` started, and wait until it is gone."""
    check()
    head = _head()
    if head is None:
        HEAD.unlink(missing_ok=True)
        print("There is no head to stop.")
        return 0
    _stop(head)
    return 0


def _head() -> psutil.Process | None:
    """Return the recorded head if it still runs; another process may have got its number."""
    try:
        number, began = HEAD.read_text().split()
        head = psutil.Process(int(number))
        return head if abs(head.create_time() - float(began)) < 1 and head.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, psutil.Error):
        return None


def main(argv: list[str]) -> int:
    """Run one command; return its exit status. Raises UserError, KeyboardInterrupt."""
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
    run_or_explain(lambda: main(sys.argv[1:]), f"python -m cluster.local {command_text(sys.argv[1:])}")
