"""Summaries of searches that never ran, of any size, with what may go wrong in one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from searches.options import Options
from searches.plan import Plan
from searches.running.budget import Budget
from searches.running.ledger import State
from searches.showing.summary import summarise
from searches.summary import Summary, Verdict

SCRIPT = "<script>alert('x')</script>"
RANKS, ALPHAS = (4, 8, 16, 32), (32.0, "r", None)
METRIC = {"name": "dev_loss", "direction": "min", "unit": "nats per token", "margin": 0.05, "digits": 3}
GAINS = [{"trial": "0000", "tasks": {"sonnet": 1.0, "sst": -2.0}, "mean": -0.5, "worst": -2.0}]  # of several tasks
SCOPE = "Measured with 3 fresh seeds per setting on 6 dev texts that the search did not use."
BELOW = "Trial 0000's score is not significantly better than a trivial baseline (random | lines)."


def summary(trials: int = 30, **changes: Any) -> dict[str, Any]:
    """A search of `trials` trials about the rank, undecided, its scores made by the learning rate; the last trial failed."""
    random = np.random.default_rng(0)
    rows = [_row(number, random) for number in range(trials)]
    if trials > 1:
        rows[-1] |= {"status": "failed", "reason": f"GPU 0 out of memory {SCRIPT}", "score": None, "metrics": {}}
    best = min([row for row in rows if row["score"] is not None], key=lambda row: row["score"])
    found = about_factor(rows)
    replicas = [
        {**next(one for one in rows if one["id"] == row["trial"]), "id": f"{row['trial']}-r{seed}", "of": row["trial"]}
        | {"score": score, "config": {"seed": seed, "model": "gpt2-nano"}}
        for row in found["rows"]
        for seed, score in enumerate(row["runs"], 1)
    ]
    return {
        "search": "toy",
        "question": f"Does <b>rank</b> matter? {SCRIPT}",
        "objective": "dev_loss",
        "direction": "min",
        "model": "gpt2-nano, the small stand-in that ships with the project",
        "model_is_stand_in": True,
        "data": {"data": "toy data", "digest": "d" * 64},
        "trials": [*rows, *replicas],
        "best": best,
        "reference": rows[0],
        "costs": [],
        "pareto": [],
        "baselines": {
            "bigram": {"meaning": "a bigram model of the training texts", "scores": {"dev_loss": [5.51, 0.0]}},
            "random": {"meaning": "random | lines", "scores": {"chrf_continuation": [29.18, 0.3]}},
        },
        "metrics": {
            "dev_loss": {"direction": "min", "unit": "nats per token", "digits": 3, "margin": 0.05},
            "chrf_continuation": {"direction": "max", "unit": "chrF", "digits": 2, "margin": 1.0},
        },
        "answer": found,
        "effects": {
            "trials": trials,
            "why": f"Exploratory, over {trials} trials: curves of each setting explain 80% of the variance.",
            "rows": [
                _effect("lr", 0.8, ("0.001", "1e-05"), 0.21),
                _effect("alpha", 0.15, ("r", "none"), 0.04),
                _effect("rank", 0.05, ("16", "4"), 0.02),
            ],
        },
        "reliability": [
            {"metric": "dev_loss", "between": 0.0004, "within": 2e-5, "reliability": 0.95, "settings": 4, "runs": 3},
            {
                "metric": "chrf_continuation", "between": 0.0, "within": 0.2, "reliability": 0.0, "settings": 4,
                "runs": 3,
            },
        ],
        "counts": {"trials": trials, "completed": trials - 1, "failed": 1},
        "wall_seconds": 3600.0,
        "time": {"start": 6.0, "train": 90.0, "evaluate": 4.0},
        "versions": {"torch": "2.13.0"},
        "space": {
            "lr": {
                "text": "1e-05 to 0.1, log-uniform",
                "kind": "log-uniform",
                "low": 1e-5,
                "high": 0.1,
                "role": "nuisance",
            },
            "alpha": {"text": "one of 32.0, r", "kind": "choice", "values": list(ALPHAS), "role": "nuisance"},
            "rank": {"text": "one of 4, 8, 16, 32", "kind": "choice", "values": list(RANKS), "role": "scientific"},
        },
        "samples": {
            name: [{"id": "1", "given": "Shall I", "generated": f"```\n{name} {SCRIPT}", "gold": "compare thee"}]
            for name in (best["id"], "0000")
        },
        "environment": {"Python": "3.11.7", "cluster": "1 node, 2 CPUs, 0 GPUs"},
        "commands": {"repeat it": "python searches/toy.py --name toy-again", "promote the chosen trial": "promote toy"},
        **changes,
    }  # fmt: skip


def typed(found: Mapping[str, Any]) -> Summary:
    """A summary as it is read from its file."""
    return Summary.model_validate(json.loads(json.dumps(found)))


def verdict(answer: Mapping[str, Any]) -> Verdict:
    """An answer alone, as it is read from a summary's file."""
    return Verdict.model_validate(json.loads(json.dumps(answer)))


