"""Tells Ray that this machine is about to be taken away: `python -m cluster.preemption watch | leave SECONDS`.

A trial on a node that Ray drains saves what it has trained of its epoch, and Ray starts nothing there. Clouds tell only the
machine itself: `watch` asks for that every few seconds, on AWS and Google Cloud. Kubernetes runs `leave` before it stops a pod.
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
EVERY = 5.0  # seconds between two questions
ANSWER = 2.0  # seconds that a cloud may take to answer
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would answer of another machine


def amazon(place: str) -> int | None:
    """Seconds that AWS leaves this spot machine, None while it says nothing; its instance metadata service, version 2."""
    token = _ask(f"{place}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    if token is None:
        return None
    told = _ask(f"{place}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    return 120 if told else None


def google(place: str) -> int | None:
    """Seconds that Google Cloud leaves this spot machine, None while it says nothing."""
    told = _ask(f"{place}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return 30 if told == "TRUE" else None


#: Where each cloud answers its machines, and how.
CLOUDS: dict[str, tuple[str, Callable[[str], int | None]]] = {
    "aws": ("http://169.254.169.254", amazon),
    "google": ("http://metadata.google.internal", google),
}


def watch(node: str | None) -> int:
    """Wait for the notice of this machine's cloud, then drain its node."""
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
    """Drain this machine's node, and return when the time is over that its trials have to save."""
    drain(seconds, node)
    time.sleep(seconds)
    return 0


def drain(seconds: int, node: str | None) -> None:
    """Tell Ray that the node, by default this machine's, ends in `seconds`; raise UserError where it does not listen."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the machine is taken away", "--deadline-remaining-seconds", str(seconds)]
    command += ["--node-id", node] if node else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Ray did not drain the node: {' '.join((done.stderr or done.stdout).split())[-300:]}")


def _ask(address: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """What a metadata server answers; None where there is none, or it has nothing to say."""
    try:
        asked = urllib.request.Request(address, headers=headers, method=method)
        with DIRECT.open(asked, timeout=ANSWER) as answer:
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
