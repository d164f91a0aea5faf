"""One way to connect to Ray, for laptops, jobs and clusters alike. Whatever does not answer is one line, within PATIENCE."""

import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import psutil

from cluster.auth_token import keep_token_private
from gpt2core.errors import ConfigError, UserError, first_line, without_passwords
from gpt2core.files import home
from gpt2core.machine import cpus
from gpt2core.storage import address, fetch, local, send

LOOK = 60  # seconds that a machine may take to look into a folder
KNOCK, ASK = 4.0, 10.0  # seconds in which a port must take a connection, and a head answer
SOCKET = 103 if sys.platform == "darwin" else 107  # bytes of the longest path that a socket may have
#: Below the folder for temporary files, Ray's longest path of a socket.
SOCKETS = "/ray/session_2000-01-01_00-00-00_000000_{process}/sockets/plasma_store"
#: Ends with status 0 where a Ray answers. As a process of its own it can be stopped, and what Ray says of it goes nowhere.
ANSWERS = """
import sys
from ray._private.authentication import authentication_token_setup as tokens
from ray._raylet import GcsClient
if sys.argv[2] == "auto":  # of a cluster that Ray finds by itself, it takes the token too
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
GcsClient(address=sys.argv[1])
"""

T = TypeVar("T")


def connect(*, dashboard: bool = False, say: Callable[[str], None] = lambda text: None) -> None:
    """Use the Ray that is there, the cluster of $RAY_ADDRESS, or a new local one, on loopback. Raises UserError.

    A local one that does not start is tried a second time, which `say` is told: a machine may just have been busy.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    keep_token_private(draw=not os.environ.get("RAY_ADDRESS"))
    if os.environ.get("RAY_ADDRESS"):
        join_cluster(os.environ["RAY_ADDRESS"].strip())
    else:
        _start_local(dashboard, say)


def join_cluster(place: str) -> None:
    """Connect to the cluster that $RAY_ADDRESS names; raise UserError for one that does not answer."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    _check_form(place)
    shown = without_passwords(place)
    unanswered = f"Ray did not answer at {shown}, which RAY_ADDRESS names"
    way_out = "without RAY_ADDRESS, a search starts a Ray of its own"
    try:
        head = urlsplit(f"//{within(KNOCK, lambda: canonicalize_bootstrap_address('auto'))}")
        host, port = head.hostname or "", head.port or 0
        within(KNOCK, lambda: socket.create_connection((host, port), KNOCK).close())
        asked = subprocess.run(
            [sys.executable, "-c", ANSWERS, head.netloc, place],
            capture_output=True,
            text=True,
            timeout=ASK,
            check=False,
        )
        if asked.returncode:
            lines = [line for line in asked.stderr.splitlines() if line.strip()] or ["no Ray is there"]
            raise ConnectionError(lines[-1])
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise UserError(f"{unanswered}, in time; {way_out}") from None
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UserError(f"{unanswered} ({said}); {way_out}") from None


