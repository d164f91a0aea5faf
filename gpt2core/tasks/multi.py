"""Several tasks in one run, each with its own model (`gpt2core.multitask`)."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from gpt2core.component import Keys
from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import DataOrigin, Licence
from gpt2core.data.tokens import Example, Tokens
from gpt2core.errors import ConfigError
from gpt2core.metrics.baselines import Baseline
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric, named
from gpt2core.model import GPT2, TrunkInput
from gpt2core.multitask.combining import COMBINATIONS, MultiKeys, has_own_pairs
from gpt2core.multitask.models import models_of
from gpt2core.tasks.base import Evaluation, JointData, Part, Task, TaskData, measured
from gpt2core.tokenizer import Tokenizer

ADAPTERS = ("full", "freeze", "lora")
SMALLEST = 1e-5  # accuracy that has a logarithm
COLUMNS = 3  # of a task in the counts of the score: nats, right answers, answers


def log_score(counts: np.ndarray) -> np.ndarray:
    """Return 100 times the mean over K tasks of the logarithm of their scores (...), from counts (..., 3 K).

    The score of a task is right / answers * exp(-nats / answers). Of a classification, nats are 0, so it is the accuracy; of a
    language model, all answers are right, so it is 1 / perplexity. A task without a right answer counts as having half of one.
    """
    nats, right, answers = np.moveaxis(counts.reshape(*counts.shape[:-1], -1, COLUMNS).astype(np.float64), -1, 0)
    answers = np.maximum(answers, 1)
    return np.asarray(100 * (np.log(np.maximum(right, 0.5) / answers) - nats / answers).mean(axis=-1))


class Multi(Task):
    """Several tasks at once, each with its own head.

    Its score is the mean over tasks of the logarithm of each task's own score, in log points (1/100): the difference of two
    runs is the mean relative gain of the tasks, in percent as long as it is small. The metrics of a task are named TASK/METRIC.
    """

    name = "multi"
    objective = "log_score"
    encoding = "those of its tasks"
    generates = True

    def __init__(self, single: Mapping[str, Task]) -> None:
        self.single = single
        own = {
            f"{task}/{name}": replace(metric, name=f"{task}/{name}", counts=metric.counts and f"{task}/{metric.counts}")
            for task, entry in single.items()
            for name, metric in entry.metrics.items()
        }
        joint = Metric("log_score", Direction.MAX, "log points", 1.0, 2, "log_score", log_score)
        self.metrics: Mapping[str, Metric] = named(joint) | own

    @property
    def keys(self) -> type[Keys]:
        return MultiKeys

    def parts(self, config: RunConfig) -> Mapping[str, Part]:
        """Return the single runs of `config.tasks`; raise ConfigError, also for keys that do not fit several tasks."""
        keys = config.part(MultiKeys)
        names = [name.strip() for name in keys.tasks.split("+")]
        if len(names) < 2 or len(set(names)) < len(names) or not set(names) <= self.single.keys():
            raise ConfigError(
                f"The value of `tasks` is {keys.tasks!r}, but must be two or more different tasks of "
                f"{', '.join(self.single)}, joined by +"
            )
        self._check(config, names)
        values = {key: value for key, value in config if key in RunConfig.model_fields}
        own = {"objective": None, "added_pairs": None}
        return {name: Part(self.single[name], RunConfig.of({**values, **own, "task": name})) for name in names}

    def objectives(self, config: RunConfig) -> dict[str, Metric]:
        """Return the metric of each task by which its score is measured."""
        return {name: self.metrics[f"{name}/{part.task.objective}"] for name, part in self.parts(config).items()}

    def _check(self, config: RunConfig, names: Sequence[str]) -> None:
        """Raise ConfigError for keys that do not fit several tasks."""
        if config.adapter not in ADAPTERS:
            raise ConfigError(
                f"The value of `adapter` is {config.adapter!r}, but must be one of {', '.join(ADAPTERS)} with several tasks"
            )
        if config.growth != 1:
            raise ConfigError(f"The value of `growth` is {config.growth:g}, but must be 1 with several tasks")
        if config.pretrain in names:
            raise ConfigError(f"The value of `pretrain` is {config.pretrain!r}, but must not be one of `tasks`")
        if has_own_pairs(config) and (config.dora or config.lora_init != "default"):
            key, value, wanted = ("dora", True, False) if config.dora else ("lora_init", config.lora_init, "default")
            raise ConfigError(f"The value of `{key}` is {value!r}, but must be {wanted!r} with `task_adapters` both")

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return overrides, as `Component.values` does: keys that neither the tasks nor their combination read."""
        keys, parts = config.part(MultiKeys), self.parts(config)
        combination = COMBINATIONS[keys.combination]
        read = {key for part in parts.values() for key in part.task.keys.model_fields}
        read |= {"tasks", "combination", *combination.keys.model_fields}
        if combination.shares and config.adapter == "lora":
            read.add("task_adapters")
        overridden: dict[str, Any] = dict.fromkeys(MultiKeys.model_fields.keys() - read)
        for part in parts.values():
            changes = part.task.values(part.config)
            overridden |= {key: value for key, value in changes.items() if key in MultiKeys.model_fields}
        return overridden

    def corpus(self, config: RunConfig) -> Corpus:
        """Return the rows of all tasks, in the splits that all of them have."""
        corpora = {name: part.task.corpus(part.config) for name, part in self.parts(config).items()}
        first, *others = corpora.values()
        splits = [name for name in first.splits if all(name in other.splits for other in others)]
        origins = [corpus.origin for corpus in corpora.values()]
        return Corpus(
            name=" + ".join(corpora),
            origin=DataOrigin(
                source=", ".join(origin.source for origin in origins),
                licence=_licence([origin.licence for origin in origins]),
                stand_in=any(origin.stand_in for origin in origins),
            ),
            splits={name: [row for corpus in corpora.values() for row in corpus.splits[name]] for name in splits},
            rejected=sum((corpus.rejected for corpus in corpora.values()), Counter()),
            facts={key: value for corpus in corpora.values() for key, value in corpus.facts.items()},
            notes=tuple(chain.from_iterable(corpus.notes for corpus in corpora.values())),
        )

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Score the model of each task on its own split."""
        assert isinstance(data, JointData)
        parts, models = self.parts(config), models_of(model)
        own = {
            name: part.task.evaluate(models[name], data.parts[name], part.config, split) for name, part in parts.items()
        }
        counts = [score_counts(parts[name].task, scores) for name, scores in own.items()]
        joint = {"log_score": block_diagonal(counts)[None]}
        return Evaluation(
            metrics=measured({"log_score": self.metrics["log_score"]}, joint, split) | _by_task(own, "metrics"),
            statistics=joint | _by_task(own, "statistics"),
            samples=[{"task": name, **sample} for name, scores in own.items() for sample in scores.samples],
            tables=_by_task(own, "tables"),
            generate_seconds=sum(scores.generate_seconds for scores in own.values()),
        )

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return the best baseline of each task by its own objective, together."""
        assert isinstance(data, JointData)
        meanings, logs = [], []
        scores: dict[str, tuple[float, float]] = {}
        for name, part in self.parts(config).items():
            metric = part.task.metrics[part.task.objective]
            own = part.task.baselines(data.parts[name], part.config, split).values()
            scored = [baseline for baseline in own if metric.on(split) in baseline.scores]
            best = metric.direction.best(scored, key=lambda baseline: baseline.scores[metric.on(split)][0])
            if best is None:
                return {}
            value = best.scores[metric.on(split)][0]
            meanings.append(f"{name}: {best.meaning}")
            scores |= {f"{name}/{key}": score for key, score in best.scores.items()}
            logs.append(log_of(metric, value))
        joint = {"log_score": (100 * float(np.mean(logs)), 0.0)}
        return {"best_of_each": Baseline(meaning="; ".join(meanings), scores=joint | scores)}

    # -- what only a single task has

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        raise NotImplementedError

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        raise NotImplementedError

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        raise NotImplementedError

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        raise NotImplementedError

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        raise NotImplementedError


