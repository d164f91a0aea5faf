"""Ray's token: created atomically, readable by its owner alone, and made private if it was not."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster import auth_token
from cluster.auth_token import keep_token_private, private_token
from gpt2core.errors import UserError
from tests.runs import program, python

VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
START = """
import os, subprocess, sys
from pathlib import Path
ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info()"
from cluster.connect import connect
os.umask(0o022)
connect()
import ray
print(ray.get(ray.remote(num_cpus=0)(lambda: "ran").remote()))
head = ray.get_runtime_context().gcs_address
for token in (Path.home() / ".ray" / "auth_token").read_text(), "0" * 64:
    words = [sys.executable, "-c", ASK, head]
    asked = subprocess.run(words, env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, capture_output=True)
    print(asked.returncode, b"nauthenticated" in asked.stderr)
del os.environ["RAY_AUTH_MODE"]
words = [sys.executable, "-c", "import sys; from cluster.connect import join_cluster; join_cluster(sys.argv[1])", head]
asked = subprocess.run(words, env=os.environ | {"RAY_ADDRESS": head}, capture_output=True, text=True)
print(asked.stderr.splitlines()[-1].replace(head, "HEAD"))
ray.shutdown()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A separate home, with a umask that lets others read."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(0o022)
    yield tmp_path / "home"
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_for_its_owner_alone(home: Path) -> None:
    keep_token_private(draw=True)
    token = home / ".ray" / "auth_token"
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    drawn = token.read_text()
    assert len(drawn) == 64
    keep_token_private(draw=True)
    assert token.read_text() == drawn, "it stays"


def test_concurrent_starts_get_the_same_token(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(private_token, [home / ".ray" / "auth_token"] * 32))
    assert len(tokens) == 1
    assert len(tokens.pop()) == 64


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("wide", [0o644, 0o640, 0o666, 0o604])
def test_a_token_that_others_could_read_becomes_private_with_a_warning(
    home: Path, wide: int, named: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("known")
    token.chmod(wide)
    token.parent.chmod(0o777)
    if named:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    keep_token_private(draw=False)
    assert (mode(token), mode(token.parent), token.read_text()) == (0o600, 0o755, "known")
    assert capsys.readouterr().err.count("other users of this machine could read Ray's token") == 1


def test_an_empty_token_is_replaced(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.touch(mode=0o644)
    assert len(private_token(token)) == 64
    assert mode(token) == 0o600


def test_the_token_of_a_cluster_is_not_created(home: Path) -> None:
    keep_token_private(draw=False)
    assert not (home / ".ray" / "auth_token").exists()


def test_a_token_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private_token(home / ".ray" / "auth_token")
    monkeypatch.setattr(auth_token.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(UserError, match="belongs to another user, who can read or replace Ray's token; remove it"):
        keep_token_private(draw=True)


def test_a_folder_that_cannot_hold_a_token_is_a_one_line_error(home: Path) -> None:
    home.write_text("no folder")
    with pytest.raises(UserError, match=r"auth_token: Ray's token cannot be kept there .*; set HOME"):
        keep_token_private(draw=True)


def test_the_first_start_of_ray_requires_a_private_token() -> None:
    """Runs in its own process, because Ray reads its settings once, and in a home that others can open."""
    with TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        ran = python("-c", START, HOME=home)  # the fixture has removed the variables of a token
        *asked, refused = ran.stdout.splitlines()
        assert asked == ["ran", "0 False", "1 True"], ran.stdout + ran.stderr
        rule = "Ray at HEAD, which RAY_ADDRESS names, refuses this machine's token, or was sent none: set RAY_AUTH_MODE=token"
        assert rule in refused
        token = Path(home) / ".ray" / "auth_token"
        assert mode(token) == 0o600
        open_to_all = Path(home) / "note"
        open_to_all.write_text("x")
        if os.getuid() == 0:  # only root can be another user
            assert [read_by_nobody(path) for path in (open_to_all, token)] == [True, False]


def read_by_nobody(path: Path) -> bool:
    reads = f"import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); open({str(path)!r}).read()"
    found = program(["/usr/bin/env", "python3", "-c", reads])
    assert found.returncode == 0 or "PermissionError" in found.stderr, found.stderr
    return found.returncode == 0
