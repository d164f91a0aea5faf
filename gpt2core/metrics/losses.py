"""Metrics of language modelling from one sum of losses.

Counts (..., 3) hold nats, predicted tokens and the characters of these tokens. Loss per token and perplexity depend on the
tokenizer; bits per character can be compared between models with different tokenizers.
"""

import math

import numpy as np

from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import NOT_NEGATIVE, Metric, named


def mean_loss(counts: np.ndarray) -> np.ndarray:
    """Return the mean loss (...) from counts (..., S): a sum of losses, and the number of tokens or examples."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))


def perplexities(counts: np.ndarray) -> np.ndarray:
    """Return exp(nats per token), finite even for huge losses."""
    return np.asarray(np.exp(np.minimum(mean_loss(counts), 700.0)))


def perplexity(loss: float) -> float:
    """Return exp of a loss in nats per token, finite even for huge losses."""
    return math.exp(min(loss, 700.0))


def bits_per_character(counts: np.ndarray) -> np.ndarray:
    """Return the loss in bits per character of the predicted tokens."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 2], 1) / math.log(2))


#: The metrics of language modelling, all from the counts `loss`.
LOSSES = named(
    Metric("dev_loss", Direction.MIN, "nats per token", 0.05, 3, "loss", mean_loss, NOT_NEGATIVE),
    Metric("dev_perplexity", Direction.MIN, "", 2.0, 2, "loss", perplexities, (1.0, math.inf)),
    Metric(
        "bits_per_character", Direction.MIN, "bits per character", 0.02, 3, "loss", bits_per_character, NOT_NEGATIVE
    ),
)
