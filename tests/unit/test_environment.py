"""Environment variables that a search removes or keeps, addresses of clusters, proxies, folders, and the CPUs of a machine."""

import os
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from cluster import connect
from cluster.environment import OURS, settle
from gpt2core import files, machine
from gpt2core.cli import bypass_proxies
from gpt2core.errors import ConfigError


@pytest.mark.parametrize(("name", "value"), [
    ("TUNE_RESULT_DIR", "/elsewhere"), ("RAY_AIR_LOCAL_CACHE_DIR", "/elsewhere"),
    ("RAY_CHDIR_TO_TRIAL_DIR", "0"), ("TUNE_MAX_PENDING_TRIALS_PG", "many"),
    ("TUNE_RESULT_BUFFER_LENGTH", "100"), ("TUNE_GLOBAL_CHECKPOINT_S", "soon"), ("RAY_TRAIN_V2_ENABLED", "0"),
    ("MLFLOW_EXPERIMENT_NAME", "another"), ("MLFLOW_EXPERIMENT_ID", "7"), ("MLFLOW_RUN_ID", "0123"),
    ("OMP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "many"), ("OMP_NUM_THREADS", ""),
])  # fmt: skip
def test_a_variable_that_would_change_a_search_is_removed_with_a_note(name: str, value: str) -> None:
    variables = {name: value, "PATH": "/bin"}
    (line,) = settle(variables)
    assert line.startswith(f"{name} is ignored: ")
    assert variables == {"PATH": "/bin", **OURS}
    assert settle(variables) == [], "once"


def test_harmless_variables_stay() -> None:
    kept = {"OMP_NUM_THREADS": "2,1", "RAY_ADDRESS": "head:6379", "MLFLOW_TRACKING_URI": "http://there", **OURS}
    variables = dict(kept)
    assert settle(variables) == []
    assert variables == kept


@pytest.mark.parametrize("place", ["", "  ", "local"])
def test_an_address_without_a_cluster_is_removed(place: str) -> None:
    variables = {"RAY_ADDRESS": place, "TMPDIR": "", "HOME": "/home/anna"}
    assert settle(variables) == []
    assert variables == {"HOME": "/home/anna", **OURS}


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "Https_Proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("before", [{}, {"NO_PROXY": "a.b,c"}, {"no_proxy": "a.b", "No_Proxy": " c "}])
def test_local_requests_bypass_proxies(monkeypatch: pytest.MonkeyPatch, name: str, before: dict[str, str]) -> None:
    variables = {name: "http://proxy:3128", **before}
    bypass_proxies(variables)
    for key in list(os.environ):
        if key.lower().endswith("_proxy"):
            monkeypatch.delenv(key)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    for host in ("127.0.0.1:8265", "localhost:5000", *(["a.b"] if before else [])):
        assert requests.utils.get_environ_proxies(f"http://{host}/") == {}, host
    assert requests.utils.get_environ_proxies("http://elsewhere/")


@pytest.mark.parametrize("place", [
    *("http://127.0.0.1:8265", "https://head", "ray://head:10001", "foo", "head:", "head:0", "head:99999", ":6379"),
    *("head:port", "::1", "[::1]", "[::1:6379", "head:6379/path", "anna:secret@head:6379"),
])  # fmt: skip
def test_an_invalid_address_is_answered_with_the_rule(place: str) -> None:
    with pytest.raises(ConfigError, match=r"^The value of RAY_ADDRESS is .*, but must be HOST:PORT") as told:
        connect.join_cluster(place)
    assert "secret" not in str(told.value)


@given(st.text(max_size=30))
def test_any_text_as_an_address_is_a_one_line_error(place: str) -> None:
    told = "nothing"
    try:
        connect._check_form(place)
    except ConfigError as error:
        told = str(error)
    assert len(told.splitlines()) == 1


def test_an_unusable_folder_for_temporary_files_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for value, rule in {
        f"/tmp/{'x' * 70}": "is too long for Ray's sockets: 75 bytes, but must be at most",
        f"/tmp/{'ä' * 20}": "is too long for Ray's sockets: 45 bytes",
        "/nowhere": r"cannot be written to \(No such file or directory\)",
        "/dev/null": r"cannot be written to \(Not a directory\)",
        "here": "must be an absolute path",
    }.items():
        for name in ("TMPDIR", "RAY_TMPDIR"):
            with monkeypatch.context() as patched:
                patched.setenv(name, value)
                with pytest.raises(ConfigError, match=rule) as told:
                    connect.check_temporary_folder()
                assert name in str(told.value)
    monkeypatch.setenv("TMPDIR", "/tmp")
    connect.check_temporary_folder()


def test_no_home_is_one_line_that_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GPT2_SEARCH_CACHE")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written .*; set GPT2_SEARCH_CACHE or HOME"):
        files.cache_folder("tokens")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(ConfigError, match="has no home folder: set HOME"):
        files.cache_folder()


def test_a_cache_of_somebody_else_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"Permission denied.*set GPT2_SEARCH_CACHE"):
        files.cache_folder("tokens")
    (tmp_path / "locks" / "one").mkdir(parents=True)
    lock = tmp_path / "locks" / "one"
    with pytest.raises(ConfigError, match=r"cannot be written .*GPT2_SEARCH_CACHE"), files.locked(lock):
        pass


@pytest.mark.parametrize(("own", "limits", "expected"), [
    ("0::/a/b\n", {}, 6),
    ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    ("0::/elsewhere\n", {"cpu.max": "399999 100000\n"}, 3),
    ("3:cpu,cpuacct:/x\n1:memory:/y\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n"}, 1),
    ("3:cpu,cpuacct:/x\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, 6),
    ("3:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "400000\n"}, 4),
    ("what is this", {"cpu.max": "100000 100000"}, 6),
    ("0::/a\n", {"a/cpu.max": "much"}, 6),
])  # fmt: skip
def test_cpus_are_those_that_affinity_and_quotas_allow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, limits: dict[str, str], expected: int
) -> None:
    (tmp_path / "own").write_text(own)
    for place, text in limits.items():
        path = tmp_path / "groups" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if "quota" in path.name:
            path.with_name("cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert machine.cpus() == expected
