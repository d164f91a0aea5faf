"""A small real search as a process of its own, to be disturbed: a toy model, a toy corpus, some seconds for all its trials."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from gpt2core.config import RunConfig
from gpt2core.testing import toys
from tests import course
from tests.runs import ROOT, program
from tests.waiting import PATIENCE, wait_until

NAME = "toy"
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
EPOCHS = 4
SETTINGS = (f"epochs={EPOCHS}", "dev_examples=30")


def make_toy(folder: Path, train: int = 600, dev: int = 30) -> Path:
    """Write a toy model and a toy corpus with so many rows into a folder; return the folder."""
    toys.folder(folder / "model")
    for split, rows in (("train", train), ("dev", dev)):
        lines = [(f"{split}{n}", f"{course.FILMS[n % 5]} {n}", n % 5) for n in range(rows)]
        course.sentiment(folder / "data" / "sst" / f"ids-sst-{split}.csv", lines)
    return folder


def lora_run(folder: Path) -> RunConfig:
    """Write a small toy into a folder; return a LoRA run on it."""
    toy = make_toy(folder, train=60, dev=20)
    data = {"task": "sst", "model": str(toy / "model"), "data_dir": str(toy / "data")}
    return RunConfig(**data, adapter="lora", rank=4, lr=3e-3)


def command(storage: Path | str, toy: Path, *flags: str) -> list[str]:
    """The command of a search of six trials, two at once, and its two replicates, unless `flags` say otherwise."""
    told = ["--storage", str(storage), "--model", str(toy / "model"), "--data-dir", str(toy / "data"), "--name", NAME]
    size = ["--trials", "6", "--replicates", "1", "--max-concurrent", "2"]
    given = {word.partition("=")[0] for word in flags}
    own = [setting for setting in SETTINGS if setting.partition("=")[0] not in given]
    settings = [word for setting in own for word in ("--set", setting)]
    return [sys.executable, "searches/sentiment.py", *told, *size, *settings, *flags]


def finished(storage: Path, toy: Path, *flags: str) -> str:
    done = program(command(storage, toy, *flags), **ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Search:
    def __init__(self, storage: Path, toy: Path, *flags: str) -> None:
        self.storage, self.words = storage, command(storage, toy, *flags)
        self.folder = storage / "searches" / NAME
        storage.mkdir(parents=True, exist_ok=True)
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.reported = len(self.events("report"))  # before this start
        with self.output.open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(self.words, cwd=ROOT, stdout=out, stderr=errors, env=ENVIRONMENT)

    @property
    def output(self) -> Path:
        return self.storage / f"output-{self.starts}.txt"

    @property
    def errors(self) -> Path:
        return self.storage / f"errors-{self.starts}.txt"

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        path = self.folder / "ledger.jsonl"
        text = path.read_text() if path.exists() else ""
        events = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
        return [event for event in events if event["event"] in kinds]

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "summary.json").read_text()))

    def wait_for(self, reached: Callable[[], bool]) -> bool:
        """Wait for what a file shows; False where the search ended without it."""
        wait_until(lambda: reached() or self.process.poll() is not None, said=self.errors.read_text)
        return reached()

    def ends(self, status: int) -> str:
        """Wait for its end, which is to be of that status; return what it wrote to stderr."""
        found = self.process.wait(PATIENCE)
        assert found == status, f"{found}: {self.output.read_text()}{self.errors.read_text()}"
        return self.errors.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def below(self) -> dict[int, str]:
        """Its processes and their names, without itself and Ray's agents, which look once a minute whether they are needed."""
        names = {child.pid: name_of(child) for child in psutil.Process(self.process.pid).children(recursive=True)}
        return {pid: name for pid, name in names.items() if not name.endswith("Agent")}


@contextmanager
def frozen(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Stop a driver while it is disturbed, so that its work cannot end first."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def kill(pids: list[int]) -> None:
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def left(pids: Iterable[int]) -> list[psutil.Process]:
    """Those of some processes that are still there after a while."""
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [process for process in psutil.wait_procs(there, timeout=30)[1] if process.status() != "zombie"]


def name_of(process: psutil.Process) -> str:
    """The first word of its command; Ray's actors put their names there. Nothing for one that has just ended."""
    try:
        return next(iter(process.cmdline()), "")
    except psutil.Error:
        return ""
