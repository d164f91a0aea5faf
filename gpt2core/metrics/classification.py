"""Scores of classification from a confusion matrix, flattened to K * K counts by gold and predicted class, or probabilities."""

import math

import numpy as np


def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix (K, K): examples by gold class (rows) and predicted class (columns)."""
    counts = np.bincount(gold * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def one_hot(gold: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return each example's confusion matrix as counts (1, N, K * K): a 1 in the cell gold * K + predicted."""
    counts = np.zeros((1, len(gold), classes * classes), dtype=np.uint8)
    counts[0, np.arange(len(gold)), gold * classes + predicted] = 1
    return counts


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the accuracy in percent (...) from confusion matrices (..., K * K)."""
    correct, _, predicted = _margins(counts)
    return np.asarray(100.0 * correct.sum(axis=-1) / np.maximum(1, predicted.sum(axis=-1)))


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """Return the F1 of each class in percent (..., K); 0 for a class without a correct prediction."""
    correct, gold, predicted = _margins(counts)
    return np.asarray(200.0 * correct / np.maximum(1, gold + predicted))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Return the mean F1 in percent (...) over the classes that occur in the gold labels or the predictions."""
    _, gold, predicted = _margins(counts)
    present = gold + predicted > 0
    return np.asarray((f1_scores(counts) * present).sum(axis=-1) / np.maximum(1, present.sum(axis=-1)))


def mcc(counts: np.ndarray) -> np.ndarray:
    """Return the Matthews correlation (...) of K classes (Gorodkin 2004), -1 to 1; 0 if only one class is gold or predicted."""
    correct, gold, predicted = _margins(counts)
    total = gold.sum(axis=-1)
    covariance = correct.sum(axis=-1) * total - (gold * predicted).sum(axis=-1)
    spread = np.sqrt((total**2 - (gold**2).sum(axis=-1)) * (total**2 - (predicted**2).sum(axis=-1)))
    return np.asarray(np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0))


def second_f1(counts: np.ndarray) -> np.ndarray:
    """Return the F1 in percent (...) of the second class, the positive one of two."""
    return f1_scores(counts)[..., 1]


def _margins(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return correct predictions, gold labels and predictions (..., K) per class of confusion matrices (..., K * K)."""
    classes = math.isqrt(counts.shape[-1])
    matrix = np.asarray(counts, dtype=np.float64).reshape(*counts.shape[:-1], classes, classes)
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1), matrix.sum(axis=-2)


def calibration_error(probabilities: np.ndarray, gold: np.ndarray, *, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017), 0 to 1: |confidence - accuracy| in bins of equal width.

    `probabilities` is (N, K), `gold` (N,). The confidence of an example is the probability of its likeliest class.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(number, weights=confidence - correct, minlength=bins))
    return float(gaps.sum() / len(gold))
