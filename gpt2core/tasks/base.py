"""What every task gives: rows, training examples, a loss, an evaluation and the name of its objective."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gpt2core.component import Keys, nearest
from gpt2core.config import DetectionPairKeys, RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.dividing import halves, without_fold
from gpt2core.data.tokens import Example, Tokens, tokenised
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.metrics.baselines import Baseline, ngram_baselines
from gpt2core.metrics.intervals import interval
from gpt2core.metrics.losses import LOSSES
from gpt2core.metrics.metric import Metric
from gpt2core.model import GPT2, IGNORE, TrunkInput
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

    def confirmation_part(self) -> Tokens:
        """The texts of the dev split that a search does not see, to confirm what it found; none where there are too few."""
        return halves(self.splits["dev"])[1]

    def divided(self, config: RunConfig) -> "TaskData":
        """The data as a single run of `config` has it; raise ConfigError for more folds than texts.

        With `dev_part="search"`, `dev` is what the search sees of it, and `confirmation` the rest. With a `fold`, `train` lacks
        it and `fold` is what it lacks.
        """
        splits = dict(self.splits)
        if config.dev_part == "search":
            splits["dev"], splits["confirmation"] = halves(self.splits["dev"])
        if config.fold is not None:
            splits["train"], splits["fold"] = without_fold(self.splits["train"], config.folds, config.fold)
        return replace(self, splits=splits)

    def scored_on(self, part: str) -> "TaskData":
        """The same data with another part of it as the dev split."""
        return replace(self, splits={**self.splits, "dev": self.splits[part]})


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model on one split.

    `metrics` are numbers by name. `statistics` are counts by name, each (outputs, examples, S) with the examples in the
    order of the split's tokens, and one output where nothing is drawn: of their sums a `Metric` makes its number, and from
    them runs are compared. `samples` are texts that a person would like to read, each a mapping of a name to what it says;
    `tables` are matrices by name, such as a confusion matrix.
    """

    metrics: dict[str, float]
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    tables: dict[str, list[list[float]]] = field(default_factory=dict)
    generate_seconds: float = 0.0  # of the evaluation, what generating texts took


