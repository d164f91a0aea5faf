"""How the tasks of a run are combined in its optimizer steps. To add a way: a function, its entry and a line in COMBINATIONS.

Legend: `K` tasks, `P` parameters that tasks share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gpt2core.component import Component, Keys, Table, key
from gpt2core.config import AnswerKeys, RunConfig, SonnetKeys

SMALLEST = 1e-8  # added to a loss before it divides or its logarithm is taken


class SamplingKeys(Keys):
    """Keys of the sampling of tasks."""

    sampling_temperature: float = key(
        1.0, "multi, sampling: tasks are drawn by (training examples)^(1/T); 1: by size, large: equally", "result", gt=0
    )


class FamoKeys(Keys):
    """Keys of FAMO."""

    famo_lr: float = key(0.025, "multi, famo: learning rate of the task weights (beta)", "training", gt=0)
    famo_decay: float = key(0.001, "multi, famo: weight decay of the task weights (gamma)", "training", ge=0)


class MultiKeys(AnswerKeys, SonnetKeys, SamplingKeys, FamoKeys):
    """Keys of runs of several tasks, with those of the tasks."""

    tasks: str = key("sonnet+cfimdb", "multi: the tasks to learn, joined by +", "data", "step", "evaluation", "score")
    combination: str = key(
        "sum", "multi: how tasks are combined: separate (models), sum (of losses), sampling, pcgrad or famo", "step"
    )
    task_adapters: Literal["shared", "both"] = key(
        "shared", "multi, lora: shared (one pair for all tasks), or both (also one for each task)", "step"
    )


@dataclass(frozen=True, kw_only=True)
class Combination(Component):
    """An entry of COMBINATIONS. Without `weigh` and `project`, the gradients of all tasks of a step are added up."""

    meaning: str
    shares: bool = True  # whether tasks share parameters
    samples: bool = False  # whether a step has one task, rather than all
    # losses (K,), task logits (K,) -> weights of the tasks' gradients (K,)
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None
    # gradients (K, P) -> joint gradient (P,)
    project: Callable[[Tensor, np.random.Generator], Tensor] | None = None

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return self.meaning

    @property
    def by_task(self) -> bool:
        """Whether it needs the gradient of each task."""
        return self.weigh is not None or self.project is not None


def shares_of_tasks(sizes: Sequence[int], temperature: float) -> np.ndarray:
    """Return the probability (K,) of each task: its number of training examples to the power 1 / T, normalised.

    As in multilingual BERT and mT5 (Xue et al. 2020, arXiv 2010.11934, section 3.2), with alpha = 1 / T.
    """
    logits = np.log(np.asarray(sizes, dtype=np.float64)) / temperature
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def project_conflicts(gradients: Tensor, random: np.random.Generator) -> Tensor:
    """Return the joint gradient (P,) of PCGrad (Yu et al. 2020, arXiv 2001.06782, algorithm 1).

    For each task i, and each other task j in a random order, if the current g_i has a negative product with the original g_j,
    its component along g_j is removed: g_i - (g_i . g_j) / |g_j|^2 g_j. The results are added up.
    """
    total = torch.zeros_like(gradients[0])
    for number in range(len(gradients)):
        own = gradients[number].clone()
        for place in random.permutation([place for place in range(len(gradients)) if place != number]):
            other = gradients[place]
            # A GPU is not waited for: without a conflict, zero times the other gradient is subtracted.
            own -= (own @ other).clamp(max=0.0) / (other @ other).clamp(min=SMALLEST**2) * other
        total += own
    return total


def famo_weights(losses: Tensor, logits: Tensor) -> Tensor:
    """Return the weight (K,) of each task's gradient in FAMO: c z_i / l_i with z = softmax(logits), c = 1 / sum(z_i / l_i).

    Liu et al. 2023, arXiv 2306.03792, algorithm 1, from the losses (K,) of the step.
    """
    weights = logits.softmax(dim=0) / (losses + SMALLEST)
    return weights / weights.sum()


def famo_logits(logits: Tensor, before: Tensor, after: Tensor, lr: float, decay: float) -> Tensor:
    """Return the next task logits (K,) of FAMO, from the losses (K,) of the same batches before and after the update.

    Algorithm 1 of arXiv 2306.03792: logits - lr (delta + decay logits), where delta is the gradient with respect to the logits
    of sum(z_i (log before_i - log after_i)), so that tasks whose losses fall least gain weight.
    """
    z = logits.softmax(dim=0)
    fall = (before + SMALLEST).log() - (after + SMALLEST).log()
    delta = z * (fall - (z * fall).sum())
    return logits - lr * (delta + decay * logits)


COMBINATIONS: Table[Combination] = Table(
    "combination",
    Combination,
    {
        "separate": Combination(meaning="a model for each task, which shares nothing", shares=False),
        # As good as later methods if both are tuned: Kurin et al. 2022, arXiv 2201.04122.
        "sum": Combination(meaning="the sum of the tasks' losses (scalarisation)"),
        "sampling": Combination(meaning="one task in each step, drawn by its size", samples=True, keys=SamplingKeys),
        "pcgrad": Combination(meaning="PCGrad: gradients without their conflicts", project=project_conflicts),
        "famo": Combination(meaning="FAMO: weights that let all losses fall alike", weigh=famo_weights, keys=FamoKeys),
    },
)


def has_own_pairs(config: RunConfig) -> bool:
    """Whether each task of a run of several has a LoRA pair of its own, beside the shared one."""
    keys = config.part(MultiKeys)
    return config.adapter == "lora" and COMBINATIONS[keys.combination].shares and keys.task_adapters == "both"
