"""Summaries of searches that never ran, of any size, with what may go wrong in one."""

from typing import Any

import numpy as np

SCRIPT = "<script>alert('x')</script>"


def summary(trials: int = 30, **changes: Any) -> dict[str, Any]:
    """A search of `trials` trials, half of them scored by the learning rate alone; the last one failed."""
    random = np.random.default_rng(0)
    rows = [_row(number, random) for number in range(trials)]
    if trials > 1:
        rows[-1] |= {"status": "failed", "reason": f"GPU 0 out of memory {SCRIPT}", "score": None, "metrics": {}}
    scored = [row for row in rows if row["score"] is not None]
    best = max(scored, key=lambda row: row["score"])
    replicas = [{**rows[0], "id": "0000-r1", "of": "0000"}, {**best, "id": f"{best['id']}-r1", "of": best["id"]}]
    return {
        "search": "toy",
        "question": f"Does <b>rank</b> matter? {SCRIPT}",
        "objective": "chrf_continuation",
        "direction": "max",
        "model": "gpt2-nano, the small stand-in that ships with the project",
        "data": {"data": "toy data", "digest": "d" * 64},
        "trials": [*rows, *replicas],
        "best": best,
        "baseline": rows[0],
        "costs": [],
        "pareto": [],
        "best_by": {"rank": [{"value": 4, "trials": 2, "score": 3.0, "best_trial": "0001"}] * 2},
        "floors": {"random": {"meaning": "random | lines", "scores": {"chrf_continuation": [29.18, 0.3]}}},
        "verdict": {
            "winner": None,
            "compared": [best["id"], "0000"],
            "difference": 0.5,
            "low": -0.25,
            "high": 1.25,
            "p_value": 0.21,
            "text": f"no significant winner. trial {best['id']} against 0000. Beware: no better than random | lines.",
        },
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
            "alpha": {"text": "one of 32.0, r", "kind": "choice", "values": [32.0, "r", None], "role": "nuisance"},
            "rank": {"text": "one of 4, 8", "kind": "choice", "values": [4, 8], "role": "scientific"},
        },
        "samples": {
            name: [{"id": "1", "given": "Shall I", "generated": f"```\n{name} {SCRIPT}", "gold": "compare thee"}]
            for name in (best["id"], "0000")
        },
        "environment": {"Python": "3.11.7", "cluster": "1 node, 2 CPUs, 0 GPUs"},
        "commands": {"repeat it": "python searches/toy.py --name toy-again", "promote the winner": "promote toy"},
        **changes,
    }


def _row(number: int, random: np.random.Generator) -> dict[str, Any]:
    lr = float(10 ** random.uniform(-5, -1))
    score = 20.0 + np.log10(lr) ** 2 / 10 + 0.01 * random.normal()
    curve = [
        {"epoch": e, "chrf_continuation": score - 2 + e, "train_loss": 5.0 - e, "train_seconds": 1.5} for e in (1, 2)
    ]
    return {
        "id": f"{number:04d}",
        "origin": "sampler" if number else "baseline",
        "of": None,
        "status": "completed",
        "reason": None,
        "point": {"lr": lr, "alpha": [32.0, "r", None][number % 3], "rank": [4, 8][number % 2]},
        "config": {"seed": 1, "model": "gpt2-nano"},
        "epochs": 2,
        "best_epoch": 2,
        "score": score,
        "metrics": {
            "chrf_continuation": score,
            "chrf_continuation_low": score - 1,
            "chrf_continuation_high": score + 1,
            "trainable_parameters": 1000.0 * (1 + number),
        },
        "data": {},
        "curve": curve,
    }