class Task(Protocol):
    """A task is stateless: everything it needs comes with the call."""

    name: str
    metrics: Mapping[str, Metric]  # by name, those that can be an objective
    objective: str  # the one of them by which runs are judged where nothing else is said
    encoding: str  # what `encode` does, in words that change when it does: tokens in the cache are found by them
    cuts: bool  # whether a text that is longer than the context loses its end; else it is an error
    generates: bool  # whether an evaluation writes texts, so that it takes as long as they get

    @property
    def keys(self) -> type[Keys]:
        """What it reads of a run beside what every task does."""
        ...

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return what `gpt2core.config.Component.values` tells of."""
        ...

    def corpus(self, config: RunConfig) -> Corpus:
        """Return the validated rows; raise DataError."""
        ...

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        """Return the training examples made from `rows`."""
        ...

    def classes(self, config: RunConfig) -> int:
        """Return how many outputs the task's own head has; 0 for a task that needs none."""
        ...

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the loss (B,) of each example in nats: of a text, the sum over its predicted tokens."""
        ...

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """Return what the model's trunk reads of a batch."""
        ...

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Return the sum that training minimises: of `losses`, or of these and further terms.

        `hidden` are the last hidden states of `model` for the batch, `base` is the model that the run started from.
        """
        ...

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return what the mean loss is a mean over, for each example (N,): its predicted tokens, or 1."""
        ...

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Score `model` on a split."""
        ...

    def baselines(self, data: TaskData, split: str) -> dict[str, Baseline]:
        """Return what a score must be laid beside: scores that no model is needed for."""
        ...


def values_of_pairs(keys: type[Keys], config: RunConfig) -> dict[str, Any]:
    """What `Task.values` gives for a task that learns from generated pairs: without any, none of their keys counts."""
    if config.learns_from_pairs:
        return {}
    return dict.fromkeys(keys.model_fields.keys() & DetectionPairKeys.model_fields.keys()) | {"pairs_examples": 0}


def objective_of(task: Task, config: RunConfig) -> Metric:
    """Return the metric that decides between runs of `config`, and between their epochs; raise ConfigError."""
    name = config.objective or task.objective
    if name not in task.metrics:
        raise ConfigError(
            f"The value of `objective` is {name!r}, but must be a metric of the task `{task.name}`: "
            f"{nearest(name, task.metrics)}"
        )
    return task.metrics[name]


def measured(metrics: Mapping[str, Metric], statistics: Mapping[str, np.ndarray], split: str) -> dict[str, float]:
    """Each metric that counts (outputs, examples, S) are there for, with `NAME_low` and `NAME_high` where they are known.

    These are the 95% interval of one run over its examples, within the metric's bounds.
    """
    scores = {}
    for metric in metrics.values():
        if metric.counts is None or metric.counts not in statistics or metric.score is None:
            continue
        name, one = metric.on(split), interval(statistics[metric.counts], metric.score)
        scores[name] = one.estimate
        if one.low is not None and one.high is not None:
            least, most = metric.bounds or (-np.inf, np.inf)
            scores[f"{name}_low"], scores[f"{name}_high"] = max(one.low, least), min(one.high, most)
    return scores


class LanguageTask:
    """What tasks of causal language modelling share."""

    name: str
    keys: type[Keys] = Keys
    cuts = False
    generates = False
    objective = "dev_loss"

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Every key means its own value."""
        return {}

    def classes(self, config: RunConfig) -> int:
        """No head beside the tied one."""
        return 0

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Next-token cross-entropy of all real tokens but the given ones."""
        hidden = model.run_trunk(self.trunk_input(batch, tokenizer, config))
        return model.losses(hidden, self.labels(batch, tokenizer, config))

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """All tokens, of one segment."""
        return TrunkInput(batch.input_ids, cached_activations=batch.cached_activations)

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

    def first_scored(self, text: np.ndarray, tokenizer: Tokenizer) -> int:
        """The first of a text's tokens (T,) that its score may look at: learning looks at all."""
        return 1

    def scored(
        self, tokens: Tokens, index: np.ndarray, tokenizer: Tokenizer, config: RunConfig, device: torch.device
    ) -> tuple[Batch, Tensor]:
        """The examples of those numbers as a batch, and the tokens (B, T) by which they are scored, IGNORE elsewhere."""
        batch = collate(tokens, index, device)
        first = torch.tensor([self.first_scored(tokens[int(i)], tokenizer) for i in index], device=device)
        place = torch.arange(batch.input_ids.shape[1], device=device)
        return batch, self.labels(batch, tokenizer, config).masked_fill(place < first[:, None], IGNORE)

    def loss_baselines(self, data: TaskData, split: str) -> dict[str, Baseline]:
        """N-gram models of the training texts, on what a model is scored by where no key says otherwise."""
        train, held_out = data.splits["train"], data.splits[split]
        if not len(held_out):
            return {}
        everything = np.arange(len(held_out))
        chosen = [np.zeros(0, dtype=bool)] * len(held_out)
        for index in np.array_split(everything, max(1, len(held_out) // 64)):
            _, labels = self.scored(held_out, index, data.tokenizer, RunConfig(), torch.device("cpu"))
            for number, row in zip(index, (labels != IGNORE).numpy(), strict=True):
                chosen[number] = row[: held_out.lengths[number]]
        return ngram_baselines(
            (train[i] for i in range(len(train))),
            [held_out[int(i)] for i in everything],
            chosen,
            data.tokenizer.characters,
            split,
        )


def load_data(task: Task, config: RunConfig, tokenizer: Tokenizer, n_positions: int) -> TaskData:
    """Read, validate and tokenise a task's corpus; raise DataError where there is nothing to train on or to judge by.

    Raises ConfigError where an example exceeds the context.
    """
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
    for split in ("train", "dev"):
        if not len(splits[split]):
            raise DataError(
                f"{corpus.origin.source}: the {len(corpus.splits[split])} texts of the {split} split make no example "
                f"({task.encoding}), but there must be one in train and in dev; more or longer texts are needed"
            )
    return TaskData(corpus=corpus, tokenizer=tokenizer, splits=splits)


def by_length(tokens: Tokens, batch_size: int) -> list[np.ndarray]:
    """Numbers of all examples in batches of like length."""
    order = np.argsort(tokens.lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@torch.inference_mode()
def loss_statistics(
    task: LanguageTask, model: GPT2, data: TaskData, config: RunConfig, split: str, *, batch_size: int = 16
) -> np.ndarray:
    """Return (N, 3) for each example of a split: its loss in nats, the tokens that it is a sum over, and their characters.

    Characters are those of UTF-8 that begin in these tokens; EOS has none. Raises DivergedError where a loss is not finite:
    nothing can be generated from such a model; DataError for no examples.
    """
    tokens, device = data.splits[split], model.wte.weight.device
    if not len(tokens):
        raise DataError(f"{data.corpus.origin.source}: there is no example in the {split} split to score")
    characters = torch.as_tensor(data.tokenizer.characters, device=device)
    counts = np.zeros((len(tokens), 3))
    for index in by_length(tokens, batch_size):
        batch, labels = task.scored(tokens, index, data.tokenizer, config, device)
        losses = model.losses(model.run_trunk(task.trunk_input(batch, data.tokenizer, config)), labels)
        there = labels != IGNORE
        lengths = characters[labels.where(there, 0)].where(there, 0)
        columns = (losses, there.sum(dim=1), lengths.sum(dim=1))
        counts[index] = torch.stack([column.double() for column in columns], dim=1).cpu().numpy()
    if not np.isfinite(counts).all():
        raise DivergedError(f"The cross-entropy is {counts[:, 0].sum()}")
    return counts


class PerplexityTask(LanguageTask):
    """A task that is judged by how well it predicts held-out texts."""

    metrics: Mapping[str, Metric] = LOSSES

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Cross-entropy in nats per token, perplexity, and bits per character of the predicted tokens."""
        statistics = {"loss": loss_statistics(self, model, data, config, split)[None]}
        return Evaluation(metrics=measured(self.metrics, statistics, split), statistics=statistics)

    def baselines(self, data: TaskData, split: str) -> dict[str, Baseline]:
        """What n-gram models predict."""
        return self.loss_baselines(data, split)
