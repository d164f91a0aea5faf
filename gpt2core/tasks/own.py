"""Tasks on a user's own data: `classify` a text or a pair, `generate` a text from a prompt, or model the language of `text`."""

import csv
import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2core.config import OWN_FLAGS, OWN_TASKS, OwnClassificationKeys, OwnDataKeys, OwnGenerationKeys, RunConfig
from gpt2core.data import own
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example, Tokens, encoded
from gpt2core.errors import ConfigError
from gpt2core.metrics.baselines import Baseline, naive_bayes
from gpt2core.metrics.chrf import chrf_from_statistics, sentence_statistics
from gpt2core.metrics.classification import accuracy, confusion_matrix, macro_f1, mcc
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import LOSSES
from gpt2core.metrics.metric import Metric, named, percent
from gpt2core.metrics.rouge import match_counts, rouge_counts
from gpt2core.model import GPT2
from gpt2core.tasks.base import Evaluation, LanguageTask, TaskData, loss_statistics, measured
from gpt2core.tasks.classification import Classification
from gpt2core.tasks.writing import choose_outputs, continued
from gpt2core.tokenizer import Tokenizer

BLOCK = 256  # tokens, at most, of an example of `text`
CLASSIFY, GENERATE, TEXT = OWN_TASKS


def with_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with the task that its own data asks for and, to classify, the classes of the training texts.

    `--label` asks for `classify`, `--target` for `generate`, neither for `text`. Settings without own data are returned as they
    are. Raises ConfigError for contradicting settings, DataError or HubError if the classes cannot be read.
    """
    fields = RunConfig.model_fields
    given = [flag for flag in OWN_FLAGS if values.get(flag, fields[flag].default) != fields[flag].default]
    if not given:
        return dict(values)
    if "label" in given and "target" in given:
        raise ConfigError(
            "--label and --target contradict each other: give --label for classes, --target for texts to generate"
        )
    if "train" not in given and values.get("task") not in OWN_TASKS:  # a trained model can be scored without
        raise ConfigError(f"--{given[0]} needs --train, the file, folder or hub data set with the training texts")
    task = CLASSIFY if "label" in given else GENERATE if "target" in given else TEXT
    if values.get("task", task) != task:
        raise ConfigError(
            f"The task `{values['task']}` does not fit: own data with {OWN_TASKS[task]} has the task `{task}`"
        )
    complete = {**values, "task": task}
    if task == CLASSIFY and not values.get("class_names"):
        complete["class_names"] = own.class_names(RunConfig.of(complete))
    return complete


class OwnClassification(Classification):
    """Classification of texts, or of pairs of texts, into any classes."""

    name = CLASSIFY
    keys = OwnClassificationKeys
    encoding = "stripped; pairs joined by a line break"

    def class_names(self, config: RunConfig) -> tuple[str, ...]:
        return config.class_names

    def corpus(self, config: RunConfig) -> Corpus:
        return own.load_own(config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """Yield one example per text or pair."""
        texts = [f"{row.text}\n{row.second}" if row.second else row.text for row in rows]
        for row, text, ids in zip(rows, texts, encoded(texts, tokenizer), strict=True):
            yield Example(row.id, text, ids, row.label)

    def submission(self, tokens: Tokens, classes: np.ndarray, config: RunConfig) -> str:
        """Return predictions as CSV: the id of each text, which is its number in a file of --test, the text and its class."""
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["id", "text", config.label])
        names = [self.class_names(config)[number] for number in classes]
        writer.writerows(zip(tokens.ids, tokens.texts, names, strict=True))
        return lines.getvalue()

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return the majority class, and naive Bayes on the tokens of the training texts, as baselines."""
        train, held_out = data.splits["train"], data.splits[split]
        classes = len(self.class_names(config))
        chances = naive_bayes(_texts(train), train.labels, _texts(held_out), len(data.tokenizer.characters), classes)
        gold = held_out.labels
        confusion = confusion_matrix(gold, chances.argmax(axis=1), classes).ravel()
        scores = {"accuracy": accuracy(confusion), "macro_f1": macro_f1(confusion), "mcc": mcc(confusion)}
        scores[self.metrics["dev_loss"].on(split)] = -chances[np.arange(len(gold)), gold].mean()
        meaning = "a bag of tokens of the training texts (naive Bayes)"
        bag = Baseline(meaning=meaning, scores={name: (float(score), 0.0) for name, score in scores.items()})
        return super().baselines(data, config, split) | {"bag_of_words": bag}


