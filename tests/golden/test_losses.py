"""Stored losses of a tiny run, to 1e-4 because processors and thread counts round matrix products differently."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import DataOrigin
from gpt2core.data.tokens import tokenised
from gpt2core.tasks import TASKS, TaskData
from gpt2core.testing import toys
from gpt2core.training import train

STORED = Path(__file__).with_name("losses.json")
COMMAND = "python -m tests.golden.test_losses"


def measured() -> dict[str, list[float]]:
    """Train loss of each epoch, for each adapter on sonnets and each other task in full tuning."""
    runs = {name: (toys.RUN.but(adapter=name), toys.data()) for name in ("full", "freeze", "lora")}
    for name in ("sst", "cfimdb", "paraphrase", "pretraining", "poems"):
        runs[name] = (toys.RUN.but(task=name), encoded(name))
    return {
        name: [report.metrics["train_loss"] for report in train(config, toys.model(), data)]
        for name, (config, data) in runs.items()
    }


def encoded(name: str) -> TaskData:
    """Toy rows, of several lengths and two classes, as the task itself encodes them."""
    rows = {
        split: [
            Row(id=str(n), text=toys.lines(2 + n % 3, offset + n), second=toys.lines(1, offset - n), label=n % 2)
            for n in range(40)
        ]
        for split, offset in (("train", 100), ("dev", 1000))
    }
    corpus, words = Corpus(name="toy", origin=DataOrigin(source="random words"), splits=rows), toys.tokenizer()
    splits = {
        split: tokenised(f"{corpus.digest} {split} {name}", rows[split], words, TASKS[name].encode) for split in rows
    }
    return TaskData(corpus=corpus, tokenizer=words, splits=splits)


def test_the_losses_are_those_that_were_stored() -> None:
    stored = json.loads(STORED.read_text())["losses"]
    for name, losses in measured().items():
        assert losses == pytest.approx(stored[name], rel=1e-4), name


if __name__ == "__main__":
    versions = {package: version(package) for package in ("torch", "tokenizers")}
    STORED.write_text(json.dumps({"command": COMMAND, "versions": versions, "losses": measured()}, indent=2) + "\n")
