"""The mailbox of a search: commands that are none, are for another start, or come while no trial runs."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from gpt2core.errors import ConfigError, UserError
from searches.running import control
from searches.running.control import LARGEST, OPEN, Command, Control, Mailbox, ask
from searches.running.ledger import Ledger, read_state
from searches.running.ray_tune import StrategyScheduler, StrategySearcher
from tests.unit.test_searcher import made


class Desk:
    """A searcher with a mailbox that is open, and what it has said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.searcher: StrategySearcher = made(self.ledger, folder)
        self.box = Mailbox(folder / "control", self.said.append)
        self.control = Control(self.box, StrategyScheduler(self.searcher), self.said.append)
        self.box.open()

    def put(self, name: str, written: str | bytes) -> Path:
        self.box.folder.mkdir(exist_ok=True)
        path = self.box.folder / name
        path.write_bytes(written if isinstance(written, bytes) else written.encode())
        return path

    def give(self, number: int = 1, **values: Any) -> Path:
        """Put a command there, for this start where nothing else is said."""
        return self.put(f"{number}-1.json", json.dumps({"start": self.box.start, **values}))

    def answer(self, path: Path) -> str:
        """What became of a command, as it is printed."""
        told = json.loads(path.with_suffix(".answer").read_text())
        return f"error: {told['text']}" if told["refused"] else str(told["text"])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(control, "EVERY", 0.0)
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def test_a_pause_before_the_first_trial_is_undone(desk: Desk) -> None:
    """Then Tune makes no step: it asks for a trial, again and again."""
    first = desk.give(command="pause")
    assert desk.searcher.suggest("a") is None
    assert desk.answer(first).startswith("the search is paused")
    assert desk.searcher.suggest("a") is None
    second = desk.give(2, command="resume")
    assert desk.searcher.suggest("a") is not None
    assert desk.answer(second) == "the search continues"


@pytest.mark.parametrize(("values", "why"), [
    ({"command": "stop", "trial": "0001", "event": "ended"}, "`event`"),
    ({"command": "clone", "trial": "0000", "set": "abc"}, "`set`"),
    ({"command": "clone", "trial": "0000", "set": {"lr": [1]}}, "`set.lr"), ({"command": "fly"}, "`command`"),
    ({"command": ["stop"]}, "`command`"), ({}, "`command`: field required"),
    ({"command": "stop", "trial": 1}, "`trial`"), ({"command": "stop", "trial": "x" * 1000}, "`trial`"),
    ({"command": "stop"}, "needs a trial"), ({"command": "pause", "trial": "0000"}, "takes no trial"),
    ({"command": "pause", "set": {"lr": 1}}, "takes no --set"), ({"command": "pause", "time": 1}, "`time`"),
    ({"command": "stop", "trial": "../../x"}, "Unknown trial"),
    ({"command": "pause", "start": "another"}, "another start"),
    ({"command": "pause", "start": None}, "another start"),
])  # fmt: skip
def test_what_is_no_command_is_answered_and_reaches_no_ledger(desk: Desk, values: dict[str, Any], why: str) -> None:
    desk.searcher.suggest("a")
    path, before = desk.give(**values), desk.ledger.path.read_bytes()
    desk.control.look()
    assert why in desk.answer(path)
    assert desk.answer(path).startswith("error: ")
    assert not path.exists()
    assert not desk.searcher.paused
    assert desk.ledger.path.read_bytes() == before
    assert len(desk.said) == 1


@pytest.mark.parametrize("written", [
    b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b"[" * 50_000, b" " * (LARGEST + 1),
    b'{"start":' + b"9" * 5000 + b"}",
])  # fmt: skip
def test_a_damaged_file_is_passed_over_in_one_line(desk: Desk, written: bytes) -> None:
    path = desk.put("1-1.json", written)
    good = desk.give(2, command="pause")
    desk.control.look()
    assert "is not a valid command and is ignored" in desk.said[0]
    assert desk.answer(path).startswith("error: ")
    assert desk.answer(good).startswith("the search is paused")
    desk.control.look()
    assert len(desk.said) == 2


def test_what_is_no_file_of_a_command_stays_and_is_said_once(desk: Desk) -> None:
    (desk.box.folder / "1-1.json").mkdir()
    (desk.box.folder / "2-1.json").symlink_to(desk.ledger.path)
    os.mkfifo(desk.box.folder / "3-1.json")
    (desk.box.folder / "4-1.json").symlink_to(desk.folder / "nowhere")
    desk.put("notes.txt", "x")
    desk.put("\x1b[2J.json", "{}")
    good = desk.give(5, command="pause")
    for _ in range(3):
        desk.control.look()
    assert desk.answer(good).startswith("the search is paused")
    assert len(desk.said) == 6 + 1
    assert {path.name for path in desk.box.folder.iterdir()} >= {
        "1-1.json", "2-1.json", "3-1.json", "4-1.json", "notes.txt",
    }  # fmt: skip


