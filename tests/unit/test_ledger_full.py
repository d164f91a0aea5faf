"""A disk that is full cuts nothing in half: the ledger on it is what the search has in mind."""

from contextlib import closing
from pathlib import Path

import pytest

from searches.running.ledger import Ledger, LedgerError
from tests.runs import python

#: Appends until the file may grow no more, as on a full disk; then says what the ledger has in mind.
APPENDING = """
import resource, sys
from pathlib import Path
from searches.running.ledger import Ledger, LedgerError
ledger = Ledger(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
heard = []
ledger.listeners.append(lambda event, state: heard.append(event))
for attempt in range(100):
    try:
        ledger.record({"event": "duplicate", "point": {"lr": attempt}})
    except LedgerError as error:
        reason = error
print(ledger.state.duplicates, len(heard))
print(reason)
"""


def test_a_line_that_does_not_fit_is_cut_off_and_nothing_goes_ahead_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    result = python("-c", APPENDING, str(path))
    assert result.returncode == 0, result.stderr
    counts, reason = result.stdout.splitlines()
    assert reason == (
        f"{path}: cannot be written (File too large); nothing recorded is lost: free some space, then run the same command again"
    )
    text = path.read_text()
    assert text.endswith("}\n")
    assert counts == f"{len(text.splitlines())} {len(text.splitlines())}"
    with closing(Ledger(path)) as again:
        assert again.state.duplicates == len(text.splitlines()) > 3
        again.record({"event": "duplicate", "point": {}})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"file/name/ledger\.jsonl: cannot be written \(Not a directory\)"):
        Ledger(tmp_path / "file" / "name" / "ledger.jsonl")
