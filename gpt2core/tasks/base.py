"""What every task gives: rows, training examples, an evaluation and the name of its objective."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Tokens, tokenised
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.model import GPT2
from gpt2core.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A corpus and its tokenised splits, shared by all runs of a process."""

    corpus: Corpus
    tokenizer: Tokenizer
    splits: Mapping[str, Tokens]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model on one split.

    `metrics` are numbers by name. `statistics` (seeds, examples, S) is what a paired test needs, or None.
    `samples` are texts that a person would like to read.
    """

    metrics: dict[str, float]
    statistics: np.ndarray | None = None
    samples: list[dict[str, str]] = field(default_factory=list)


class Task(Protocol):
    """A task is stateless: everything it needs comes with the call."""

    name: str
    objective: str  # the metric that a search looks at
    direction: str  # "max" or "min"

    def corpus(self, data_dir: str | None) -> Corpus:
        """Return the validated rows; raise DataError."""
        ...

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> tuple[list[str], list[str], list[list[int]]]:
        """Return the id, the text and the tokens of each training example made from `rows`."""
        ...

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Score `model` on a split."""
        ...

    def report(self, data: TaskData, split: str) -> dict[str, Any]:
        """Return what a score must be laid beside, such as floors that no model is needed for."""
        ...


def load_data(task: Task, data_dir: str | None, tokenizer: Tokenizer, n_positions: int) -> TaskData:
    """Read, validate and tokenise a task's corpus; raise DataError, or ConfigError where an example exceeds the context."""
    corpus = task.corpus(data_dir)
    splits = {}
    for split, rows in corpus.splits.items():
        key = f"{corpus.digest}\0{split}\0{type(task).__name__}"
        splits[split] = tokens = tokenised(key, rows, tokenizer, task.encode)
        if len(tokens) and tokens.lengths.max() > n_positions:
            worst = int(tokens.lengths.argmax())
            raise ConfigError(
                f"{corpus.name} {tokens.ids[worst]} of the {split} split has {tokens.lengths[worst]} tokens, "
                f"but must have at most {n_positions}, the model's n_positions"
            )
    return TaskData(corpus=corpus, tokenizer=tokenizer, splits=splits)


@torch.inference_mode()
def cross_entropy(model: GPT2, tokens: Tokens, batch_size: int = 16) -> float:
    """Return the mean next-token cross-entropy of a split, in nats per predicted token.

    Raises DivergedError where it is not finite: nothing can be generated from such a model; DataError for no examples.
    """
    if not len(tokens):
        raise DataError("There is no example to score")
    device = model.wte.weight.device
    order = np.argsort(tokens.lengths, kind="stable")
    total = 0.0
    for start in range(0, len(order), batch_size):
        batch = [tokens[i] for i in order[start : start + batch_size]]
        total += model.loss_sum(*collate(batch, device)).item()
    if not math.isfinite(total):
        raise DivergedError(f"The cross-entropy is {total}")
    return total / int((tokens.lengths - 1).sum())
