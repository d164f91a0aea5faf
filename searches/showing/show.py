"""The command `show`: a search from its question to its answer, and the commands that go on from there."""

import argparse
import time
from datetime import datetime

from gpt2core.cli import command_text, import_flags, print_json
from gpt2core.console import console, print_exact, print_line
from searches.planning.plan_table import progress_text
from searches.result_files import LEDGER
from searches.running.ledger import RUNNING, status_of
from searches.showing import screen
from searches.showing.as_json import results_json
from searches.showing.facts import commands
from searches.showing.summary import reopened, summarise
from searches.showing.tables import print_table


def show(options: argparse.Namespace) -> int:
    """Print a search, running or not, from its ledger. Raises UserError."""
    folder, state, search_options = reopened(options)
    summary, now = summarise(search_options, state, folder), time.time()
    if options.json:
        print_json(results_json(search_options, state, summary, now))
        return 0
    plan, terminal = search_options.plan, console(200, wide=options.wide)
    print_line(terminal, f"{options.name}: {summary.question}", "bold")
    status = status_of(folder / LEDGER, state)
    progress = progress_text(plan, search_options.budget, state, now) if status == RUNNING else ""
    print_line(terminal, f"Status: {status} {progress}".strip())
    print_line(terminal, f"Last event: {datetime.fromtimestamp(state.clock.last or 0):%Y-%m-%d %H:%M}")
    print_table(terminal, screen.keys_table(plan))
    for line in screen.plan_texts(plan):
        print_line(terminal, line)
    screen.show(summary, terminal)
    storage = ["--storage", options.storage] if options.storage else []
    report = f"gpt2-search report {command_text([options.name, *storage, *import_flags(options.imports)])}"
    for purpose, command in {**commands(search_options), "write its report": report}.items():
        print_exact(terminal, f"To {purpose}:\n  {command}")
    return 0
