"""Cut patterns of ranks out of a trained nested LoRA, score them, and compare these scores with those of LoRA trained alone."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import spearmanr

from gpt2core.adapters.lora import lora_layers
from gpt2core.adapters.nested import NESTED
from gpt2core.adapters.ranks import SHAPES, parse_ranks, shared
from gpt2core.builders import build_model, device
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.config import RunConfig, parse_blocks
from gpt2core.describe import count_kept
from gpt2core.errors import ConfigError, DivergedError
from gpt2core.metrics.intervals import Interval
from gpt2core.model import GPT2
from gpt2core.pretrain_stage import run_data, starting_model
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import objective_of
from gpt2core.training import train

LARGEST_WEIGHT = 4  # of a block in a random pattern
TRIES = 100  # random patterns drawn for each one that is wanted
LEAST = 5  # patterns trained alone from which a rank correlation is reported


class Cuts:
    """The cut-outs of a run with the adapter `nested`. Scores are by the run's objective, on the texts that choose."""

    def __init__(self, folder: Path, places: Mapping[str, str]) -> None:
        """Load the best epoch of the run in `folder`; `places` overrides its local paths. Raises UserError."""
        config = run_config(folder)
        if config.adapter != "nested" or config.is_round:
            raise ConfigError(
                f"{folder}: has the adapter `{config.adapter}` and {config.folds} folds, but must have `nested` and 1: "
                "train one with --adapter nested"
            )
        self.base = starting_model(config)
        self.nested = build_model(config, self.base, device())
        epoch = load_best(folder, self.nested, self.base)
        self.config = config.but(decode_seeds=0, **places)
        self.task = TASKS[config.task]
        self.objective = objective_of(self.task, self.config)
        self.data = run_data(self.config)
        self.blocks = parse_blocks(NESTED.block_spec(config), self.nested.config.n_layer)
        self.description = f"Nested LoRA of rank {config.rank} on {config.model}, epoch {epoch} of {folder}"

    def alone(self, ranks: str) -> RunConfig:
        """Return the run that trains LoRA with a pattern of ranks, and all other settings of the nested run."""
        return self.config.but(adapter="lora", ranks=ranks)

    def parameters(self, rank: int) -> int:
        """Return the number of parameters that patterns of this mean rank have."""
        return count_kept(self.alone(self.uniform(rank)))

    def uniform(self, rank: int) -> str:
        """Return the pattern with the same rank for all blocks."""
        return self._text([rank] * len(self.blocks))

    def scored(self, rank: int, count: int) -> dict[str, float]:
        """Return the scores of up to `count` cut-outs of this mean rank, best first: all shapes that fit, and random patterns."""
        patterns = self._patterns(rank, count)
        scores = {ranks: self._score(self.cut_out(ranks)) for ranks in patterns}
        return {ranks: scores[ranks] for ranks in self.objective.direction.ranked(scores, key=lambda r: scores[r])}

    @torch.no_grad()
    def cut_out(self, ranks: str) -> GPT2:
        """Return a model with the first directions of the nested pairs as its LoRA pairs, and the head of the nested model."""
        model = build_model(self.alone(ranks), self.base, device()).train(False)
        whole = dict(lora_layers(self.nested))
        for name, layer in lora_layers(model):
            rank = len(layer.lora_A.weight)
            layer.lora_A.weight.copy_(whole[name].lora_A.weight[:rank])
            layer.lora_B.weight.copy_(whole[name].lora_B.weight[:, :rank])
        if model.head is not None and self.nested.head is not None:
            model.head.weight.copy_(self.nested.head.weight)
        return model

    def trained_alone(self, scores: Mapping[str, float], count: int, done: Callable[[int], None]) -> dict[str, float]:
        """Train `count` patterns alone, spread evenly from the best cut-out to the worst; return their best scores.

        Patterns that diverge are left out.
        """
        patterns = list(scores)
        places = {round(place) for place in np.linspace(0, len(patterns) - 1, min(count, len(patterns)))}
        alone = {}
        for number, ranks in enumerate((patterns[place] for place in sorted(places)), start=1):
            with suppress(DivergedError):
                alone[ranks] = self._score_alone(ranks)
            done(number)
        return alone

    def _score_alone(self, ranks: str) -> float:
        name, direction = self.objective.name, self.objective.direction
        scores = [report.metrics[name] for report in train(self.alone(ranks), self.base, self.data)]
        return max(scores, key=lambda score: direction.sign * score)

    def confirmation(self, patterns: Sequence[str], rank: int) -> str:
        """Return the command of a search that trains patterns alone on fresh seeds, and compares them with uniform ranks."""
        values = ";".join(["uniform", *patterns])
        flags = f"--set adapter=lora --set rank={rank} --search {shlex.quote(f'ranks={values}')} --name cuts"
        return f"gpt2-search run layer_rank {flags}"

    def _score(self, model: GPT2) -> float:
        data = self.data.divided(self.config).scored_on(self.config.choosing)
        return self.task.evaluate(model, data, self.config, "dev").metrics[self.objective.name]

    def _patterns(self, rank: int, count: int) -> list[str]:
        """Return different patterns of this mean rank; raise ConfigError if the nested ranks are too small."""
        largest, total = self.config.rank, rank * len(self.blocks)
        if rank > largest:
            raise ConfigError(f"The value of `--rank` is {rank}, but must be at most the rank of the run, {largest}")
        random = np.random.default_rng(self.config.seed)
        drawn = (random.integers(0, LARGEST_WEIGHT, len(self.blocks), endpoint=True) for _ in range(TRIES * count))
        known = [list(parse_ranks(shape, rank, self.blocks).values()) for shape in SHAPES]
        candidates = [*known, *(shared(total, weights.tolist()) for weights in drawn if weights.any())]
        return list(dict.fromkeys(self._text(ranks) for ranks in candidates if max(ranks) <= largest))[:count]

    @staticmethod
    def _text(ranks: Sequence[int]) -> str:
        return ",".join(map(str, ranks))


def agreement(cut_out: Sequence[float], alone: Sequence[float]) -> Interval:
    """Return Spearman's rank correlation of two scores of the same n patterns, with its 95% interval.

    The interval is by Fisher's z with the standard error sqrt((1 + r^2 / 2) / (n - 3)) (Bonett and Wright 2000).
    """
    varies = len(set(cut_out)) > 1 and len(set(alone)) > 1
    r = float(spearmanr(cut_out, alone).statistic) if varies else math.nan
    if not varies or len(alone) < LEAST:
        return Interval(estimate=r)
    reach = float(ndtri(0.975)) * math.sqrt((1 + r * r / 2) / (len(alone) - 3))
    centre = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    return Interval(estimate=r, low=math.tanh(centre - reach), high=math.tanh(centre + reach))
