"""How well a model predicts texts: three ways to say one sum of losses.

Counts (..., 3) hold nats, predicted tokens and the characters of these tokens. The loss per token and the perplexity
depend on the tokenizer; bits per character compare models whose tokenizers differ.
"""

import math

import numpy as np

from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric, named


def mean_loss(counts: np.ndarray) -> np.ndarray:
    """Mean loss (...) of summed counts (..., S): the first in units of the second, which counts tokens or examples."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))


def perplexities(counts: np.ndarray) -> np.ndarray:
    """exp of the loss in nats per token; of one too large for it, a large number."""
    return np.asarray(np.exp(np.minimum(mean_loss(counts), 700.0)))


def perplexity(loss: float) -> float:
    """The same of one loss in nats per token."""
    return math.exp(min(loss, 700.0))


def bits_per_character(counts: np.ndarray) -> np.ndarray:
    """The loss in bits, in units of the characters of the predicted tokens."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 2], 1) / math.log(2))


#: What a task of language modelling is judged by, all of the counts `loss`.
LOSSES = named(
    Metric(
        name="dev_loss",
        direction=Direction.MIN,
        unit="nats per token",
        margin=0.05,
        digits=3,
        counts="loss",
        score=mean_loss,
        bounds=(0.0, math.inf),
    ),
    Metric(
        name="dev_perplexity",
        direction=Direction.MIN,
        unit="",
        margin=2.0,
        counts="loss",
        score=perplexities,
        bounds=(1.0, math.inf),
    ),
    Metric(
        name="bits_per_character",
        direction=Direction.MIN,
        unit="bits per character",
        margin=0.02,
        digits=3,
        counts="loss",
        score=bits_per_character,
        bounds=(0.0, math.inf),
    ),
)
