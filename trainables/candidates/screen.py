"""The screen of candidate generation: its progress, and at the end how many pairs each filter rejected."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from gpt2core.console import print_exact, print_line
from gpt2core.distill.card import filter_rows, share
from gpt2core.storage import address
from gpt2core.terminal_table import Heading, fitted
from trainables.candidates.job import Job
from trainables.candidates.progress import Progress

EVERY = 3.0  # seconds between two lines if there is no terminal
BARS = {"candidates": "shards generated", "judged": "shards filtered"}  # stage -> label


class Screen:
    """Shows the progress of a job: bars on a terminal, or a line every few seconds."""

    def __init__(self, job: Job, console: Console) -> None:
        self.job, self.console = job, console
        self.next = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Bars(*columns, console=console)
        self.tasks = {stage: self.bars.add_task(label, total=job.shard_count) for stage, label in BARS.items()}
        self.live = Live(self.bars, console=console, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        print_line(self.console, text)

    def __call__(self, progress: Progress) -> None:
        """Show the progress of a round."""
        if self.live.is_started:
            for stage, task in self.tasks.items():
                self.bars.update(task, completed=progress.done[stage])
            text = _waiting(progress) or f"{_rates(progress)}\n{_yields(progress)}"
            self.live.update(Group(self.bars, Text(text)))
        elif time.monotonic() >= self.next or progress.is_filtered:
            self.next = time.monotonic() + EVERY
            self.say(line(progress))


def line(progress: Progress) -> str:
    """Return the progress of a round in one line."""
    waiting = _waiting(progress)
    done = f"{progress.done['judged']} of {progress.shards} shards filtered"
    parts = [done, waiting] if waiting else [done, _rates(progress), _yields(progress)]
    return f"{progress.seconds:5.0f}s  {'; '.join(parts)}"


def _waiting(progress: Progress) -> str:
    return "" if progress.ready else f"waiting for {progress.workers} workers to load the model"


def _rates(progress: Progress) -> str:
    """Return the rows so far by stage, with rows per second."""
    return ", ".join(f"{progress.rows[stage]:,} {stage} ({rate:,.1f}/s)" for stage, rate in progress.rates().items())


def _yields(progress: Progress) -> str:
    """Return the share of pairs so far that is accepted, and the shares that filters rejected; duplicates come at the end."""
    reasons = dict(progress.reasons.get("judged", {}))
    total = max(1, sum(reasons.values()))
    accepted = reasons.pop("accepted", 0)
    rejected = ", ".join(f"{name} {100 * count / total:.1f}%" for name, count in sorted(reasons.items()))
    return f"accepted {100 * accepted / total:.1f}%" + (f", rejected: {rejected}" if rejected else "")


def show(rounds: Sequence[Mapping[str, Any]], folder: Path, console: Console) -> None:
    """Print a table of each round's filters, the critic, and the folder of the results."""
    for entry in rounds:
        pairs = entry["pairs"]["made"]
        title = f"Round {entry['round']}: {entry['generator']}, tau {entry['thresholds']['tau']:g}"
        rows = [
            [name, f"{rejected:,}", f"{100 * rejected / max(1, pairs):.2f}%", f"{left:,}"]
            for name, rejected, left in filter_rows(entry)
        ]
        headings = [Heading("filter"), *(Heading(text, number=True) for text in ("rejected", "of all pairs", "left"))]
        print_line(console, title, "bold")
        console.print(fitted(headings, [list(map(Text, row)) for row in rows], console.width))
        print_line(
            console,
            f"Contexts: {entry['contexts']['made']:,}; candidates: {entry['candidates']['made']:,}; pairs: {pairs:,}; "
            f"accepted {share(entry['accepted'], pairs)}; hard negatives: {entry['negatives']:,}; "
            f"quarantined rows: {entry['quarantined']['rows']:,}",
        )
    critic = rounds[-1]["critic"]
    model = f" ({critic['model']})" if critic.get("model", "none") != "none" else ""
    warning = f": {rounds[-1]['stand_in']}" if rounds[-1]["stand_in"] else ""
    print_line(console, f"Critic: {critic['critic']}{model}{warning}")
    print_exact(console, f"Results: {address(folder)}")
    print_exact(console, f"Data card: {folder / 'README.md'}")
