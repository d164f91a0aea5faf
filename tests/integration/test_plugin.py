"""A package of own parts: the example is installed, passes its contracts, and takes part in a search outside of the project."""

import json
import shutil
from pathlib import Path

import pytest

from cluster.connect import connect
from gpt2core.errors import UserError
from tests import plugins
from tests.runs import ROOT, events, python, summary

PLUGIN = ROOT / "examples" / "bitfit-plugin"
SEARCH = ("-m", "searches.lora_rank", "--smoke", "--trials", "4", "--replicates", "0", "--storage", "runs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, as pip installs it."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source")
    flags = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "site"))
    done = python("-m", "pip", "install", *flags, str(folder / "source"))
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(site: Path, folder: Path, *command: str) -> str:
    done = python(*command, cwd=folder, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_its_own_tests_pass(site: Path) -> None:
    flags = ("-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(site))
    assert "passed" in run(site, site, "-m", "pytest", *flags, str(PLUGIN / "tests"))


def test_its_parts_are_listed(site: Path, tmp_path: Path) -> None:
    listed = json.loads(run(site, tmp_path, "-m", "searches", "parts", "--json"))
    mine = [
        (row["kind"], row["name"], row["keys"]) for row in listed["parts"] if row["origin"] == "bitfit-plugin 0.1.0"
    ]
    assert [row[:2] for row in mine] == [("adapter", "bitfit"), ("decoder", "epsilon")]
    assert mine[0][2] == ["biases"]
    assert not listed["problems"]


def test_a_ray_that_runs_without_a_module_is_refused(local_ray: None) -> None:
    with pytest.raises(
        UserError, match=r"Ray already runs without the modules my_parts: call `ray.shutdown\(\)` first"
    ):
        connect(imports=["my_parts"])


@pytest.mark.slow
def test_workers_of_a_search_find_the_parts_of_packages_and_modules(site: Path, tmp_path: Path) -> None:
    """A module is found on workers, but no command imports it because a ledger names it."""
    (tmp_path / "my_parts.py").write_text(f'{plugins.TOP}\nADAPTERS["top"] = TOP\n')
    space = ("--search", "adapter=bitfit,top", "--search", "biases=all,query+middle", "--set", "decoder=epsilon")
    run(site, tmp_path, *SEARCH, *space, "--import", "my_parts")
    name = "lora_rank-smoke"
    trials = summary(tmp_path / "runs", name)["trials"]
    assert {row["point"]["adapter"] for row in trials if row["status"] == "completed"} == {"bitfit", "top"}
    (started,) = events(tmp_path / "runs", name, "started")
    own = started["environment"]["own parts"]
    assert "adapter bitfit (bitfit-plugin 0.1.0)" in own
    assert "adapter top (module my_parts, SHA-256 " in own
    report = ("-m", "searches", "report", name, "--storage", "runs")
    refused = python(*report, cwd=tmp_path, PYTHONPATH=str(site))
    assert refused.returncode == 2
    assert "This search uses the module `my_parts`, whose code would run: give --import my_parts" in refused.stderr
    assert "Report: " in run(site, tmp_path, *report, "--import", "my_parts")
