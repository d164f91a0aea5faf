"""Time trials of a head alone with a stored trunk, and with the trunk run each time: python -m tests.benchmarks.activations.

All run in one process, with different learning rates; making the store counts. Weights and tokens are random, lengths are SST's.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from gpt2core import activations
from gpt2core.config import RunConfig
from gpt2core.training import train
from tests.benchmarks.compare import Comparison, differs, show
from tests.benchmarks.shapes import SHAPES, lengths_of, random_model, random_texts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=20)
    options.add_argument("--texts", type=int, default=100, help="SST has 8,544")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--model", default="17.5M", choices=SHAPES)
    chosen = options.parse_args()
    base, shape = random_model(chosen.model), SHAPES[chosen.model]
    data = random_texts(lengths_of("sst", chosen.texts), shape)
    data = replace(data, splits={"train": data.splits["train"], "dev": data.splits["train"].sample(chosen.texts // 8)})
    run = RunConfig(task="sst", adapter="last-linear", epochs=chosen.epochs, batch_size=32)
    rates = np.geomspace(1e-4, 1e-2, chosen.trials)

    def trials(count: int = chosen.trials) -> list[float]:
        return [
            report.metrics[key]
            for rate in rates[:count]
            for report in train(run.but(lr=float(rate)), base, data)
            for key in ("train_loss", "dev_loss")
        ]

    def cached(count: int = chosen.trials) -> list[float]:
        with own_cache():
            return trials(count)

    def plain(count: int = chosen.trials) -> list[float]:
        with patch.object(activations, "LARGEST", 0):
            return trials(count)

    def check() -> None:
        if cached(2) != pytest.approx(plain(2), rel=1e-5):
            raise differs("last-linear")

    row = Comparison(
        what=f"{chosen.trials} last-linear trials, {chosen.texts} texts, {chosen.epochs} epochs",
        peer="running the trunk in every trial",
        ours=cached,
        theirs=plain,
        reach=20,
        check=check,
    )
    show(f"Activations of a frozen trunk, {chosen.model}", [row])


@contextmanager
def own_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, GPT2_SEARCH_CACHE=folder):
        yield


if __name__ == "__main__":
    main()