def about_factor(trials: Sequence[Mapping[str, Any]], outcome: str = "undecided") -> dict[str, Any]:
    """The answer to whether the rank matters. `outcome` is undecided, equivalent or difference; then rank 16 wins."""
    shifts = {16: -0.12} if outcome == "difference" else {}
    random = np.random.default_rng(1)
    spread = 0.03 if outcome == "undecided" else 0.004
    sides = {}
    for rank in RANKS:
        known = [row for row in trials if row["point"]["rank"] == rank and row["score"] is not None]
        runs = [float(4.3 + shifts.get(rank, 0.0) + spread * random.normal()) for _ in range(3)] if known else []
        sides[f"rank {rank}"] = _side(f"rank {rank}", {"rank": rank}, known, runs)
    sentences = {
        "undecided": [
            "No effect of rank on dev loss was found: with the other settings tuned for each value, differences of up to 0.112 "
            "nats per token between rank 4, 8, 16 and 32 cannot be ruled out (the equivalence margin is 0.050).",
            "About 7 seeds per setting would decide it if these estimates hold.",
        ],
        "equivalent": [
            "No, rank makes no difference that matters: with the other settings tuned for each value, rank 4, 8, 16 and 32 are "
            "within 0.020 nats per token of each other in dev loss (the equivalence margin is 0.050).",
            "Within that margin, rank 16 is significantly better than rank 4, by 0.012 [0.010, 0.014] nats per token.",
        ],
        "difference": [
            "Yes, rank matters: rank 16 has the best dev loss, ahead of rank 4 by 0.121 [0.101, 0.140] nats per token.",
            "Of the other settings, lr mattered most (exploratory).",
        ],
    }[outcome]
    winner = sides["rank 16"]["trial"] if outcome == "difference" else None
    return _answer(
        sides,
        sentences=sentences,
        outcome=outcome,
        factor={"name": "rank", "keys": ["rank"]},
        winner=winner,
        excluded={"undecided": 0.112, "equivalent": 0.02, "difference": None}[outcome],
        seeds_needed=7 if outcome == "undecided" else None,
        notes=[f"rank 8 {SCRIPT} is noted.", BELOW],
    )


def about_best(trials: Sequence[Mapping[str, Any]], *, wins: bool = True) -> dict[str, Any]:
    """The answer of a search without a factor: its best trial beside the reference."""
    scored = [row for row in trials if row["of"] is None and row["score"] is not None]
    best, reference = min(scored[1:], key=lambda row: row["score"]), scored[0]
    random = np.random.default_rng(2)
    better = [float(4.0 + 0.01 * random.normal()) for _ in range(3)]
    usual = [float((4.2 if wins else 4.0) + 0.01 * random.normal()) for _ in range(3)]
    sides = {
        row["id"]: {**_side(f"trial {row['id']}", {}, [row], runs), "trial": row["id"]}
        for row, runs in ((best, better), (reference, usual))
    }
    text = "lr 0.001 is better than the reference (lr 0.1) by 0.200 [0.170, 0.230] nats per token in dev loss."
    return _answer(
        {side["name"]: side for side in sides.values()},
        sentences=[text if wins else "No better setting than the reference was found."],
        outcome="difference" if wins else "undecided",
        factor=None,
        winner=best["id"] if wins else None,
        excluded=None if wins else 0.06,
        seeds_needed=None,
        notes=[],
    )


def nothing_compared(reason: str) -> dict[str, Any]:
    found = _answer(
        {},
        sentences=[f"Not decided: {reason}."],
        outcome="undecided",
        factor=None,
        winner=None,
        excluded=None,
        seeds_needed=None,
        notes=[],
    )
    return found | {"seeds": 0, "chosen": None, "scope": "", "evidence": [], "reference": None}


