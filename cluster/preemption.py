"""Tells Ray that this machine is about to be taken away: `python -m cluster.preemption watch | leave SECONDS`.

Ray starts nothing on a node that it drains, and a trial there saves a checkpoint within its epoch. Clouds notify only the
machine itself: `watch` polls for the notice of AWS or Google Cloud. Kubernetes runs `leave` before it stops a pod.
"""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from gpt2core.errors import ConfigError, UserError

USAGE = "usage: python -m cluster.preemption watch [NODE] | leave SECONDS [NODE]"
EVERY = 5.0  # seconds between two polls
TIMEOUT = 2.0  # seconds for a cloud to answer
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would answer for another machine


def amazon(place: str) -> int | None:
    """Return the seconds until AWS takes this spot machine away, or None without a notice; reads IMDS version 2."""
    token = _ask(f"{place}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    if token is None:
        return None
    return 120 if _ask(f"{place}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}) else None


def google(place: str) -> int | None:
    """Return the seconds until Google Cloud takes this spot machine away, or None without a notice."""
    preempted = _ask(f"{place}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return 30 if preempted == "TRUE" else None


#: Cloud -> the address of its metadata server, and the function that reads its notice.
CLOUDS: dict[str, tuple[str, Callable[[str], int | None]]] = {
    "aws": ("http://169.254.169.254", amazon),
    "google": ("http://metadata.google.internal", google),
}


def watch(node: str | None) -> int:
    """Wait for the cloud's notice, then drain this machine's node."""
    places = {name: os.environ.get("GPT2_SEARCH_METADATA", place) for name, (place, _) in CLOUDS.items()}
    while True:
        for name, (_, ask) in CLOUDS.items():
            seconds = ask(places[name])
            if seconds is not None:
                print(f"{name} takes this machine away within {seconds} s", flush=True)
                drain(seconds, node)
                return 0
        time.sleep(EVERY)


def leave(seconds: int, node: str | None) -> int:
    """Drain this machine's node, and wait for the seconds that its trials have to save."""
    drain(seconds, node)
    time.sleep(seconds)
    return 0


def drain(seconds: int, node: str | None) -> None:
    """Tell Ray that a node, by default this machine's, ends in `seconds`; raise UserError if Ray refuses."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the machine is taken away", "--deadline-remaining-seconds", str(seconds)]
    command += ["--node-id", node] if node else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Ray did not drain the node: {' '.join((done.stderr or done.stdout).split())[-300:]}")


def _ask(address: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """Return the answer of a metadata server, or None if there is no server or no such entry."""
    try:
        request = urllib.request.Request(address, headers=headers, method=method)
        with DIRECT.open(request, timeout=TIMEOUT) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError):
        return None


def main(argv: list[str]) -> int:
    """Run one command; return its exit status."""
    try:
        match argv:
            case ["watch"]:
                return watch(None)
            case ["watch", node]:
                return watch(node)
            case ["leave", seconds] if seconds.isdecimal():
                return leave(int(seconds), None)
            case ["leave", seconds, node] if seconds.isdecimal():
                return leave(int(seconds), node)
        raise ConfigError(USAGE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
