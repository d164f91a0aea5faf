"""A search with `decoding=best_of:K` shows the order of its trials by fixed and by best decoding."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import kendalltau

from gpt2core.metrics.chrf import chrf_from_statistics
from gpt2core.metrics.counts import to_json
from searches.deciding.comparing import Comparing
from searches.deciding.decoding_order import decoding_order, kendall
from searches.deciding.replay_backend import MemoryLedger
from searches.learning_rate import SEARCH
from searches.plan import Plan, make_plan
from searches.running.ledger import State, Trial
from searches.running.ray_tune import report_event
from searches.showing import report
from searches.showing.screen import show
from searches.summary import DecodingOrder, Summary
from tests.summaries import summary, typed

TEXTS, SETTINGS = 12, "best_of:3"
METRIC = make_plan(SEARCH, "quick").metrics["chrf_continuation"]


def chrf_counts(skill: float, seed: int, noise: float = 0.0) -> np.ndarray:
    """Counts (1, N, 18) of texts of which about a share `skill` of the n-grams matches."""
    random = np.random.default_rng(seed)
    counts = np.full((1, TEXTS, 18), 1000.0)
    right = np.clip(skill + noise * random.normal(size=(1, TEXTS, 1)), 0, 1)
    counts[..., 2::3] = np.round(1000 * right)
    return counts


def proposal(name: str, point: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    run = plan.config(point).model_dump()
    return {"name": name, "point": point, "run": run, "origin": "sampler", "of": None}


def reported(skill: tuple[float, float] | None) -> dict[str, Any]:
    """Scores of texts with some skill with fixed and with best decoding."""
    names = ("chrf_continuation_fixed", "chrf_continuation")
    both = skill and {"chrf_fixed": chrf_counts(skill[0], 0), "chrf": chrf_counts(skill[1], 0)}
    return {
        "metrics": {"dev_loss": 4.0, **dict(zip(names, skill or (), strict=False))},
        "statistics": both and to_json(both),
        "tables": {"decoding": [[2, 0, 10]]},
    }


def state_of(skills: Mapping[str, tuple[float, float] | None], plan: Plan) -> State:
    """A search whose trials have some skill with fixed and with best decoding; one with None wrote no texts."""
    ledger = MemoryLedger()
    for number, (name, skill) in enumerate(skills.items()):
        point = {"lr": 10.0 ** (number - 5)}
        ledger.record({"event": "proposed", "trial": proposal(name, point, plan)})
        ledger.record({"event": "report", "trial": name, "epoch": 1, **reported(skill)})
        ledger.record({"event": "ended", "trial": name, "status": "completed"})
    return ledger.state


def order_of(skills: Mapping[str, tuple[float, float] | None]) -> DecodingOrder | None:
    plan = make_plan(SEARCH, "quick", settings={"decoding": SETTINGS})
    return decoding_order(plan, state_of(skills, plan))


def test_both_orders_have_their_ranks_scores_and_decodings() -> None:
    order = order_of({"0000": (0.30, 0.31), "0001": (0.40, 0.41), "0002": None, "0003": (0.35, 0.45)})
    assert order is not None
    assert order.metric == "chrf_continuation"
    assert [(row.trial, row.rank_fixed, row.rank_best) for row in order.rows] == [
        ("0003", 2, 1), ("0001", 1, 2), ("0000", 3, 3),
    ]  # fmt: skip
    assert [row.score_best for row in order.rows] == pytest.approx([45, 41, 31])
    assert [row.score_fixed for row in order.rows] == pytest.approx([35, 40, 30])
    assert order.rows[0].settings == "temperature 0.75, top_p 0.83 for 10 of 12; temperature 1, top_p 0.9 for 2 of 12"
    assert order.text == (
        "The best trial by chrF continuation is trial 0003 (lr 0.01) with the best decoding, but trial 0001 (lr 0.0001) with "
        "fixed decoding. Kendall's tau between the two orders of 3 trials is 0.33 [0.33, 0.33] (bootstrap over 12 texts)."
    )


def test_each_decoding_chooses_its_own_epoch_if_the_objective_scores_texts() -> None:
    plan = make_plan(
        SEARCH, "quick", settings={"decoding": SETTINGS}, comparing=Comparing(objective="chrf_continuation")
    )
    ledger = MemoryLedger()
    ledger.record({"event": "proposed", "trial": proposal("0000", {"lr": 1e-3}, plan)})
    for epoch, skill in enumerate([(0.5, 0.51), (0.2, 0.6)], 1):
        ledger.record({"event": "report", "trial": "0000", "epoch": epoch, **reported(skill)})
    order = decoding_order(plan, ledger.state)
    assert order is not None
    assert (order.rows[0].score_fixed, order.rows[0].score_best) == pytest.approx((50, 60))
    assert order.tau is None, "one trial has no order"


def test_the_same_best_trial_is_named_once() -> None:
    order = order_of({"0000": (0.30, 0.31), "0001": (0.40, 0.41)})
    assert order is not None
    assert order.text.startswith(
        "The best trial by chrF continuation is trial 0001 (lr 0.0001) with the best decoding and with fixed decoding."
    )


def test_equal_scores_share_a_rank_and_have_no_correlation() -> None:
    order = order_of({"0000": (0.30, 0.31), "0001": (0.30, 0.31)})
    assert order is not None
    assert [(row.rank_fixed, row.rank_best) for row in order.rows] == [(1, 1), (1, 1)]
    assert order.tau is None


def test_a_search_with_fixed_decoding_has_no_such_order() -> None:
    assert order_of({"0000": None, "0001": None}) is None
    assert order_of({}) is None


def test_the_correlation_is_scipys_and_its_interval_knows_sure_orders_from_chance() -> None:
    skills = np.linspace(0.2, 0.6, 7)

    def tau(best: np.ndarray, noise: float) -> Any:
        counts = [
            [chrf_counts(skill, 50 * place + row, noise)[0] for row, skill in enumerate(of)]
            for place, of in enumerate((skills, best))
        ]
        found = kendall(np.array(counts), METRIC)
        assert found is not None
        own, other = (chrf_from_statistics(np.array(of).sum(axis=1)) for of in counts)
        assert found.estimate == pytest.approx(kendalltau(own, other).statistic)
        return found

    agrees, reversed_, unclear = tau(skills, 0.01), tau(skills[::-1], 0.01), tau(np.full(7, 0.4), 0.3)
    assert (agrees.estimate, agrees.low) == (1, 1)
    assert (reversed_.estimate, reversed_.high) == (-1, -1)
    assert unclear.low < 0 < unclear.high


def test_the_ledger_keeps_counts_of_a_searched_trial_only_for_the_two_decodings() -> None:
    counts = to_json({name: np.ones((1, 2, 3)) for name in ("loss", "chrf", "chrf_fixed", "chrf_whole")})

    def kept(of: str | None, names: list[str]) -> set[str]:
        trial = Trial(name="0000", point={}, run={"epochs": 1}, origin="sampler", of=of)
        statistics = json.dumps({name: counts[name] for name in names})
        return set(report_event(trial, {"epoch": 1, "statistics": statistics})["statistics"] or {})

    assert kept(None, [*counts]) == {"chrf", "chrf_fixed"}
    assert kept(None, ["loss", "chrf"]) == set()
    assert kept("0000", [*counts]) == counts.keys()


def test_the_report_and_the_screen_show_both_orders(tmp_path: Path) -> None:
    order = order_of({"0000": (0.30, 0.31), "0001": (0.40, 0.41)})
    assert order is not None
    both = typed(summary(decoding=order.model_dump()))
    page, markdown, *_ = report.write(tmp_path, both)
    console = Console(file=io.StringIO(), width=250, record=True)
    show(both, console)
    title, decoding = "Order of trials by fixed and by best decoding", "temperature 0.75, top_p 0.83 for 10 of 12"
    for text in (page.read_text(), markdown.read_text(), console.export_text()):
        assert title in text
        assert decoding in text
    assert title not in report.page(report.view(typed(summary())))
    assert Summary.model_validate_json(both.model_dump_json()).decoding == order
