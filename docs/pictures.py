"""Take the pictures of the documentation from a search that ran: `python -m docs.pictures runs lora_rank-quick`."""

import sys
import tempfile
from pathlib import Path

from tests.browser.chromium import chromium, show

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1100, 760


def main(storage: Path, name: str) -> None:
    """Photograph the top of the search's report."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        show(browser, (storage / "searches" / name / "report.html").resolve().as_uri(), WIDTH, HEIGHT)
        browser.save_screenshot(str(IMAGES / "report.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
