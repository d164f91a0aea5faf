"""Compare what a search costs beside its training with Ray Tune alone: python -m tests.benchmarks.trials.

Trials report at once: here with searcher, scheduler, ledger, Optuna's study and callbacks; beside it with Tune's stock searchers
and scheduler. Both run the same function with like samplers, two at once in processes that stay, without Tune's result logs. Time
is from the first trial's report to the last's.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cluster.connect import connect
from cluster.environment import settle
from searches.driver.tune import run_trials
from searches.lora_rank import SEARCH
from searches.options import Options, parse
from searches.running.failures import Faults
from searches.running.ledger import COMPLETED, Ledger
from searches.running.resources import trial_spec
from tests.benchmarks.compare import TURNS, Comparison, differs, show
from trainables.heartbeat import Heartbeat
from trainables.nodes import Machine

AT_ONCE = 2
OBJECTIVE = "chrf_continuation"
SAMPLERS = ("random", "tpe")


def at_once(config: dict[str, Any]) -> None:
    """A trial without training: one report, of a score that the learning rate decides."""
    run = config["spec"]["run"] if "spec" in config else config
    score = 30 + run["lr"]
    tune.report({"epoch": 1, "objective": score, "metrics": {OBJECTIVE: score, "now": time.time()}})


def each(times: Sequence[float], trials: int) -> float:
    """Milliseconds from one trial to the next, by the times of their reports; ends the benchmark where one is missing."""
    if len(times) != trials:
        raise differs(f"{trials} trials")
    return 1e3 * (max(times) - min(times)) / (trials - 1)


def ours(trials: int, sampler: str) -> float:
    settle()
    with tempfile.TemporaryDirectory() as storage:
        options = options_of(trials, sampler, storage)
        folder = Path(storage)
        spec = trial_spec(options, folder, [Machine(AT_ONCE)])
        with closing(Ledger(folder / "ledger.jsonl")) as ledger:
            run_trials(options, ledger, spec, (at_once, {"cpu": 1}), print, Faults(Heartbeat(), print))
            completed = [trial for trial in ledger.state.searched if trial.status == COMPLETED]
    return each([trial.reports[1].metrics["now"] for trial in completed], trials)


def options_of(trials: int, sampler: str, storage: str) -> Options:
    method = ["--sampler", sampler, "--scheduler", "asha", "--set", "epochs=1", "--replicates", "0"]
    return parse(SEARCH, ["--trials", str(trials), "--max-concurrent", str(AT_ONCE), "--storage", storage, *method])


def theirs(trials: int, sampler: str) -> float:
    space: dict[str, Any] = {
        "rank": tune.choice([4, 8, 16, 32]),
        "lr": tune.loguniform(1e-5, 3e-2),
        "alpha": tune.choice(["32", "r", "2r"]),
        "batch_size": tune.choice([4, 8, 16]),
    }
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "auto"
    goal = {"metric": "objective", "mode": "max"}
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            tune.with_resources(at_once, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(**goal) if sampler == "tpe" else None,
                scheduler=ASHAScheduler(**goal),
                num_samples=trials,
                max_concurrent_trials=AT_ONCE,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=storage, verbose=0),
        )
        found = tuner.fit()
    return each([result.metrics["metrics"]["now"] for result in found if result.metrics], trials)


def comparison(trials: int, sampler: str) -> Comparison:
    ways: list[Callable[[], float]] = [partial(way, trials, sampler) for way in (ours, theirs)]
    return Comparison(
        what=f"{trials:,} trials, {sampler}",
        peer=f"Ray Tune alone, {'OptunaSearch' if sampler == 'tpe' else 'random search'}, ASHA",
        ours=ways[0],
        theirs=ways[1],
        reach=1,
        unit="ms a trial",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100], help="1000 10000 takes half an hour")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each side (default: {TURNS})")
    chosen = parser.parse_args()
    connect()
    rows = [comparison(trials, sampler) for sampler in chosen.samplers for trials in chosen.trials]
    show("what a trial costs beside its training", rows, chosen.turns)


if __name__ == "__main__":
    main()
