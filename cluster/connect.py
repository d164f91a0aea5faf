"""Connects to Ray on laptops, in jobs and on clusters. A Ray that does not answer is a one-line error within seconds."""

import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import psutil

from cluster.auth_token import keep_token_private
from gpt2core.errors import ConfigError, UserError, first_line, without_passwords
from gpt2core.files import home
from gpt2core.machine import cpus
from gpt2core.parts import IMPORTS, module_file
from gpt2core.storage import address, fetch, local, send

LOOK_TIMEOUT = 60  # seconds for a machine to look for a file
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 4.0, 10.0  # seconds for a port to accept a connection, and for a head to answer
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of the longest path of a socket
#: Ray's longest socket path below the folder for temporary files.
SOCKETS = "/ray/session_2000-01-01_00-00-00_000000_{process}/sockets/plasma_store"
#: A script that exits with status 0 if a Ray answers. A process of its own can be stopped, and its output is hidden.
PROBE = """
import sys
from ray._private.authentication import authentication_token_setup as tokens
from ray._raylet import GcsClient
if sys.argv[2] == "auto":  # Ray then finds the cluster and its token by itself
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
GcsClient(address=sys.argv[1])
"""
REFUSED = "InvalidAuthToken"  # in Ray's error for a token that is wrong or missing

T = TypeVar("T")


def connect(
    *, dashboard: bool = False, imports: Sequence[str] = (), say: Callable[[str], None] = lambda text: None
) -> None:
    """Connect to the cluster of $RAY_ADDRESS, or start Ray on this machine, on loopback; do nothing if connected.

    Its workers import the modules `imports`. A local Ray that does not start is tried a second time, in case the machine was
    busy; `say` reports that. Raises UserError.
    """
    import ray

    environment = runtime_environment(imports)
    if ray.is_initialized():
        _check_imports(environment)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    keep_token_private(draw=not os.environ.get("RAY_ADDRESS"))
    if os.environ.get("RAY_ADDRESS"):
        join_cluster(os.environ["RAY_ADDRESS"].strip(), environment)
    else:
        _start_local(dashboard, environment, say)


def runtime_environment(imports: Sequence[str]) -> dict[str, Any]:
    """Return the part of Ray's runtime environment that makes workers import these modules.

    Ray copies those that are not installed, such as a file of the working folder, to each machine.
    """
    if not imports:
        return {}
    files = dict.fromkeys(str(path) for name in imports if (path := module_file(name)))
    return {"env_vars": {IMPORTS: ",".join(imports)}, "py_modules": list(files)}


def _check_imports(environment: Mapping[str, Any]) -> None:
    """Raise UserError if the workers of a Ray that already runs do not import the modules of this search."""
    import ray

    wanted = environment.get("env_vars", {})
    if not wanted.items() <= ray.get_runtime_context().runtime_env.env_vars().items():
        raise UserError(
            f"Ray already runs without the modules {wanted[IMPORTS]}: call `ray.shutdown()` first, so that the search starts it "
            "with them"
        )


