"""Let requests to this machine itself bypass proxies."""

import os
import re
from collections.abc import MutableMapping

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bypass_proxies(variables: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to `no_proxy` if any proxy is configured, also for child processes."""
    if not any(re.fullmatch(r"\w+_proxy", name, re.IGNORECASE) for name in variables):
        return
    values = [value for name, value in sorted(variables.items()) if name.lower() == "no_proxy"]
    hosts = [host.strip() for value in values for host in value.split(",") if host.strip()]
    for name in ("no_proxy", "NO_PROXY"):
        variables[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