def log_of(metric: Metric, value: float) -> float:
    """Return the logarithm of a task's score, as in `log_score`, from the value of its objective: accuracy in percent or loss."""
    if metric.direction is Direction.MIN:
        return -value
    return math.log(max(value / 100, SMALLEST))


def score_counts(task: Task, scores: Evaluation) -> np.ndarray:
    """Return the counts (N, 3) of `log_score` of a task: nats, right answers and answers of each example."""
    metric = task.metrics[task.objective]
    counts = scores.statistics[str(metric.counts)].sum(axis=0, dtype=np.float64)
    if metric.counts == "loss":
        return np.asarray(counts[:, [0, 1, 1]])
    classes = round(counts.shape[1] ** 0.5)
    right = counts[:, :: classes + 1].sum(axis=1)  # the diagonal of the confusion matrix
    return np.stack([np.zeros(len(counts)), right, counts.sum(axis=1)], axis=1)


def block_diagonal(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of all parts (N_k, 3), each with its own columns, as one array (N_1 + ... + N_K, 3 K)."""
    joint = np.zeros((sum(map(len, parts)), COLUMNS * len(parts)))
    row = 0
    for place, part in enumerate(parts):
        joint[row : row + len(part), COLUMNS * place : COLUMNS * (place + 1)] = part
        row += len(part)
    return joint


def _by_task(scores: Mapping[str, Evaluation], field: str) -> dict[str, Any]:
    """Return the entries of a field of all evaluations, as TASK/NAME."""
    return {f"{task}/{name}": value for task, own in scores.items() for name, value in getattr(own, field).items()}


def _licence(licences: Sequence[Licence]) -> Licence:
    terms = dict.fromkeys(licence.terms for licence in licences)
    return Licence(terms=" ".join(terms), free=all(licence.free for licence in licences))
