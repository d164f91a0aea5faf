"""Wheel and source distribution: complete, without tests, and a command that works outside of the repository."""

import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.runs import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("cluster", "gpt2core", "searches", "trainables")
INSIDE = {".html", ".js", ".css", ".json", ".safetensors"}  # kinds of files that the code reads from its own folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made from the files that git has or would add, as from a clean copy."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_twine_accepts_both(built: Path) -> None:
    files = [str(path) for path in built.iterdir()]
    assert len(files) == 2
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True, capture_output=True)


def test_they_have_all_of_the_packages_and_no_tests(built: Path, wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    needed = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or (path.suffix in INSIDE and package != "cluster")
    }
    assert needed <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "examples/"))]
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert needed <= inside
    assert not [name for name in inside if name.startswith("tests/")]


def test_the_command_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    def run(*words: str) -> str:
        command = [sys.executable, str(site / "bin" / "gpt2-search"), *words]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)}
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "12 trials (3 for each of 4 values of rank)" in run("run", "lora_rank", "--plan")
    assert "Total parameters: 2,664,576" in run("describe", "--model", "gpt2-nano")
