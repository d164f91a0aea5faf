"""Run a search script as its users do, and read what it left."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LORA_RANK = [sys.executable, "searches/lora_rank.py"]


def search(storage: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run searches/lora_rank.py to its end."""
    command = [*LORA_RANK, "--storage", str(storage), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def summary(storage: Path, name: str) -> dict[str, Any]:
    """Read summary.json."""
    return dict(json.loads((storage / "searches" / name / "summary.json").read_text()))


def events(storage: Path, name: str, kind: str) -> list[dict[str, Any]]:
    """Read the events of one kind from a ledger."""
    lines = (storage / "searches" / name / "ledger.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]
