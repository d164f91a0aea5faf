"""The interface of tasks, their data, and the base class of language modelling."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gpt2core.component import Keys, first_clause, nearest
from gpt2core.config import DetectionPairKeys, PairKeys, RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.data.corpus import Corpus, Row, by_reason
from gpt2core.data.dividing import fold_numbers, halves, without_fold
from gpt2core.data.order import training_order
from gpt2core.data.tokens import Example, Tokens, joined, tokenised
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.metrics.baselines import Baseline, ngram_baselines
from gpt2core.metrics.intervals import interval
from gpt2core.metrics.losses import LOSSES
from gpt2core.metrics.metric import OWN_SETTING, Metric
from gpt2core.model import GPT2, IGNORE, TrunkInput
from gpt2core.tokenizer import Tokenizer
from gpt2core.workers import share, summed


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A corpus and its tokenised splits, shared by all runs of a process."""

    corpus: Corpus
    tokenizer: Tokenizer
    splits: Mapping[str, Tokens]
    whole_dev: int = 0  # the size of the dev split if `splits` has only a sample of it

    def describe(self) -> str:
        """Return one line: the corpus, and the numbers of truncated and sampled texts."""
        cut = ", ".join(f"{tokens.truncated} {split}" for split, tokens in self.splits.items() if tokens.truncated)
        parts = [self.corpus.describe()]
        if cut:
            parts.append(f"truncated to the context: {cut}")
        if self.whole_dev:
            parts.append(f"scored on a sample of {len(self.splits['dev'])} of dev")
        return "; ".join(parts)

    def with_dev(self, count: int | None) -> "TaskData":
        """Return the data with a sample of `count` examples of the dev split, or all of it for None."""
        dev = self.splits.get("dev")
        if count is None or dev is None or count >= len(dev):
            return self
        return replace(self, splits={**self.splits, "dev": dev.at_most(count)}, whole_dev=len(dev))

    def fold_sizes(self, folds: int, most: int | None) -> list[int]:
        """Return the number of scored texts of each of `folds` folds of the training texts, with at most `most` of each."""
        counts = np.bincount(fold_numbers(self.splits["train"].digests, folds))[1:]
        return [int(count) if most is None else min(int(count), most) for count in counts]

    def confirmation_part(self) -> Tokens:
        """Return the half of the dev split that a search does not use, to confirm its result; empty if dev is too small."""
        return halves(self.splits["dev"])[1]

    def training_examples(self, config: RunConfig) -> tuple[Tokens, list[int]]:
        """Return the examples that a run trains on, and how many of them, from the first on, each epoch has.

        Raises ConfigError if `train_examples` leaves too few real pairs for `added_pairs`.
        """
        train, corpus = self.splits["train"], self.corpus
        own = len(train) - corpus.added
        if corpus.most_examples is not None and (config.train_examples or own) > corpus.most_examples:
            raise ConfigError(
                f"The value of `train_examples` is {config.train_examples or 'none'}, but must be at most "
                f"{corpus.most_examples:,} with `added_pairs` 'real', so that the added pairs are left out of the sample"
            )
        order, sizes = training_order(config, own, corpus.added)
        return train.take(order), sizes

    def divided(self, config: RunConfig) -> "TaskData":
        """Return the data for a run of `config`; raise ConfigError for more folds than texts.

        With `dev_part="search"`, `dev` is the half that searches use, and `confirmation` the other half. With a `fold`, that
        fold is moved from `train` to the split `fold`, which is a sample of `dev_examples` of it, or all.
        """
        splits = dict(self.splits)
        if config.dev_part == "search":
            splits["dev"], splits["confirmation"] = halves(self.splits["dev"])
        if config.fold is not None:
            splits["train"], fold = without_fold(self.splits["train"], config.folds, config.fold)
            splits["fold"] = fold.at_most(config.dev_examples)
        return replace(self, splits=splits)

    def scored_on(self, part: str) -> "TaskData":
        """Return the data with the split `part` as the dev split."""
        return replace(self, splits={**self.splits, "dev": self.splits[part]})


