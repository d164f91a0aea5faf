"""Requests to this machine itself, which must bypass proxies."""

import os
import re
from collections.abc import MutableMapping

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def pass_by_proxies(variables: MutableMapping[str, str] = os.environ) -> None:
    """Let requests to this machine bypass proxies, in child processes too."""
    if not any(re.fullmatch(r"\w+_proxy", name, re.IGNORECASE) for name in variables):
        return
    named = [value for name, value in sorted(variables.items()) if name.lower() == "no_proxy"]
    hosts = [host.strip() for value in named for host in value.split(",") if host.strip()]
    for name in ("no_proxy", "NO_PROXY"):
        variables[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
