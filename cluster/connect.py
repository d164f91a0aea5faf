"""One way to connect to Ray, for laptops, jobs and clusters alike."""

import logging
import os
from pathlib import Path

from gpt2core.errors import UserError, first_line


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
    """Where results go unless `--storage` says so: `runs` here, or in the home folder for a submitted job."""
    return Path.home() / "gpt2-search" / "runs" if in_job() else Path.cwd() / "runs"
