"""Losses of a tiny run, stored with the versions that made them and the command that makes them again.

The tolerance of 1e-4 is for other processors and thread counts, whose matrix products round in another order.
"""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from gpt2core.training import train
from tests import toys

STORED = Path(__file__).with_name("losses.json")
COMMAND = "python -m tests.golden.test_losses"


def measured() -> dict[str, list[float]]:
    """Train loss of each epoch, for each adapter."""
    return {
        name: [r.metrics["train_loss"] for r in train(toys.RUN.but(adapter=name), toys.model(), toys.data())]
        for name in ("full", "freeze", "lora")
    }


def test_the_losses_are_those_that_were_stored() -> None:
    stored = json.loads(STORED.read_text())["losses"]
    for name, losses in measured().items():
        assert losses == pytest.approx(stored[name], rel=1e-4), name


if __name__ == "__main__":
    versions = {package: version(package) for package in ("torch", "peft", "tokenizers")}
    STORED.write_text(json.dumps({"command": COMMAND, "versions": versions, "losses": measured()}, indent=2) + "\n")
