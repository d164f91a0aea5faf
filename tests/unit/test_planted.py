"""Searches whose answer is known: a factor that matters and one that does not, through strategy, samplers and verdict."""

import math
from typing import Any

import numpy as np
import pytest

from gpt2core.metrics.counts import to_json
from searches.deciding.decision import DIFFERENCE, EQUIVALENT
from searches.deciding.method import Method
from searches.deciding.replay_backend import Curve, MemoryLedger, ReplayBackend
from searches.deciding.strategy import Strategy
from searches.lora_rank import SEARCH
from searches.plan import make_plan
from searches.running.ledger import RawEvent, Trial
from tests.summaries import summary_of

REPETITIONS = 20
TEXTS, TOKENS = 131, 110
RUN_SD = 0.004  # of gpt2-nano on the sonnets, nats per token
SETTING_BY_TEXT_SD = 0.03  # by which a setting is better on one text than on another
RUN_BY_TEXT_SD = 0.02


def loss(trial: Trial, effect: float) -> float:
    """What a setting comes to: the learning rate matters, the batch size a little, and rank 32 by `effect`."""
    rate = 0.03 * abs(math.log10(trial.run["lr"]) + 2.5) ** 1.5
    return 4.3 + rate + 0.005 * abs(math.log2(trial.run["batch_size"]) - 3) - effect * (trial.run["rank"] == 32)


def counts(trial: Trial, effect: float, seed: int) -> dict[str, Any]:
    """What a run gives: of a seed that is its own, on texts that all runs share, which suit some settings more than others."""
    run = np.random.default_rng((seed, trial.run["seed"], *trial.name.encode()))
    setting = np.random.default_rng((seed, *str(sorted(trial.point.items())).encode()))
    texts = np.random.default_rng(seed).normal(0, 0.3, TEXTS)
    losses = loss(trial, effect) + texts + run.normal(0, RUN_SD) + run.normal(0, RUN_BY_TEXT_SD, TEXTS)
    losses = losses + setting.normal(0, SETTING_BY_TEXT_SD, TEXTS)
    return {"loss": np.stack([losses * TOKENS, np.full(TEXTS, TOKENS), np.full(TEXTS, 4 * TOKENS)], axis=1)[None]}


class JudgedLedger(MemoryLedger):
    """Gives the reports of replicates counts on the texts that judge: others than those that trials are scored on."""

    def __init__(self, effect: float, seed: int) -> None:
        super().__init__()
        self.effect, self.seed = effect, seed

    def record(self, event: RawEvent) -> None:
        if event["event"] == "report" and (trial := self.state.trials[event["trial"]]).of:
            event = event | {"statistics": to_json(counts(trial, self.effect, self.seed))}
        super().record(event)


def answered(effect: float, seed: int, **changes: Any) -> dict[str, Any]:
    """The answer of the quick search in such a world, which stops no trial early."""
    plan = make_plan(SEARCH, "quick", seed=1000 * seed, method=Method(scheduler="none"), **changes)

    def curve(trial: Trial) -> Curve:
        chosen_by = counts(trial, effect, seed=2 * seed)["loss"].sum(axis=(0, 1))
        metrics = {"dev_loss": float(chosen_by[0] / chosen_by[1])}
        return Curve(metrics=[metrics] * trial.epochs, seconds=[1.0] * trial.epochs)

    strategy = Strategy(plan, JudgedLedger(effect, 2 * seed + 1))
    ReplayBackend(curve, workers=1).run(strategy)
    return dict(summary_of(plan, strategy.ledger.state)["answer"])


@pytest.mark.parametrize("changes", [{}, {"until_decided": True, "replicates": 6}], ids=["planned", "until decided"])
def test_a_factor_that_matters_is_found_and_the_better_value_named(changes: dict[str, Any]) -> None:
    answers = [answered(0.06, seed, **changes) for seed in range(REPETITIONS)]
    right = sum(one["outcome"] == DIFFERENCE and one["best"] == ["rank 32"] for one in answers)
    assert right >= 19, [one["text"] for one in answers]


@pytest.mark.parametrize("changes", [{}, {"until_decided": True, "replicates": 6}], ids=["planned", "until decided"])
def test_a_factor_that_does_not_matter_is_said_not_to(changes: dict[str, Any]) -> None:
    answers = [answered(0.0, seed, **changes) for seed in range(REPETITIONS)]
    assert sum(one["outcome"] == EQUIVALENT for one in answers) >= 19, [one["text"] for one in answers]
    assert all(one["winner"] is None for one in answers if one["outcome"] != DIFFERENCE)
