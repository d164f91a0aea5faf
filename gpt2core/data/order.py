"""The order in which training examples enter: samples, growing epochs, and a curriculum of added pairs."""

import math

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.data.tokens import sample_order


def epoch_sizes(config: RunConfig, examples: int) -> list[int]:
    """Return the number of training examples of each epoch: all in the last, and `growth` times fewer in each one before."""
    least = min(examples, config.batch_size)
    remaining = range(config.epochs - 1, -1, -1)
    return [max(least, math.ceil(examples / config.growth**epochs)) for epochs in remaining]


def training_order(config: RunConfig, own: int, added: int) -> tuple[np.ndarray, list[int]]:
    """Return the indices of the examples that a run trains on, and how many of them, from the first on, each epoch has.

    The examples are a random sample of `train_examples` of the first `own` ones, the same as without added ones, mixed with all
    `added` ones behind them. A curriculum (`tau_rule`) admits the best e / E of the added ones in epoch e of E: they are ordered
    by score, best first, and the percentile of the threshold falls linearly, as in curriculum labelling (Cascante-Bonilla et
    al. 2021, arXiv 2001.06001), though without training anew at each step.
    """
    order = sample_order(own)[: config.train_examples]
    if added:
        order = np.concatenate([order, np.arange(own, own + added)])[sample_order(len(order) + added)]
    sizes = epoch_sizes(config, len(order))
    if not added or config.tau_rule != "curriculum" or config.added_pairs == "real":
        return order, sizes
    enters = np.searchsorted(sizes, np.arange(len(order)), side="right")  # the epoch, counted from 0
    admitted = np.where(order < own, 0, (order - own) * config.epochs // added)
    enters = np.maximum(enters, admitted)
    later = np.argsort(enters, kind="stable")
    return order[later], np.searchsorted(enters[later], np.arange(config.epochs), side="right").tolist()