def test_a_mailbox_that_is_no_folder_ends_no_search(desk: Desk) -> None:
    (desk.box.folder / OPEN).unlink()
    desk.box.folder.rmdir()
    desk.box.folder.write_text("x")
    desk.control.look()
    assert desk.searcher.suggest("a") is not None
    desk.box.close()


def test_a_command_that_cannot_be_removed_is_carried_out_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    desk.give(command="pause")
    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(3):
        desk.control.look()
    monkeypatch.undo()
    assert [said for said in desk.said if "is paused" in said] == [desk.said[0]]


def test_what_nobody_took_is_carried_out_by_no_later_start(desk: Desk) -> None:
    left = desk.give(command="pause")
    desk.box.open()
    assert not left.exists()
    desk.control.look()
    assert not desk.searcher.paused
    assert desk.said == ["the command 1-1.json was sent to an earlier start of the search and is dropped"]


def test_at_the_end_whoever_waits_is_answered(desk: Desk) -> None:
    path = desk.give(command="pause")
    desk.box.close()
    assert desk.answer(path) == "error: The search runs no more trials"
    with pytest.raises(UserError, match="is starting or finishing and runs no trials"):
        ask_within(desk.box, 0.2, {"command": "pause"})


def ask_within(box: Mailbox, seconds: float, command: dict[str, Any]) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(control, "PATIENCE", seconds)
        return ask(box, command)


def test_a_command_without_an_answer_is_taken_back(desk: Desk) -> None:
    words = r"has not answered within 0.2 s: .* The command was withdrawn and has no effect"
    with pytest.raises(UserError, match=words):
        ask_within(desk.box, 0.2, {"command": "pause"})
    assert [path.name for path in desk.box.folder.iterdir()] == [OPEN]


def test_a_search_that_does_not_run_is_said_at_once_and_gets_no_command(desk: Desk) -> None:
    desk.ledger.close()  # as after a kill: it is still said to take commands
    with pytest.raises(UserError, match="is not running: there is nothing to control"):
        ask(desk.box, {"command": "pause"})
    assert [path.name for path in desk.box.folder.iterdir()] == [OPEN]


def test_an_answer_comes_to_who_asked(desk: Desk) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            desk.control.look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ask(Mailbox(desk.box.folder), {"command": "pause"}).startswith("the search is paused")
        with pytest.raises(UserError, match="Unknown trial"):
            ask(Mailbox(desk.box.folder), {"command": "stop", "trial": "0009"})
    finally:
        stop.set()
        thread.join()
    assert [path.name for path in desk.box.folder.iterdir()] == [OPEN]


json_values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.floats()
    | strategies.integers()
    | strategies.text(max_size=4),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=4), inner),
    max_leaves=4,
)
commands = strategies.fixed_dictionaries(
    {},
    optional={
        "command": strategies.sampled_from(["stop", "clone", "pause", "resume", "x"]) | json_values,
        "trial": strategies.sampled_from(["0000", "0001", ""]) | json_values,
        "set": strategies.dictionaries(strategies.sampled_from(["lr", "rank", "x"]), json_values, max_size=2)
        | json_values,
        "event": json_values,
        "start": json_values,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.lists(commands.map(json.dumps).map(str.encode) | strategies.binary(max_size=20), max_size=4))
def test_whatever_is_in_the_mailbox_the_search_goes_on_and_its_ledger_is_read(desk: Desk, found: list[bytes]) -> None:
    for number, written in enumerate(found, start=1):
        with_start = written.replace(b"{", b'{"start": "%s",' % desk.box.start.encode(), 1)
        desk.put(f"{number}-1.json", written if number % 2 else with_start)
    desk.control.look()
    assert sorted(path.suffix for path in desk.box.folder.iterdir()) == [".answer"] * len(found) + [".json"]
    for path in desk.box.folder.glob("*.answer"):
        assert isinstance(desk.answer(path), str)
        path.unlink()
    desk.box.ignored.clear()
    assert read_state(desk.ledger.path) == desk.ledger.state


def test_a_command_is_checked_before_it_is_given(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="The command `stop` needs a trial: stop TRIAL"):
        ask(desk.box, {"command": "stop"})
    assert Command.of({"command": "clone", "trial": "0000", "set": {"lr": "0.1", "pairs": None}}).set["pairs"] is None
