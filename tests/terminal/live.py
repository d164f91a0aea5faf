"""Shows the first half of a search as if it ran now, always at the same moment, on this terminal: argument STORAGE."""

import os
import subprocess
import sys
import time
from pathlib import Path

from gpt2core.console import console
from searches.running.budget import Budget
from searches.running.events import Event
from searches.running.ledger import State, read_state
from searches.showing.screen import Screen
from tests.ledgers import options_of
from tests.terminal.tmux import READY


def main(storage: Path) -> None:
    """Apply the events, then wait until the terminal is closed."""
    events: list[Event] = []
    read_state(storage / "searches" / "whole" / "ledger.jsonl", lambda event, state: events.append(event))
    state = State()
    view = Screen(options_of(8, storage).plan, console(200), Budget(), state)
    view.link = "MLflow: http://127.0.0.1:5000/#/experiments/1"
    time.time = lambda: state.clock.last or 0.0
    time.monotonic = lambda: view.started + time.time()
    with view:
        for event in events[: len(events) // 2]:
            state.apply(event)
            view(event, state)
        if view.live.is_started:
            view.live.refresh()
            subprocess.run(os.environ[READY], shell=True, check=True)
            sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