def join_cluster(place: str, environment: Mapping[str, Any] | None = None) -> None:
    """Connect to the cluster at `place`, the value of $RAY_ADDRESS; raise UserError if it does not answer."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    _check_form(place)
    shown = without_passwords(place)
    unanswered = f"Ray did not answer at {shown}, which RAY_ADDRESS names"
    way_out = "unset RAY_ADDRESS to let a search start its own Ray"
    try:
        head = urlsplit(f"//{within(CONNECT_TIMEOUT, lambda: canonicalize_bootstrap_address('auto'))}")
        host, port = head.hostname or "", head.port or 0
        within(CONNECT_TIMEOUT, lambda: socket.create_connection((host, port), CONNECT_TIMEOUT).close())
        command = [sys.executable, "-c", PROBE, head.netloc, place]
        probe = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT, check=False)
        if probe.returncode:
            lines = [line for line in probe.stderr.splitlines() if line.strip()] or ["no Ray is there"]
            raise ConnectionError(lines[-1])
        ray.init(address="auto", runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise UserError(f"{unanswered}, in time; {way_out}") from None
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        if REFUSED in reason:
            raise UserError(
                f"Ray at {shown}, which RAY_ADDRESS names, refuses this machine's token, or was sent none: set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's token (default: ~/.ray/auth_token)"
            ) from None
        raise UserError(f"{unanswered} ({reason}); {way_out}") from None


def _check_form(place: str) -> None:
    """Raise ConfigError if a value of RAY_ADDRESS is not the address of a cluster."""
    if place == "auto":
        return
    hint = ""
    if place.startswith(("http://", "https://")):
        hint = "; this URL is for `ray job submit --address`, and a job needs no RAY_ADDRESS"
    elif place.startswith("ray://"):
        hint = "; this URL is for Ray Client, which a search cannot use: submit the search as a job"
    try:
        parts = urlsplit(f"//{place}")
        if "://" not in place and parts.hostname and parts.port and parts.netloc == place and "@" not in place:
            return
    except ValueError:  # the port is not a number, or brackets are not closed
        pass
    shown = without_passwords(place) if "://" in place else place.rpartition("@")[2]
    hint = hint or ("; leave out the user" if "@" in place else "")
    raise ConfigError(
        f"The value of RAY_ADDRESS is {shown!r}, but must be HOST:PORT of a cluster's head, [IPv6]:PORT, or auto{hint}"
    )


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return or raise what `ask` does, or raise TimeoutError after `seconds`; signals are handled meanwhile."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer.result(seconds)


def _start_local(dashboard: bool, environment: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Start Ray on this machine; raise UserError if it fails twice.

    The address is "local" because a stale address file of an older cluster would break a plain `ray.init()`.
    """
    import ray

    from gpt2core.speed import gpu_count

    check_temporary_folder()
    environment = {**_quoted_python(), **environment}
    shape = {"num_cpus": cpus(), "num_gpus": gpu_count(), "include_dashboard": dashboard}
    if shape["num_gpus"] == 0 and os.environ.get("CUDA_VISIBLE_DEVICES", "-1") not in ("", "-1", "NoDevFiles"):
        say(f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, but PyTorch finds no GPU: using CPUs")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    for last in (False, True):
        before = psutil.Process().children(recursive=True)
        try:
            ray.init(address="local", dashboard_host="127.0.0.1", runtime_env=environment, **shape, **quiet)
            return
        except BaseException as error:
            _kill_ray_processes(before)
            if not isinstance(error, Exception) or isinstance(error, UserError):
                raise
            if isinstance(error, PermissionError):
                raise ConfigError(
                    f"{error.filename}: Ray cannot write there ({error.strerror}); set HOME or TMPDIR to a folder of yours"
                ) from None
            if last:
                raise UserError(
                    f"Ray failed twice to start on this machine ({first_line(error)}); if it is busy or short of memory, try "
                    "again later"
                ) from None
            say(f"Ray did not start ({first_line(error)}); trying a second time")


def _quoted_python() -> dict[str, str]:
    """Return the runtime environment for a Python whose path has a space: Ray does not quote it in its shell commands."""
    quoted = shlex.quote(sys.executable)
    return {} if quoted == sys.executable else {"py_executable": quoted}


def _kill_ray_processes(before: list[psutil.Process]) -> None:
    """Kill Ray processes that were not there `before`: Ray forgets those of a start that failed."""
    import ray

    ray.shutdown()
    left = [child for child in psutil.Process().children(recursive=True) if child not in before and _is_ray(child)]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=CONNECT_TIMEOUT)


def _is_ray(process: psutil.Process) -> bool:
    try:
        return any(f"{os.sep}ray{os.sep}" in word for word in process.cmdline())
    except psutil.Error:
        return False


def check_temporary_folder() -> None:
    """Raise ConfigError if Ray cannot put its sockets and logs into the folder for temporary files."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    folder = Path(os.environ.get(name) or "/tmp")
    longest = f"{folder}{SOCKETS.format(process=os.getpid())}"
    way_out = f"set {name} to another folder, such as /tmp"
    if not folder.is_absolute():
        raise ConfigError(f"The value of {name} is {str(folder)!r}, but must be an absolute path; {way_out}")
    size, excess = len(os.fsencode(folder)), len(os.fsencode(longest)) - SOCKET_BYTES
    if excess > 0:
        raise ConfigError(
            f"The folder for temporary files, {folder}, is too long for Ray's sockets: {size} bytes, but must be at most "
            f"{size - excess}; {way_out}"
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder / "ray" if (folder / "ray").is_dir() else folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"The folder for temporary files, {folder}, cannot be written to ({error.strerror}); {way_out}"
        ) from None


def in_job() -> bool:
    """Whether this process drives a submitted job, whose working folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_storage() -> Path:
    """Return the storage without `--storage`: $GPT2_SEARCH_STORAGE, else `runs` in this folder, or at home in a job."""
    if os.environ.get("GPT2_SEARCH_STORAGE"):
        return local(os.environ["GPT2_SEARCH_STORAGE"])
    return home() / "gpt2-search" / "runs" if in_job() else Path.cwd() / "runs"


def check_shared(folder: Path) -> None:
    """Raise UserError if a machine of the cluster does not see what this machine writes into `folder`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    mark = folder / "seen-by-all"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(uuid4().hex)
    send(mark)
    look = ray.remote(num_cpus=0, max_retries=0)(_why_unseen)
    reasons = {
        node["NodeManagerAddress"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(address(mark), mark.read_text())
        for node in others
    }
    for machine, reference in reasons.items():
        try:
            reason = ray.get(reference, timeout=LOOK_TIMEOUT)
        except ray.exceptions.RayError:  # the machine has left or is too busy; its trials will tell
            continue
        if reason is not None:
            raise UserError(
                f"The machine {machine} of the cluster does not see {address(folder)} ({reason}): set --storage or "
                "GPT2_SEARCH_STORAGE to a folder that all machines share, or to s3://BUCKET/FOLDER"
            )
    mark.unlink()
    send(mark)


def _why_unseen(place: str, text: str) -> str | None:
    """Say why a file does not have this text on this machine; None if it does."""
    path = local(place)
    try:
        fetch(path)
        return None if path.read_text() == text else "another file is there"
    except (OSError, UserError) as error:
        return first_line(error)
