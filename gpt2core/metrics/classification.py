"""Scores of a classification from its confusion matrix, K * K counts by gold and predicted class, and its probabilities."""

import math

import numpy as np


def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count (classes, classes): how many examples of each gold class were given each predicted class."""
    counts = np.bincount(gold * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def one_hot(gold: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (1, N, K * K) of each example: a 1 in the cell gold * K + predicted of a confusion matrix of K classes."""
    return np.eye(classes * classes, dtype=np.uint8)[None, gold * classes + predicted]


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Percent (...) of right answers in confusion matrices (..., K * K)."""
    right, _, answers = _margins(counts)
    return np.asarray(100.0 * right.sum(axis=-1) / np.maximum(1, answers.sum(axis=-1)))


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 in percent (..., K) of each class: the harmonic mean of precision and recall; 0 where a class is never right."""
    right, gold, answers = _margins(counts)
    return np.asarray(200.0 * right / np.maximum(1, gold + answers))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 in percent (...) of the classes that are in the gold or were predicted."""
    _, gold, answers = _margins(counts)
    present = gold + answers > 0
    return np.asarray((f1_scores(counts) * present).sum(axis=-1) / np.maximum(1, present.sum(axis=-1)))


def second_f1(counts: np.ndarray) -> np.ndarray:
    """F1 in percent (...) of the second class, where a positive answer is the second of two."""
    return f1_scores(counts)[..., 1]


def _margins(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right answers, examples and answers (..., K) of each class in confusion matrices (..., K * K)."""
    classes = math.isqrt(counts.shape[-1])
    matrix = np.asarray(counts, dtype=np.float64).reshape(*counts.shape[:-1], classes, classes)
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1), matrix.sum(axis=-2)


def calibration_error(probabilities: np.ndarray, gold: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1 (Guo et al. 2017): how far confidence is from accuracy, in bins of equal width.

    `probabilities` (N, K), `gold` (N,). The confidence of an example is the probability of its likeliest class.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(number, weights=confidence - right, minlength=bins))
    return float(gaps.sum() / len(gold))


def squared_distances(probability: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """Squared distances (N,) of the probabilities (N,) of an event from whether it happened (N,): their mean is the Brier
    score (Brier 1950), 0 to 1."""
    return np.asarray((probability - happened) ** 2)