def _answer(sides: Mapping[str, dict[str, Any]], **told: Any) -> dict[str, Any]:
    pairs = _pairs([side for side in sides.values() if side["runs"]])
    ordered = sorted((side for side in sides.values() if side["runs"]), key=lambda side: side["mean"])
    winner = told["winner"]
    best = [side["name"] for side in ordered if winner in (None, side["trial"])]
    p_values = [pair["p_value"] for pair in pairs if pair["p_value"] is not None]
    return {
        **told, "metric": dict(METRIC), "rows": list(sides.values()), "pairs": pairs,
        "test": {"p_value": min(p_values, default=None), "level": 0.05, "anova": 0.4 if told["factor"] else None},
        "decided": told["outcome"] != "undecided", "seeds": 3, "looks": [3], "needs_texts": False,
        "chosen": winner or (ordered[0]["trial"] if ordered else None), "best": best, "reference": "0000",
        "scope": SCOPE,
        "evidence": ["Largest difference: rank 8 is better than rank 4 by 0.020 nats per token in dev loss, p = 0.402.", SCOPE],
    }  # fmt: skip


def _side(name: str, value: dict[str, Any], trials: Sequence[Mapping[str, Any]], runs: list[float]) -> dict[str, Any]:
    scores = sorted((row["score"] for row in trials), reverse=True)
    best = min(trials, key=lambda row: row["score"], default=None)
    mean, error = (float(np.mean(runs)), float(np.std(runs, ddof=1) / np.sqrt(len(runs)))) if runs else (None, None)
    reach = float(stats.t.ppf(0.975, len(runs) - 1)) * error if error is not None else None
    shares = np.arange(len(scores) + 1) / max(1, len(scores))
    return {
        "name": name,
        "value": value,
        "trial": best["id"] if best else None,
        "point": dict(best["point"]) if best else {},
        "trials": len(trials),
        "score": best["score"] if best else None,
        "runs": runs,
        "mean": mean,
        "low": None if mean is None or reach is None else mean - reach,
        "high": None if mean is None or reach is None else mean + reach,
        "failed": [],
        "stable": bool(runs),
        "expected": [
            float((np.array(scores) * (shares[1:] ** k - shares[:-1] ** k)).sum()) for k in range(1, len(scores) + 1)
        ],
    }


def _pairs(sides: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each pair with Welch's test, corrected by the number of pairs."""
    named = [(a, b) for place, a in enumerate(sides) for b in sides[place + 1 :]]
    found = []
    for a, b in named:
        test = stats.ttest_ind(a["runs"], b["runs"], equal_var=False)
        ends = test.confidence_interval(1 - 0.05 / len(named))
        found.append(
            {
                "a": a["name"], "b": b["name"], "difference": a["mean"] - b["mean"], "low": float(ends.low),
                "high": float(ends.high), "p_value": min(1.0, float(test.pvalue) * len(named)),
            }
        )  # fmt: skip
    return found


def _effect(key: str, share: float, ends: tuple[str, str], difference: float) -> dict[str, Any]:
    return {
        "key": key, "share": share, "low": share / 2, "high": min(1.0, share * 1.2), "best": ends[0],
        "worst": ends[1], "difference": difference, "difference_low": difference - 0.05,
        "difference_high": difference + 0.05, "factor": key == "rank",
    }  # fmt: skip


def _row(number: int, random: np.random.Generator) -> dict[str, Any]:
    lr = float(10 ** random.uniform(-5, -1))
    score = 4.31 + 0.06 * (np.log10(lr) + 3) ** 2 + 0.01 * random.normal()
    curve = [
        {"epoch": e, "dev_loss": score + 0.4 - 0.2 * e, "train_loss": 5.0 - e, "train_seconds": 1.5} for e in (1, 2)
    ]
    return {
        "id": f"{number:04d}",
        "origin": "sampler" if number else "reference",
        "of": None,
        "status": "completed",
        "reason": None,
        "point": {"lr": lr, "alpha": ALPHAS[number % 3], "rank": RANKS[number % 4]},
        "config": {"seed": 1, "model": "gpt2-nano"},
        "epochs": 2,
        "best_epoch": 2,
        "score": score,
        "metrics": {
            "dev_loss": score, "dev_loss_low": score - 0.1, "dev_loss_high": score + 0.1, "chrf_whole": 30.0,
            "trainable_parameters": 1000.0 * (1 + number),
        },
        "data": {},
        "curve": curve,
    }  # fmt: skip


def summary_of(plan: Plan, state: State) -> dict[str, Any]:
    """The summary of a search of a plan, as its file has it."""
    flags = {
        "storage": None, "tracking_uri": None, "max_concurrent": None, "workers_per_trial": 1,
        "gpus_per_worker": None, "checkpoint_minutes": 0.0,
    }  # fmt: skip
    modes = {"pack": "off", "trace": False, "resume": "auto", "plan_only": False, "json": False, "wide": False}
    rest = {"final_test": False, "notify": None}
    options = Options(plan=plan, name="s", budget=Budget(), argv=[], **flags, **modes, **rest)
    return summarise(options, state, Path("nowhere")).model_dump()
