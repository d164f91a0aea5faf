"""The word that a search has ended, to a server and to a command."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gpt2core.errors import ConfigError
from searches.driver.notify import message, notify
from searches.flags import without
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.summary import Summary
from tests import summaries

TEXT = json.dumps({"text": "done"})


def test_the_message_has_a_line_for_people_and_the_answer_for_programs(tmp_path: Path) -> None:
    options = parse(SEARCH, ["--storage", str(tmp_path), "--name", "mine"])
    summary = Summary.model_validate(summaries.summary(4))
    told = json.loads(message(options, summary, "FINISHED"))
    assert told["text"] == f"mine has ended: {summary.answer.claim}"
    assert (told["status"], told["outcome"], told["answer"]) == ("finished", "undecided", summary.answer.text)
    assert told["report"] == str(tmp_path / "searches" / "mine" / "report.html")
    assert json.loads(message(options, summary, "KILLED"))["text"].startswith("mine was interrupted: It can go on")


def test_a_server_gets_the_message_as_json() -> None:
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Type"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        notify(f"http://127.0.0.1:{server.server_port}/hook", TEXT, warn=pytest.fail)
        answering.join()
    assert got == [("application/json", TEXT.encode())]


def test_a_command_gets_the_message_on_standard_input_and_no_shell_reads_it(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        notify("tee 'two words' && touch", TEXT, warn=pytest.fail)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ["two words", "&&", "touch"], TEXT
    )


@pytest.mark.parametrize(("receiver", "words"), [
    ("http://me:secret@127.0.0.1:9/x", "could not be notified: "),
    ("false", "false could not be notified: "),
])  # fmt: skip
def test_a_receiver_that_fails_is_a_warning_without_its_password(receiver: str, words: str) -> None:
    said: list[str] = []
    notify(receiver, TEXT, said.append)
    assert len(said) == 1
    assert words in said[0]
    assert "secret" not in said[0]


@pytest.mark.parametrize("receiver", ["ftp://host/x", "no-such-command --flag", "'unclosed", ""])
def test_a_receiver_is_checked_before_the_search_begins(receiver: str) -> None:
    with pytest.raises(ConfigError, match="The value of `--notify` is "):
        parse(SEARCH, ["--notify", receiver])


def test_its_address_is_left_out_of_what_is_recorded() -> None:
    assert without(["--notify", "https://hooks/secret", "--trials", "3"], "--notify") == ["--trials", "3"]