@dataclass(frozen=True, kw_only=True)
class JointData(TaskData):
    """The data of several tasks. Each split of all of them has the examples of the first task, then those of the second ..."""

    parts: Mapping[str, TaskData]  # by task

    @classmethod
    def of(cls, corpus: Corpus, parts: Mapping[str, TaskData]) -> "JointData":
        """Return the data of `parts` as one; `corpus` has the rows of all of them."""
        first, *others = parts.values()
        names = [name for name in first.splits if all(name in part.splits for part in others)]
        splits = {name: joined([part.splits[name] for part in parts.values()]) for name in names}
        whole = sum(part.whole_dev or len(part.splits["dev"]) for part in parts.values())
        sampled = whole if any(part.whole_dev for part in parts.values()) else 0
        return cls(corpus=corpus, tokenizer=first.tokenizer, splits=splits, whole_dev=sampled, parts=parts)

    def with_dev(self, count: int | None) -> "JointData":
        """Return the data with a sample of `count` examples of each task's dev split, or all of them for None."""
        return self.of(self.corpus, {name: part.with_dev(count) for name, part in self.parts.items()})

    def fold_sizes(self, folds: int, most: int | None) -> list[int]:
        """Return the number of scored texts of each fold, with at most `most` of each task."""
        return [
            sum(sizes) for sizes in zip(*(part.fold_sizes(folds, most) for part in self.parts.values()), strict=True)
        ]

    def confirmation_part(self) -> Tokens:
        """Return the halves of the dev splits that a search does not use; empty if that of any task is too small."""
        halves = [part.confirmation_part() for part in self.parts.values()]
        return joined(halves if all(map(len, halves)) else [half.take(np.arange(0)) for half in halves])

    def divided(self, config: RunConfig) -> "JointData":
        return self.of(self.corpus, {name: part.divided(config) for name, part in self.parts.items()})

    def scored_on(self, part: str) -> "JointData":
        return self.of(self.corpus, {name: own.scored_on(part) for name, own in self.parts.items()})


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model on one split.

    `statistics` are counts by name, each (outputs, N, S), with the N examples in the order of the split's tokens, and one output
    for counts that are deterministic. Metrics are computed from their sums, and runs are compared by them.
    """

    metrics: dict[str, float]  # by name
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)  # texts to read, each by headings
    tables: dict[str, list[list[float]]] = field(default_factory=dict)  # matrices by name, such as a confusion matrix
    generate_seconds: float = 0.0  # the time that generating texts took


@runtime_checkable
class Task(Protocol):
    """The interface of tasks. A task has no state: each call gets everything that it needs.

    Most tasks subclass LanguageTask, which leaves `name`, `encoding`, `corpus` and `encode` to define, or Classification, which
    also leaves `class_names` and `column`. Legend: `B` examples of a batch, `T` tokens, `C` channels, `N` examples of a split.
    """

    name: str  # as in TASKS
    metrics: Mapping[str, Metric]  # by name; each of them can be the objective
    objective: str  # the metric that decides between runs, unless `config.objective` names another one
    encoding: str  # describes `encode`; it is part of the cache key of tokens, so change it whenever `encode` changes
    cuts: bool = False  # whether examples are truncated to the context; otherwise, longer ones are an error
    generates: bool = False  # whether `evaluate` generates texts, so that its time depends on their length

    @property
    def keys(self) -> type[Keys]:
        """The keys of a run that this task reads, besides those that every task reads."""
        return Keys

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return first_clause(type(self))

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return overrides, as `Component.values` does. Without generated pairs, all keys about pairs are ignored."""
        ignored = {} if self.generates else {"decode_seeds": None}
        if not issubclass(self.keys, PairKeys):
            return ignored
        if config.learns_from_pairs and config.added_pairs == "real":
            return ignored | dict.fromkeys(PairKeys.model_fields.keys() - {"added_pairs", "pairs_examples"})
        if config.learns_from_pairs:
            return ignored | ({"tau": None} if config.tau_rule == "adaptive" else {})
        about_pairs = self.keys.model_fields.keys() & DetectionPairKeys.model_fields.keys()
        return ignored | dict.fromkeys(about_pairs) | {"pairs_examples": 0}

    def corpus(self, config: RunConfig) -> Corpus:
        """Return the validated rows, at least in the splits `train` and `dev`; raise DataError or HubError."""
        ...

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        """Return or yield the examples made from `rows`, without padding or truncation; any number of examples per row."""
        ...

    def parts(self, config: RunConfig) -> "Mapping[str, Part]":
        """Return the runs of single tasks, by task, that a run of several consists of; none for a single task."""
        return {}

    def objectives(self, config: RunConfig) -> dict[str, Metric]:
        """Return the metric by which the score of each part is measured; none for a single task."""
        return {}

    def classes(self, config: RunConfig) -> int:
        """Return the number of outputs of the task's own head; 0 if it has none."""
        return 0

    def class_names(self, config: RunConfig) -> Sequence[str]:
        """Return the names of the classes that the task predicts; none if it predicts no classes."""
        return ()

    def training_examples(self, tokens: Tokens, base: GPT2, tokenizer: Tokenizer, config: RunConfig) -> Tokens:
        """Return the examples to train on, with what `base`, the model that the run starts from, adds to them."""
        return tokens

    def passes(self, config: RunConfig) -> int:
        """Return how often a training batch holds its examples, one after the other, each time with other dropout."""
        return 1

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """Return the input of the model's trunk for a batch. Pass `batch.cached_activations` on."""
        ...

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the loss (B,) of each example in nats, for language models the sum over its predicted tokens.

        It must not depend on padding or on the other examples of the batch.
        """
        ...

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Return the scalar that training minimises: the sum of `losses` over the batch, and any further terms.

        `hidden` is the output of `model`'s trunk for `trunk_input`: (B, T, C), or (B, C) if that has `lengths`. `base` is the
        model that the run started from. The caller divides the loss by the sum of the `weights` of a step's examples.
        """
        ...

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return the weight (N,) of each example in a mean loss: its number of predicted tokens, or 1 for a classification."""
        ...

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Score `model` on a split, with the same result each time; raise DivergedError if a loss is not finite.

        All workers call this, and get the same result. They may share the work, see `gpt2core.workers`.
        The result has the value of each metric under its name for that split, `Metric.on`, and the counts that metrics name.
        """
        ...

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return the scores of trivial baselines on a split, by name; one of them must have a score of the objective."""
        ...


class Part(NamedTuple):
    """A single task of a run of several, and the configuration of the run that it is on its own."""

    task: Task
    config: RunConfig


def objective_of(task: Task, config: RunConfig) -> Metric:
    """Return the metric that decides between runs of `config` and between their epochs; raise ConfigError if it is unknown."""
    name, known = config.objective or task.objective, task.metrics
    if parts := task.parts(config):
        known = {key: metric for key, metric in known.items() if "/" not in key or key.partition("/")[0] in parts}
    if name not in known:
        raise ConfigError(
            f"The value of `objective` is {name!r}, but must be a metric of the task `{task.name}`: {nearest(name, known)}"
        )
    return known[name]


def measured(metrics: Mapping[str, Metric], statistics: Mapping[str, np.ndarray], split: str) -> dict[str, float]:
    """Return the metrics that have counts, and the bounds of their 95% intervals over examples, `NAME_low` and `NAME_high`."""
    scores = {}
    for metric, ending in product(metrics.values(), ("", OWN_SETTING)):
        counts = f"{metric.counts}{ending}"
        if counts not in statistics or metric.score is None:
            continue
        name, score = f"{metric.on(split)}{ending}", interval(statistics[counts], metric.score)
        scores[name] = score.estimate
        if score.low is not None and score.high is not None:
            least, most = metric.bounds or (-np.inf, np.inf)
            scores[f"{name}_low"], scores[f"{name}_high"] = max(score.low, least), min(score.high, most)
    return scores


class LanguageTask(Task):
    """Base of causal language modelling tasks, scored by how well they predict held-out texts."""

    metrics: Mapping[str, Metric] = LOSSES
    objective = "dev_loss"

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        hidden = model.run_trunk(self.trunk_input(batch, tokenizer, config))
        return model.losses(hidden, self.labels(batch, tokenizer, config))

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """Return all tokens as one segment."""
        return TrunkInput(batch.input_ids, cached_activations=batch.cached_activations)

    def labels(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the tokens (B, T) to be predicted, with IGNORE for all others."""
        return batch.next_tokens()

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        return model.loss(hidden, self.labels(batch, tokenizer, config), batch.predicted)

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return the number of tokens after the given ones, and after the first."""
        return np.asarray(tokens.lengths - np.maximum(tokens.given, 1))

    def first_scored(self, text: np.ndarray, tokenizer: Tokenizer) -> int:
        """Return the index of the first token of a text (T,) that counts in scores; training uses all tokens."""
        return 1

    def scored(
        self, tokens: Tokens, index: np.ndarray, tokenizer: Tokenizer, config: RunConfig, device: torch.device
    ) -> tuple[Batch, Tensor]:
        """Return the examples `index` as a batch, and the tokens (B, T) that count in scores, with IGNORE for all others."""
        batch = collate(tokens, index, device)
        first = torch.tensor([self.first_scored(tokens[int(i)], tokenizer) for i in index], device=device)
        place = torch.arange(batch.input_ids.shape[1], device=device)
        return batch, self.labels(batch, tokenizer, config).masked_fill(place < first[:, None], IGNORE)

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Return cross-entropy in nats per token, perplexity, and bits per character of the predicted tokens."""
        statistics = {"loss": loss_statistics(self, model, data, config, split)[None]}
        return Evaluation(metrics=measured(self.metrics, statistics, split), statistics=statistics)

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return n-gram models of the training texts, scored on the same tokens as a model."""
        train, held_out = data.splits["train"], data.splits[split]
        if not len(held_out):
            return {}
        numbers = np.arange(len(held_out))
        scored = [np.zeros(0, dtype=bool)] * len(held_out)
        for index in np.array_split(numbers, max(1, len(held_out) // 64)):
            _, labels = self.scored(held_out, index, data.tokenizer, config, torch.device("cpu"))
            for number, row in zip(index, (labels != IGNORE).numpy(), strict=True):
                scored[number] = row[: held_out.lengths[number]]
        texts = (train[i] for i in range(len(train)))
        return ngram_baselines(texts, [held_out[int(i)] for i in numbers], scored, data.tokenizer.characters, split)


def load_data(task: Task, config: RunConfig, tokenizer: Tokenizer, n_positions: int) -> TaskData:
    """Read and tokenise a corpus; raise DataError if train or dev has no examples, ConfigError if one exceeds the context."""
    corpus = task.corpus(config)
    if parts := task.parts(config):
        own = {name: load_data(part.task, part.config, tokenizer, n_positions) for name, part in parts.items()}
        return JointData.of(corpus, own)
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
        if split in splits and not corpus.splits[split]:
            fault = f"{corpus.origin.source}: the {split} split has no text, but train and dev must have at least one"
            raise DataError("; ".join([fault, *by_reason(corpus.rejected), "more texts are needed"]))
        if split in splits and not len(splits[split]):
            raise DataError(
                f"{corpus.origin.source}: the {len(corpus.splits[split])} texts of the {split} split make no example "
                f"({task.encoding}), but train and dev must have at least one; more or longer texts are needed"
            )
    return TaskData(corpus=corpus, tokenizer=tokenizer, splits=splits)


def by_length(tokens: Tokens, batch_size: int) -> list[np.ndarray]:
    """Return the indices of all examples in batches of similar length."""
    order = np.argsort(tokens.lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@torch.inference_mode()
def loss_statistics(
    task: LanguageTask, model: GPT2, data: TaskData, config: RunConfig, split: str, *, batch_size: int = 16
) -> np.ndarray:
    """Return (N, 3): the loss of each example of a split in nats, its number of scored tokens, and their number of characters.

    The characters are those whose UTF-8 begins in these tokens; EOS has none. Raises DataError for an empty split, and
    DivergedError if a loss is not finite, because such a model cannot generate texts either.
    """
    tokens, device = data.splits[split], model.wte.weight.device
    if not len(tokens):
        raise DataError(f"{data.corpus.origin.source}: the {split} split has no examples to score")
    characters = torch.as_tensor(data.tokenizer.characters, device=device)
    counts = np.zeros((len(tokens), 3))
    for index in share(by_length(tokens, batch_size)):
        batch, labels = task.scored(tokens, index, data.tokenizer, config, device)
        losses = model.losses(model.run_trunk(task.trunk_input(batch, data.tokenizer, config)), labels)
        scored = labels != IGNORE
        lengths = characters[labels.where(scored, 0)].where(scored, 0)
        columns = (losses, scored.sum(dim=1), lengths.sum(dim=1))
        counts[index] = torch.stack([column.to(losses.dtype) for column in columns], dim=1).cpu().numpy()
    counts = summed(counts, device)
    if not np.isfinite(counts).all():
        raise DivergedError(f"The cross-entropy is {counts[:, 0].sum()}")
    return counts
