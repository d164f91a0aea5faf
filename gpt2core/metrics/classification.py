"""Scores of a classification from its confusion matrix (K, K), rows gold and columns predicted, and its probabilities."""

import numpy as np


def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count (classes, classes): how many examples of each gold class were given each predicted class."""
    counts = np.bincount(gold * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def accuracy(confusion: np.ndarray) -> float:
    """Percent of right answers."""
    return float(100.0 * np.trace(confusion) / max(1, confusion.sum()))


def f1_scores(confusion: np.ndarray) -> np.ndarray:
    """F1 in percent of each class (K,): the harmonic mean of precision and recall; 0 where a class is never right."""
    right = np.diag(confusion)
    return np.asarray(200.0 * right / np.maximum(1, confusion.sum(axis=0) + confusion.sum(axis=1)))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 in percent of the classes that are in the gold or were predicted."""
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(f1_scores(confusion)[present].mean())


def calibration_error(probabilities: np.ndarray, gold: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1 (Guo et al. 2017): how far confidence is from accuracy, in bins of equal width.

    `probabilities` (N, K), `gold` (N,). The confidence of an example is the probability of its likeliest class.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(number, weights=confidence - right, minlength=bins))
    return float(gaps.sum() / len(gold))


def brier_score(probability: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared distance (Brier 1950), 0 to 1, of the probabilities (N,) of an event from whether it happened (N,)."""
    return float(np.mean((probability - happened) ** 2))
