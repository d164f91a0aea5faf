"""Score the majority class and a logistic regression on words: python -m tests.benchmarks.bag_of_words [--data-dir FOLDER]."""

import argparse
import re
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from gpt2core.config import OWN_TASKS, RunConfig
from gpt2core.data.corpus import Row
from gpt2core.errors import UserError
from gpt2core.metrics.classification import accuracy, confusion_matrix, macro_f1
from gpt2core.tasks import TASKS
from gpt2core.tasks.classification import Classification


def features(row: Row) -> list[str]:
    """Words and pairs of neighbouring words; of two texts, which of them are in both and which in one."""
    first, second = _ngrams(row.text), _ngrams(row.second)
    if not row.second:
        return sorted(first)
    return [f"both {word}" for word in sorted(first & second)] + [f"one {word}" for word in sorted(first ^ second)]


def _ngrams(text: str) -> set[str]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return {*words, *map(" ".join, pairwise(words))}


def scores(train: Sequence[Row], dev: Sequence[Row], classes: int, strength: float) -> dict[str, tuple[float, float]]:
    """Accuracy and macro-F1 in percent of both ways; `strength` is the inverse of the L2 penalty's weight."""
    labels, gold = (np.array([row.label for row in rows]) for rows in (train, dev))
    vectorizer = CountVectorizer(analyzer=features, min_df=2)
    model = LogisticRegression(C=strength, max_iter=1000).fit(vectorizer.fit_transform(train), labels)
    answers = {
        "majority class": np.full(len(gold), np.bincount(labels).argmax()),
        "bag of words": model.predict(vectorizer.transform(dev)),
    }
    counts = {name: confusion_matrix(gold, predicted, classes).ravel() for name, predicted in answers.items()}
    return {name: (float(accuracy(count)), float(macro_f1(count))) for name, count in counts.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the dev scores of every task whose data is at hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="folder with the course's files")
    parser.add_argument("--strength", type=float, default=0.03, help="inverse of the L2 penalty (default: 0.03)")
    options = parser.parse_args(argv)
    for name, task in TASKS.items():
        if not isinstance(task, Classification) or name in OWN_TASKS:
            continue
        started = time.perf_counter()
        try:
            corpus = task.corpus(RunConfig(data_dir=options.data_dir))
        except UserError as error:
            print(f"{name}: {error}")
            continue
        found = scores(
            corpus.splits["train"], corpus.splits["dev"], len(task.class_names(RunConfig())), options.strength
        )
        print(corpus.describe())
        for way, (right, f1) in found.items():
            print(f"  {way}: accuracy {right:.2f}, macro F1 {f1:.2f}")
        print(f"  {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
