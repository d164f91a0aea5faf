"""What every task gives: rows, training examples, a loss, an evaluation and the name of its objective."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example, Tokens, tokenised
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.metrics.bootstrap import interval
from gpt2core.metrics.floors import Floor
from gpt2core.model import GPT2, Reading
from gpt2core.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A corpus and its tokenised splits, shared by all runs of a process."""

    corpus: Corpus
    tokenizer: Tokenizer
    splits: Mapping[str, Tokens]
    whole_dev: int = 0  # examples of the dev split where only a sample of it is taken

    def describe(self) -> str:
        """One line: the corpus, and how many texts were cut to the model's context."""
        cut = ", ".join(f"{tokens.truncated} {split}" for split, tokens in self.splits.items() if tokens.truncated)
        dev, whole = len(self.splits["dev"]), self.whole_dev
        return "; ".join(
            [
                self.corpus.describe(),
                *([f"longer than the context and cut: {cut}"] if cut else []),
                *([f"a sample of {dev} of dev is scored"] if whole else []),
            ]
        )

    def with_dev(self, count: int | None) -> "TaskData":
        """The same data with a sample of `count` examples of the dev split; all of it for None."""
        dev = self.splits["dev"]
        if count is None or count >= len(dev):
            return self
        return replace(self, splits={**self.splits, "dev": dev.sample(count)}, whole_dev=len(dev))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model on one split.

    `metrics` are numbers by name. `statistics` (seeds, examples, S) are counts of which the task's `score` makes its
    objective after summing over examples: what a paired test needs. `samples` are texts that a person would like to read,
    each a mapping of a name to what it says; `tables` are matrices by name, such as a confusion matrix.
    """

    metrics: dict[str, float]
    statistics: np.ndarray | None = None
    samples: list[dict[str, str]] = field(default_factory=list)
    tables: dict[str, list[list[float]]] = field(default_factory=dict)


class Task(Protocol):
    """A task is stateless: everything it needs comes with the call."""

    name: str
    objective: str  # the metric that a search looks at
    direction: Literal["max", "min"]
    encoding: str  # what `encode` does, in words that change when it does: tokens in the cache are found by them
    cuts: bool  # whether a text that is longer than the context loses its end; else it is an error
    generates: bool  # whether an evaluation writes texts, so that it takes as long as they get

    def corpus(self, config: RunConfig) -> Corpus:
        """Return the validated rows; raise DataError."""
        ...

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """Return the training examples made from `rows`."""
        ...

    def classes(self, config: RunConfig) -> int:
        """Return how many outputs the task's own head has; 0 for a task that needs none."""
        ...

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the loss (B,) of each example in nats: of a text, the sum over its predicted tokens."""
        ...

    def reading(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Reading:
        """Return what the trunk of a model is to make of a batch."""
        ...

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Return the sum that training makes small: of `losses`, or of these and more.

        `hidden` is what `model` read of the batch, `base` the model that the run started from.
        """
        ...

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return what the mean loss is a mean over, for each example (N,): its predicted tokens, or 1."""
        ...

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Score `model` on a split."""
        ...

    def score(self, statistics: np.ndarray) -> np.ndarray:
        """Return the objective (...) of summed counts (..., S)."""
        ...

    def floors(self, data: TaskData, split: str) -> dict[str, Floor]:
        """Return what a score must be laid beside: scores that no model is needed for."""
        ...


class LanguageTask:
    """What tasks of causal language modelling share."""

    cuts = False
    generates = False

    def classes(self, config: RunConfig) -> int:
        """No head beside the tied one."""
        return 0

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Next-token cross-entropy of all real tokens but the given ones."""
        hidden = model.read(self.reading(batch, tokenizer, config))
        return model.losses(hidden, self.labels(batch, tokenizer, config))

    def reading(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Reading:
        """All tokens, of one segment."""
        return Reading(batch.input_ids, below=batch.below)

    def labels(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """The tokens (B, T) that are to be predicted, IGNORE elsewhere."""
        return batch.next_tokens()

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """The cross-entropy alone."""
        return model.loss(hidden, self.labels(batch, tokenizer, config))

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Each token behind the given ones, and behind the first, is predicted."""
        return np.asarray(tokens.lengths - np.maximum(tokens.given, 1))


def load_data(task: Task, config: RunConfig, tokenizer: Tokenizer, n_positions: int) -> TaskData:
    """Read, validate and tokenise a task's corpus; raise DataError, or ConfigError where an example exceeds the context."""
    corpus = task.corpus(config)
    splits = {}
    for split, rows in corpus.splits.items():
        key = f"{corpus.digest}\0{split}\0{task.name}\0{task.encoding}"
        limit = n_positions if task.cuts else None
        splits[split] = tokens = tokenised(key, rows, tokenizer, task.encode, limit=limit)
        if len(tokens) and tokens.lengths.max() > n_positions:
            worst = int(tokens.lengths.argmax())
            raise ConfigError(
                f"{corpus.name} {tokens.ids[worst]} of the {split} split has {tokens.lengths[worst]} tokens, "
                f"but must have at most {n_positions}, the model's n_positions"
            )
    return TaskData(corpus=corpus, tokenizer=tokenizer, splits=splits)


def by_length(tokens: Tokens, batch_size: int) -> list[np.ndarray]:
    """Numbers of all examples in batches of like length."""
    order = np.argsort(tokens.lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@torch.inference_mode()
def loss_statistics(
    task: Task, model: GPT2, data: TaskData, config: RunConfig, split: str, *, batch_size: int = 16
) -> np.ndarray:
    """Return (N, 2): the loss of each example of a split in nats, and what it is a sum over.

    Raises DivergedError where it is not finite: nothing can be generated from such a model; DataError for no examples.
    """
    tokens = data.splits[split]
    if not len(tokens):
        raise DataError(f"{data.corpus.origin}: there is no example in the {split} split to score")
    losses = np.zeros(len(tokens))
    for index in by_length(tokens, batch_size):
        batch = collate(tokens, index, model.wte.weight.device)
        losses[index] = task.losses(model, batch, data.tokenizer, config).double().cpu().numpy()
    if not np.isfinite(losses).all():
        raise DivergedError(f"The cross-entropy is {losses.sum()}")
    return np.stack([losses, task.weights(tokens, data.tokenizer, config)], axis=1)


def mean_loss(statistics: np.ndarray) -> np.ndarray:
    """Mean loss (...) of summed statistics (..., 2)."""
    return np.asarray(statistics[..., 0] / np.maximum(statistics[..., 1], 1))


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token; of one too large for it, a large number."""
    return math.exp(min(loss, 700.0))


class PerplexityTask(LanguageTask):
    """A task that is judged by how well it predicts held-out texts."""

    objective = "dev_loss"
    direction: Literal["max", "min"] = "min"

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Cross-entropy (nats per token) with a 95% bootstrap interval over examples, and perplexity."""
        statistics = loss_statistics(cast(Task, self), model, data, config, split)[None]
        found = interval(statistics, self.score)
        metrics = {
            f"{split}_loss": found.estimate,
            f"{split}_loss_low": found.low,
            f"{split}_loss_high": found.high,
            f"{split}_perplexity": perplexity(found.estimate),
        }
        return Evaluation(metrics=metrics, statistics=statistics)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        """Nats per token."""
        return mean_loss(statistics)

    def floors(self, data: TaskData, split: str) -> dict[str, Floor]:
        """Nothing to lay beside a perplexity."""
        return {}
