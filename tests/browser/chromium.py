"""A real Chromium without a window, driven by selenium; what it asked of the network and said on its console is kept."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from tests.runs import ROOT
from tests.waiting import PATIENCE

SCREENSHOTS = ROOT / "build" / "screenshots"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
INSTALL = "there is no Chromium to look at pages with: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER), log_output=os.devnull))
    try:
        yield driver
    finally:
        driver.quit()


def show(browser: Chrome, address: str, width: int, height: int = 900) -> None:
    """Open a page in a window of a size; what was logged before is forgotten."""
    size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    # On a busy machine the driver has been seen to return before the page was whole.
    WebDriverWait(browser, PATIENCE).until(lambda page: page.execute_script("return document.readyState") == "complete")


def requests(browser: Chrome) -> list[str]:
    """The addresses that the page has asked for since it was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def photograph(browser: Chrome, name: str, *, whole: bool = False) -> None:
    """Keep a picture of what is seen, or of the whole page, in build/screenshots/."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    if whole:
        height, width = browser.execute_script("return [document.documentElement.scrollHeight, innerWidth]")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
