"""A Ray head on this machine: `python -m cluster.local up | submit -- COMMAND | down`.

It listens on loopback and asks for a token: whoever reaches a job API can run code.
"""

import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

DASHBOARD = "http://127.0.0.1:8265"
TOKEN = Path.home() / ".ray" / "auth_token"  # where Ray itself looks for it
USAGE = "usage: python -m cluster.local up | submit -- COMMAND | down"


def environment() -> dict[str, str]:
    """Return the environment of all Ray commands: token on, telemetry off, this interpreter's programs first."""
    if not TOKEN.exists():
        TOKEN.parent.mkdir(parents=True, exist_ok=True)
        TOKEN.touch(mode=0o600)
        TOKEN.write_text(secrets.token_hex(32))
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def is_up() -> bool:
    """Whether a head answers on this machine with our token."""
    request = urllib.request.Request(
        f"{DASHBOARD}/api/version", headers={"Authorization": f"Bearer {TOKEN.read_text()}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        sys.exit(
            f"error: another Ray at {DASHBOARD} refuses the token in {TOKEN} ({error.code}); stop it with `ray stop`"
        )
    except OSError:
        return False


def up() -> int:
    """Start a head if there is none."""
    env = environment()
    if is_up():
        return 0
    host = ["--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--include-dashboard", "true"]
    return subprocess.call(["ray", "start", "--head", *host, "--disable-usage-stats"], env=env)


def submit(command: list[str]) -> int:
    """Run `command` as a Ray job with this folder as its working folder, and follow its logs."""
    failed = up()
    if failed:
        return failed
    job = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", ".", "--", *command]
    return subprocess.call(job, env=environment())


def down() -> int:
    """Stop the head."""
    return subprocess.call(["ray", "stop"], env=environment())


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
