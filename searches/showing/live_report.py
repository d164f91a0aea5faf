"""The page of `report --watch`: served on loopback, drawn again when the ledger grows; the page then reloads itself.

Another user of this machine can reach the port, so the path of the page is a random token.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gpt2core.storage import address
from searches.result_files import REPORT
from searches.running.ledger import NoTrialYetError
from searches.showing import report
from searches.summary import Summary

PAUSE = 2.0  # seconds between two looks at the ledger
SHARE = 5.0  # times that drawing took; the least pause after it, so that drawing slows no trial


class PageServer(ThreadingHTTPServer):
    """Serves one page, which may change, at a random path of a free port on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.path = f"/{secrets.token_urlsafe(16)}/"
        self.page, self.tag = b"", ""

    @property
    def link(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"

    def show(self, values: dict[str, Any]) -> None:
        """Serve the report of other values from now on."""
        version = hashlib.sha256(report.page(values).encode()).hexdigest()[:16]
        self.page, self.tag = report.page(values, version).encode(), f'"{version}"'


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        """Answer with the page."""
        if not secrets.compare_digest(self.path, self.server.path):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        page, tag = self.server.page, self.server.tag
        same = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if same else HTTPStatus.OK)
        for name, value in (("ETag", tag), ("Cache-Control", "no-cache"), ("Referrer-Policy", "no-referrer")):
            self.send_header(name, value)
        if not same:
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if not same and self.command == "GET":
            self.wfile.write(page)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def watch(ledger: Callable[[], Path], summarised: Callable[[], Summary]) -> int:
    """Write the report and serve it until Ctrl-C, again whenever the ledger has grown. Raises UserError."""
    path = ledger().with_name(REPORT)
    with PageServer() as server:
        try:
            seen, took = _draw_first(server, ledger, summarised)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            print(f"Report: {server.link} (it follows the search until Ctrl-C)", flush=True)
            while True:
                threading.Event().wait(max(PAUSE, SHARE * took))
                if (size := ledger().stat().st_size) != seen:
                    seen, took = size, _draw(server, path.parent, summarised)
        except KeyboardInterrupt:
            print(f"\nNo longer served. The report so far: {address(path)}", flush=True)
        finally:
            threading.Thread(target=server.shutdown, daemon=True).start()
    return 0


def _draw_first(server: PageServer, ledger: Callable[[], Path], summarised: Callable[[], Summary]) -> tuple[int, float]:
    """Draw when the search has a trial, and say first if it has none yet; return the ledger's size and the seconds it took."""
    said = False
    while True:
        try:
            seen = ledger().stat().st_size
            return seen, _draw(server, ledger().parent, summarised)
        except NoTrialYetError as error:
            if not said:
                print(f"{error}; its report follows", flush=True)
            said = True
            threading.Event().wait(PAUSE)


def _draw(server: PageServer, folder: Path, summarised: Callable[[], Summary]) -> float:
    """Write and serve the report; return the seconds that this took."""
    began = time.monotonic()
    values = report.view(summarised())
    report.save(folder, values)
    server.show(values)
    return time.monotonic() - began
