"""One way to connect to Ray, for laptops, jobs and clusters alike."""

import logging
import os
from pathlib import Path
from uuid import uuid4

from gpt2core.errors import UserError, first_line
from gpt2core.storage import address, fetch, local, send

PATIENCE = 60  # seconds that a machine may take to look into a folder


def connect(*, dashboard: bool = False) -> None:
    """Use the Ray that is there, the cluster of $RAY_ADDRESS, or a new local one, on loopback. Raises UserError.

    "local" is said by name: a stale address file of an older cluster would break a plain `ray.init()`.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError as error:
            raise UserError(f"Ray did not answer ({first_line(error)}); see $RAY_ADDRESS") from None
    else:
        ray.init(address="local", include_dashboard=dashboard, dashboard_host="127.0.0.1", **quiet)


def in_job() -> bool:
    """Whether this process is the driver of a submitted job, whose working folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_storage() -> Path:
    """Where results go unless `--storage` says so: $GPT2_SEARCH_STORAGE, `runs` here, or at home for a submitted job."""
    if os.environ.get("GPT2_SEARCH_STORAGE"):
        return local(os.environ["GPT2_SEARCH_STORAGE"])
    return Path.home() / "gpt2-search" / "runs" if in_job() else Path.cwd() / "runs"


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
            seen = ray.get(looked, timeout=PATIENCE)
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
