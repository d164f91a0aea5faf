"""The base class of classification tasks: cross-entropy, accuracy with its interval, and the majority class as baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.component import Keys, declared_keys
from gpt2core.config import ClassificationKeys, RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.data.corpus import NO_LABEL
from gpt2core.data.tokens import Tokens
from gpt2core.distill.student import contrastive_losses, r_drop_losses
from gpt2core.dropout import dropout
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.metrics.baselines import Baseline
from gpt2core.metrics.classification import accuracy, confusion_matrix, macro_f1, mcc, one_hot
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import mean_loss
from gpt2core.metrics.metric import NOT_NEGATIVE, Metric, Score, named
from gpt2core.model import GPT2, TrunkInput, upcast
from gpt2core.tasks.base import Evaluation, Task, TaskData, measured
from gpt2core.tokenizer import Tokenizer
from gpt2core.workers import share, summed

ROWS, TOKENS = 64, 16384  # the most of a batch in evaluation
SAMPLES = 20


def in_percent(name: str, score: Score) -> Metric:
    """Return a metric in percent that is computed from a confusion matrix."""
    return Metric(name, Direction.MAX, "points", 1.0, 2, "confusion", score, (0.0, 100.0))


CLASSIFIED = named(
    in_percent("accuracy", accuracy),
    in_percent("macro_f1", macro_f1),
    Metric("mcc", Direction.MAX, "", 0.02, 3, "confusion", mcc, (-1.0, 1.0)),
    Metric("dev_loss", Direction.MIN, "nats", 0.01, 3, "loss", mean_loss, NOT_NEGATIVE),
)


class Classification(Task):
    """Base of tasks that classify a text by the hidden state of its last token into K classes."""

    keys: type[Keys] = ClassificationKeys
    cuts = True
    metrics: Mapping[str, Metric] = CLASSIFIED
    objective = "accuracy"
    column: str  # the heading of the predicted class in a submission

    def classes(self, config: RunConfig) -> int:
        return len(self.class_names(config))

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return overrides, as `Component.values` does: it writes no texts, so it ignores how these are decoded."""
        return {**super().values(config), "decoder": None, **dict.fromkeys(declared_keys("decoder"))}

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """Return texts with their lengths, because only the hidden states of last tokens are used."""
        return TrunkInput(batch.input_ids, lengths=batch.lengths, cached_activations=batch.cached_activations)

    def logits(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the logits (B, K) of a batch; raise ConfigError as `class_logits` does."""
        return self.class_logits(model, model.run_trunk(self.trunk_input(batch, tokenizer, config)), tokenizer, config)

    def class_logits(self, model: GPT2, hidden: Tensor, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the logits (B, K) for the last tokens' hidden states (B, C); raise ConfigError if the model lacks the head."""
        head, classes = model.head, len(self.class_names(config))
        if head is None or head.out_features != classes:
            raise ConfigError(f"The model has no head for the {classes} classes; use one trained on them")
        logits: Tensor = head(dropout(hidden, config.head_dropout) if model.training else hidden)
        return upcast(logits)

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        return functional.cross_entropy(self.logits(model, batch, tokenizer, config), batch.labels, reduction="none")

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Return the cross-entropy, interpolated with a supervised contrastive loss by `config.contrastive_weight`.

        With `config.r_drop`, the batch holds each example twice: the losses are the means of both passes, plus that weight times
        the divergence of their predictions. The contrast is among the examples that a worker sees at once, so it depends on
        `accumulation` and on workers.
        """
        logits = self.class_logits(model, hidden, tokenizer, config)
        loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
        if config.contrastive_weight:
            loss = loss.lerp(contrastive_losses(hidden, batch.labels).sum(), config.contrastive_weight)
        if config.r_drop:
            loss = loss / 2 + config.r_drop * r_drop_losses(logits).sum()
        return loss

    def passes(self, config: RunConfig) -> int:
        """Return 2 for R-Drop, else 1."""
        return 2 if config.r_drop else 1

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        return np.ones(len(tokens), dtype=np.int64)

    @torch.inference_mode()
    def log_probabilities(self, model: GPT2, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return the log-probabilities (N, K) of the classes; raise DivergedError if one is not finite."""
        log_probabilities = np.zeros((len(tokens), len(self.class_names(config))))
        device = model.wte.weight.device
        for index in share(batches(tokens.lengths)):
            logits = self.logits(model, collate(tokens, index, device), tokenizer, config)
            log_probabilities[index] = logits.cpu().double().log_softmax(dim=-1).numpy()
        log_probabilities = summed(log_probabilities, device)
        if not np.isfinite(log_probabilities).all():
            raise DivergedError(f"The cross-entropy is {-log_probabilities.sum()}")
        return log_probabilities

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Return accuracy and macro-F1 in percent and cross-entropy in nats, each with its 95% interval over examples."""
        tokens = data.splits[split]
        gold = tokens.labels
        if not len(gold) or (gold == NO_LABEL).any():
            raise DataError(f"{data.corpus.origin.source}: the {split} split has no labels to score against")
        log_probabilities = self.log_probabilities(model, tokens, data.tokenizer, config)
        losses, predicted = -log_probabilities[np.arange(len(gold)), gold], log_probabilities.argmax(axis=1)
        classes = len(self.class_names(config))
        counts, values = self.further(np.exp(log_probabilities), gold)
        statistics = {
            "confusion": one_hot(gold, predicted, classes),
            "loss": np.stack([losses, np.ones(len(gold))], axis=1)[None],
            **counts,
        }
        metrics = {**measured(self.metrics, statistics, split), **values}
        tables = {"confusion": confusion_matrix(gold, predicted, classes).tolist()}
        samples = self._samples(tokens, self.class_names(config), predicted, losses)
        return Evaluation(metrics=metrics, statistics=statistics, samples=samples, tables=tables)

    def further(self, probabilities: np.ndarray, gold: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return further counts (1, N, S) and values of a task, from probabilities (N, K) and gold classes (N,)."""
        return {}, {}

    def predict(self, model: GPT2, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return the likeliest class (N,) of each example."""
        return np.asarray(self.log_probabilities(model, tokens, tokenizer, config).argmax(axis=1))

    def submission(self, tokens: Tokens, classes: np.ndarray, config: RunConfig) -> str:
        """Return predictions in the course's format: a header and a line for each text."""
        lines = [f"{name}, {number} \n" for name, number in zip(tokens.ids, classes, strict=True)]
        return f"id \t {self.column} \n" + "".join(lines)

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return the majority class of the training split as a baseline; its loss is that of the smoothed class frequencies."""
        gold, classes = data.splits[split].labels, len(self.class_names(config))
        frequencies = np.bincount(data.splits["train"].labels, minlength=classes)
        majority = int(frequencies.argmax())
        confusion = confusion_matrix(gold, np.full(len(gold), majority), classes).ravel()
        smooth = (frequencies + 1) / (frequencies.sum() + classes)  # no class has probability 0
        scores = {
            "accuracy": (float(accuracy(confusion)), 0.0),
            "macro_f1": (float(macro_f1(confusion)), 0.0),
            "mcc": (float(mcc(confusion)), 0.0),
            self.metrics["dev_loss"].on(split): (float(-np.log(smooth[gold]).mean()), 0.0),
        }
        meaning = f"always `{self.class_names(config)[majority]}`, the most frequent class in training"
        return {"majority_class": Baseline(meaning=meaning, scores=scores)}

    def _samples(
        self, tokens: Tokens, class_names: Sequence[str], predicted: np.ndarray, losses: np.ndarray
    ) -> list[dict[str, str]]:
        """Return examples from the highest loss to the lowest, evenly spaced."""
        hardest_first = np.argsort(-losses, kind="stable")
        chosen = np.unique(np.linspace(0, len(losses) - 1, SAMPLES).astype(int))
        return [
            {
                "id": tokens.ids[number],
                "text": tokens.texts[number],
                "gold": class_names[tokens.labels[number]],
                "predicted": class_names[predicted[number]],
            }
            for number in hardest_first[chosen]
        ]


def batches(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the indices of all examples in batches of similar length, longest first, of at most ROWS rows and TOKENS tokens."""
    order = np.argsort(-lengths, kind="stable")
    indices = []
    while len(order):
        size = max(1, min(ROWS, TOKENS // int(lengths[order[0]])))
        indices.append(order[:size])
        order = order[size:]
    return indices