def _check_form(place: str) -> None:
    """Raise ConfigError for a value of RAY_ADDRESS that is no address of a cluster."""
    if place == "auto":
        return
    hint = ""
    if place.startswith(("http://", "https://")):
        hint = "; this one is for jobs: `ray job submit --address`, and a job needs no RAY_ADDRESS of its own"
    elif place.startswith("ray://"):
        hint = "; this one is for Ray Client, which a search cannot use: submit it as a job"
    try:
        parts = urlsplit(f"//{place}")
        if "://" not in place and parts.hostname and parts.port and parts.netloc == place and "@" not in place:
            return
    except ValueError:  # its port is no number, or its brackets are not closed
        pass
    shown = without_passwords(place) if "://" in place else place.rpartition("@")[2]
    hint = hint or ("; the place alone, without a user" if "@" in place else "")
    raise ConfigError(
        f"The value of RAY_ADDRESS is {shown!r}, but must be HOST:PORT of a cluster's head, [IPv6]:PORT, or auto{hint}"
    )


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` returns or raises, TimeoutError where it takes longer; signals are heard meanwhile."""
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(ask())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return found.result(seconds)


def _start_local(dashboard: bool, say: Callable[[str], None]) -> None:
    """Start a Ray on this machine; raise UserError where it does not start twice. "local" is said by name: a stale address
    file of an older cluster would break a plain `ray.init()`."""
    import ray

    from gpt2core.speed import gpu_count

    check_temporary_folder()
    shape = {"num_cpus": cpus(), "num_gpus": gpu_count(), "include_dashboard": dashboard}
    if shape["num_gpus"] == 0 and os.environ.get("CUDA_VISIBLE_DEVICES", "-1") not in ("", "-1", "NoDevFiles"):
        say(
            f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, of which PyTorch finds none: without GPUs"
        )
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    for last in (False, True):
        before = psutil.Process().children(recursive=True)
        try:
            ray.init(address="local", dashboard_host="127.0.0.1", runtime_env=python_quoted(), **shape, **quiet)
            return
        except BaseException as error:
            _clear(before)
            if not isinstance(error, Exception) or isinstance(error, UserError):
                raise
            if isinstance(error, PermissionError):
                raise ConfigError(
                    f"{error.filename}: Ray cannot write there ({error.strerror}); set HOME, or TMPDIR, to a folder of yours"
                ) from None
            if last:
                raise UserError(
                    f"Ray did not start on this machine, twice ({first_line(error)}); if it is busy or short of memory, try "
                    "again later"
                ) from None
            say(f"Ray did not start ({first_line(error)}); trying a second time")


def python_quoted() -> dict[str, str] | None:
    """The runtime environment that Ray needs where the path of Python holds a space: it puts it into a shell's line as it is."""
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _clear(before: list[psutil.Process]) -> None:
    """End what a start left behind that failed: Ray itself forgets its processes then."""
    import ray

    ray.shutdown()
    left = [one for one in psutil.Process().children(recursive=True) if one not in before and _is_ray(one)]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=KNOCK)


def _is_ray(process: psutil.Process) -> bool:
    try:
        return any(f"{os.sep}ray{os.sep}" in word for word in process.cmdline())
    except psutil.Error:
        return False


def check_temporary_folder() -> None:
    """Raise ConfigError where Ray cannot have its sockets and logs in the folder for temporary files."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    folder = Path(os.environ.get(name) or "/tmp")
    longest = f"{folder}{SOCKETS.format(process=os.getpid())}"
    way_out = f"set {name} to another, such as /tmp"
    if not folder.is_absolute():
        raise ConfigError(f"The value of {name} is {str(folder)!r}, but must be an absolute path; {way_out}")
    if len(os.fsencode(longest)) > SOCKET:
        room = SOCKET - len(os.fsencode(longest)) + len(os.fsencode(folder))
        raise ConfigError(
            f"The folder for temporary files, {folder}, is too long for Ray's sockets: {len(os.fsencode(folder))} bytes, but "
            f"must be at most {room}; {way_out}"
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder / "ray" if (folder / "ray").is_dir() else folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"The folder for temporary files, {folder}, cannot be written to ({error.strerror}); {way_out}"
        ) from None


def in_job() -> bool:
    """Whether this process is the driver of a submitted job, whose working folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_storage() -> Path:
    """Where results go unless `--storage` says so: $GPT2_SEARCH_STORAGE, `runs` here, or at home for a submitted job."""
    if os.environ.get("GPT2_SEARCH_STORAGE"):
        return local(os.environ["GPT2_SEARCH_STORAGE"])
    return home() / "gpt2-search" / "runs" if in_job() else Path.cwd() / "runs"


def check_shared(folder: Path) -> None:
    """See that every machine of the cluster finds what this one writes into `folder`; raise UserError for one that does not."""
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
    look = ray.remote(num_cpus=0, max_retries=0)(_sees)
    looks = {
        node["NodeManagerAddress"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(address(mark), mark.read_text())
        for node in others
    }
    for machine, looked in looks.items():
        try:
            seen = ray.get(looked, timeout=LOOK)
        except ray.exceptions.RayError:  # it has just left, or is too busy; its trials will tell
            continue
        if seen is not None:
            raise UserError(
                f"The machine {machine} of the cluster does not see {address(folder)} ({seen}): give --storage, or "
                "GPT2_SEARCH_STORAGE, a folder that all machines share, or s3://BUCKET/FOLDER"
            )
    mark.unlink()
    send(mark)


def _sees(place: str, text: str) -> str | None:
    """Why a file is not what it should be here; None where it is."""
    path = local(place)
    try:
        fetch(path)
        return None if path.read_text() == text else "another file is there"
    except (OSError, UserError) as error:
        return first_line(error)