class OwnGeneration(LanguageTask):
    """Generation of a text from a prompt. The objective is the loss of the target; others score `config.decode_seeds` texts."""

    name = GENERATE
    keys = OwnGenerationKeys
    encoding = "prompt, line break, target, EOS"
    cuts = True
    generates = True
    metrics: Mapping[str, Metric] = {
        **LOSSES,
        **named(
            Metric("chrf", Direction.MAX, "chrF", 1.0, 2, "chrf", chrf_from_statistics, (0.0, 100.0)),
            Metric("rouge_l", Direction.MAX, "points", 1.0, 2, "rouge_l", percent, (0.0, 100.0)),
            Metric("exact_match", Direction.MAX, "points", 1.0, 2, "exact_match", percent, (0.0, 100.0)),
        ),
    }

    def corpus(self, config: RunConfig) -> Corpus:
        return own.load_own(config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """Yield one example per pair: the prompt, which is given, then the target and EOS."""
        prompts = encoded((f"{row.text}\n" for row in rows), tokenizer)
        targets = encoded((row.second for row in rows), tokenizer)
        for row, prompt, target in zip(rows, prompts, targets, strict=True):
            yield Example(row.id, row.text, [*prompt, *target, tokenizer.eos], given=len(prompt))

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Return the loss of the targets, and scores of texts generated with `config.decode_seeds` seeds."""
        if not config.decode_seeds:
            return super().evaluate(model, data, config, split)
        loss = loss_statistics(self, model, data, config, split)
        tokens, tokenizer = data.splits[split], data.tokenizer
        gold = targets(tokens, tokenizer)
        prompts = [tokens[number][:given].tolist() for number, given in enumerate(tokens.given)]
        started = time.perf_counter()
        written = continued(model, tokenizer, prompts, config)
        generate_seconds = time.perf_counter() - started
        of_outputs = generation_counts(written, gold)
        chosen = choose_outputs(self, of_outputs, tokens, config)
        statistics = {"loss": loss[None], **chosen.counts(of_outputs)}
        texts, *_ = chosen.texts(written)
        return Evaluation(
            metrics=measured(self.metrics, statistics, split),
            statistics=statistics,
            samples=chosen.samples(tokens.ids, tokens.texts, texts, gold),
            tables=chosen.tables(),
            generate_seconds=generate_seconds,
        )

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return a copy of the prompt, the most frequent training target, and n-gram models, as baselines."""
        train, held_out = data.splits["train"], data.splits[split]
        gold = targets(held_out, data.tokenizer)
        frequent, _ = Counter(targets(train, data.tokenizer)).most_common(1)[0]
        texts = {
            "prompt": ("a copy of the prompt", list(held_out.texts)),
            "frequent_target": ("always the most frequent training target", [frequent] * len(gold)),
        }
        written = {}
        for name, (meaning, hypotheses) in texts.items():
            counts = generation_counts([hypotheses], gold)
            scores = measured(self.metrics, counts, split)
            written[name] = Baseline(meaning=meaning, scores={key: (scores[key], 0.0) for key in counts})
        return written | super().baselines(data, config, split)


class OwnText(LanguageTask):
    """Language modelling of texts, each with EOS, in blocks of at most BLOCK tokens."""

    name = TEXT
    keys = OwnDataKeys
    encoding = f"text, EOS, in blocks of at most {BLOCK} that overlap by one"

    def corpus(self, config: RunConfig) -> Corpus:
        return own.load_own(config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """Yield one example per text, or several if it is longer than a block."""
        for row, ids in zip(rows, encoded((row.text for row in rows), tokenizer), strict=True):
            ids = [*ids, tokenizer.eos]
            for start in range(0, max(1, len(ids) - 1), BLOCK - 1):
                yield Example(row.id, row.text if not start else "", ids[start : start + BLOCK])


def targets(tokens: Tokens, tokenizer: Tokenizer) -> list[str]:
    """Return the texts after the given tokens, without EOS."""
    ends = [ids[given:] for ids, given in zip(_texts(tokens), tokens.given, strict=True)]
    return [tokenizer.decode([int(token) for token in end if token != tokenizer.eos]).strip("\n") for end in ends]


def generation_counts(written: Sequence[Sequence[str]], gold: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the counts of chrF, ROUGE-L and exact match (P, N, S) of P texts for each of N targets."""
    scorers = {"chrf": sentence_statistics, "rouge_l": rouge_counts, "exact_match": match_counts}
    return {name: np.stack([counts(texts, gold) for texts in written]) for name, counts in scorers.items()}


def _texts(tokens: Tokens) -> list[np.ndarray]:
    return [tokens[number] for number in range(len(tokens))]
