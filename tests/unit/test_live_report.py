"""`report --watch`: a page on loopback that follows a growing ledger, behind a token, until Ctrl-C."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from searches.__main__ import main
from tests.ledgers import options_of, write_ledger
from tests.runs import ROOT, status
from tests.waiting import PATIENCE, wait_until

WHOLE, PART = 8, 40  # trials of the search, and lines of its ledger at first


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """The command over a part of a ledger, the ledger, and its other lines."""
    options = options_of(WHOLE, tmp_path, "--name", "grows", "--sampler", "random")
    ledger = options.results_folder / "ledger.jsonl"
    write_ledger(options, ledger.parent, texts=2)
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:PART]))
    command = [sys.executable, "-m", "searches", "report", "grows", "--storage", str(tmp_path), "--watch"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        yield process, ledger, "".join(lines[PART:])
        process.kill()


def asked(link: str, tag: str = "") -> tuple[int, Message, str]:
    request = urllib.request.Request(link, headers={"If-None-Match": tag} if tag else {})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_follows_the_ledger_behind_a_token(growing: tuple[subprocess.Popen[str], Path, str]) -> None:
    process, ledger, rest = growing
    assert process.stdout
    link = re.search(r"http://127\.0\.0\.1:\d+/\S{20,}/", process.stdout.readline())
    assert link
    code, headers, page = asked(link[0])
    assert code == 200
    assert '<p class="claim">Not decided' in page
    tag = headers["ETag"]
    assert asked(link[0], tag)[0] == 304
    for wrong in (link[0][:-3], link[0].rsplit("/", 2)[0] + "/", link[0] + "x"):
        assert asked(wrong)[0] == 404
    with ledger.open("a") as file:
        file.write(rest)
    wait_until(lambda: asked(link[0], tag)[0] == 200, process)
    _, headers, page = asked(link[0])
    assert "connect-src 'self'" in page
    assert f"data-version={headers['ETag']}" in page
    written = ledger.with_name("report.html").read_text()
    assert "connect-src" not in written, "the file needs no server"
    assert f"{WHOLE - 1:04d}</th>" in written
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert said == f"\nNo longer served. The report so far: {ledger.with_name('report.html')}\n"


def test_a_page_waits_for_the_first_trial(growing: tuple[subprocess.Popen[str], Path, str], tmp_path: Path) -> None:
    ledger = growing[1].parents[1] / "begins" / "ledger.jsonl"
    ledger.parent.mkdir()
    ledger.touch()
    command = [sys.executable, "-m", "searches", "report", "begins", "--storage", str(tmp_path), "--watch"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == f"{ledger.parent}: the search has no trial yet; its report follows\n"
        ledger.write_text(growing[1].read_text())
        assert process.stdout.readline().startswith("Report: http://127.0.0.1:")
        process.kill()


def test_a_page_that_follows_is_not_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, ["report", "x", "--storage", str(tmp_path), "--watch", "--json"]) == 2
    assert "`--watch` serves a page, but `--json` prints values; give only one" in capsys.readouterr().out
