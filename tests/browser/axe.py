"""The accessibility checker axe-core, from npm's registry; it is kept in build/, never in the repository."""

import hashlib
import shutil
import subprocess
import tarfile
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.runs import ROOT

VERSION = "4.10.3"
SHA256 = "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"
FOLDER = ROOT / "build" / "axe-core"


def axe_script() -> str:
    """The script of axe-core; without npm or its registry, the test is skipped."""
    package = FOLDER / f"axe-core-{VERSION}.tgz"
    if not package.exists():
        if not shutil.which("npm"):
            pytest.skip("there is no npm to fetch axe-core with: apt-get install npm")
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(FOLDER)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot fetch axe-core: {done.stderr[-200:]}")
    assert hashlib.sha256(package.read_bytes()).hexdigest() == SHA256, f"{package} is not the one that was reviewed"
    with tarfile.open(package) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member
        return member.read().decode()


def violations(browser: Chrome, script: str) -> list[dict[str, Any]]:
    """What axe-core finds in the page that is open: rule, and markup of each place."""
    browser.execute_script(script)
    browser.set_script_timeout(120)
    found = browser.execute_async_script("axe.run(document).then((result) => arguments[0](result.violations))")
    return [{"rule": rule["id"], "places": [node["html"][:200] for node in rule["nodes"]]} for rule in found]
