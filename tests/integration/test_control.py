"""A search that runs is stopped in part, cloned, paused and resumed from another process."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2core.errors import UserError
from searches.running.control import Mailbox, ask
from searches.running.ledger import RawEvent
from tests import runs
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

EPOCHS = 15  # so many that a trial still runs when its command comes


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A search of trials that are long enough to be caught, one at a time."""
    storage = tmp_path_factory.mktemp("storage")
    flags = ["--smoke", "--trials", "2", "--max-concurrent", "1", "--scheduler", "none", "--set", f"epochs={EPOCHS}"]
    command = [*runs.LORA_RANK, "--storage", str(storage), "--replicates", "0", *flags]
    process = subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    yield process, storage
    process.kill()
    process.communicate()


def events(storage: Path, kind: str) -> list[RawEvent]:
    path = storage / "searches" / "lora_rank-smoke" / "ledger.jsonl"
    return runs.events(storage, "lora_rank-smoke", kind) if path.exists() else []


def ended(process: subprocess.Popen[str]) -> str:
    return process.communicate()[1] if process.poll() is not None else "it still runs"


def control(storage: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return runs.python("-m", "searches", "control", "lora_rank-smoke", "--storage", str(storage), *words)


def test_a_running_search_obeys(search: tuple[subprocess.Popen[str], Path]) -> None:
    process, storage = search
    mailbox = Mailbox(storage / "searches" / "lora_rank-smoke" / "control")

    def reported(trial: str) -> list[int]:
        return [event["epoch"] for event in events(storage, "report") if event["trial"] == trial]

    wait_until(lambda: reported("0000"), process, lambda: ended(process))
    assert "trial 0000-c1 starts from trial 0000" in control(storage, "clone", "0000", "--set", "lr=0.01").stdout
    assert ask(mailbox, {"command": "stop", "trial": "0000"}) == "trial 0000 is stopped"
    wait_until(lambda: len(events(storage, "ended")) == 1, process, lambda: ended(process))

    wait_until(lambda: reported("0000-c1"), process, lambda: ended(process))
    assert "the search is paused" in ask(mailbox, {"command": "pause"})
    with pytest.raises(UserError, match="Unknown trial `0009`: did you mean `0000`"):
        ask(mailbox, {"command": "stop", "trial": "0009"})
    with pytest.raises(UserError, match="The value of `lr` is 'x', but must be a number"):
        ask(mailbox, {"command": "clone", "trial": "0000", "set": {"lr": "x"}})
    assert [event["trial"] for event in events(storage, "ended")] == ["0000"], "what is paused has not ended"
    assert ask(mailbox, {"command": "resume"}) == "the search continues"
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors

    found = {row["id"]: row for row in runs.summary(storage, "lora_rank-smoke")["trials"]}
    assert (found["0000"]["status"], found["0000"]["reason"]) == ("stopped", "stopped by hand")
    assert found["0000"]["epochs"] < EPOCHS
    assert found["0000-c1"]["status"] == "completed"
    assert found["0000-c1"]["config"]["lr"] == 0.01
    assert found["0000-c1"]["parent"] == "0000"
    inherited = found["0000-c1"]["curve"][0]
    assert inherited["train_loss"] == found["0000"]["curve"][0]["train_loss"], "it starts from those weights"
    assert sorted(reported("0000-c1")) == list(range(1, EPOCHS + 1)), "each epoch once"
    assert found["0001"]["status"] == "completed"
    with pytest.raises(UserError, match="The command `pause` takes no trial"):
        ask(mailbox, {"command": "pause", "trial": "0000"})
    assert [event["command"] for event in events(storage, "control")] == ["clone", "stop", "pause", "resume"]


def test_controlling_a_finished_search_fails_and_leaves_no_files(search: tuple[subprocess.Popen[str], Path]) -> None:
    """The one that the test before has run to its end."""
    process, storage = search
    assert process.poll() == 0
    box = storage / "searches" / "lora_rank-smoke" / "control"
    before = sorted(path.name for path in box.iterdir())
    told = control(storage, "pause")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.endswith("is not running: there is nothing to control\n")
    assert sorted(path.name for path in box.iterdir()) == before == []
