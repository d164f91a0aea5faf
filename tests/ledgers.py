"""Ledgers of searches that never trained, of any size: real decisions of a real strategy, on scores that a formula gives."""

import json
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from gpt2core.estimates import Range, exactly
from gpt2core.metrics.counts import to_json
from gpt2core.testing.toys import lines
from searches.deciding.replay_backend import Curve, MemoryLedger, ReplayBackend
from searches.deciding.strategy import Strategy
from searches.lora_rank import SEARCH
from searches.options import Options, parse
from searches.running.ledger import DIVERGED, FAILED, OUT_OF_MEMORY, RawEvent, Trial
from searches.running.quantities import Forecast, Quantity

OBJECTIVE = "chrf_continuation"
EPOCHS, WORKERS, EXAMPLES = 3, 8, 12
REASONS = {
    DIVERGED: "The loss is nan at step {}",
    FAILED: "The worker died of signal {}",
    OUT_OF_MEMORY: "GPU 0 out of memory: {} MiB were asked for",
}


class WrittenLedger(MemoryLedger):
    """Writes its events to a file as a search does, without waiting for the disk; makes of a simulated report a real one.

    Every fiftieth trial of the search fails at its end.
    """

    def __init__(self, path: Path, texts: Sequence[str]) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.texts, self.time = path.open("w", encoding="utf-8"), texts, 0.0

    def record(self, event: RawEvent) -> None:
        self.time += 1.0
        kind = event["event"]
        if kind == "report":
            event = event | self._of_report(self.state.trials[event["trial"]], event["epoch"])
        if kind == "ended" and event["trial"].isdigit() and int(event["trial"]) % 50 == 49:
            status = list(REASONS)[int(event["trial"]) % 3]
            event = event | {"status": status, "reason": REASONS[status].format(int(event["trial"]))}
        event = event | {"time": self.time}
        self.file.write(json.dumps(event) + "\n")
        super().record(event)
        if kind == "proposed":
            self.record({"event": "run", "trial": event["trial"]["name"], "run_id": f"{int(self.time):032x}"})

    def close(self) -> None:
        self.file.close()

    def _of_report(self, trial: Trial, epoch: int) -> dict[str, Any]:
        random = np.random.default_rng((len(trial.name), trial.run["rank"], epoch))
        samples = [
            {"id": str(number), "given": self.texts[number], "generated": text, "gold": self.texts[number - 1]}
            for number, text in enumerate(self.texts)
        ]
        statistics = to_json({"chrf": random.integers(1, 50, size=(1, EXAMPLES, 18))})
        return {
            "statistics": statistics if trial.of else None,
            "samples": samples,
            "tables": {},
            "data": {"digest": "d" * 64},
            "seconds": {"data": 0.1, "train": 1.5, "evaluate": 0.5, "generate": 0.4, "checkpoint": 0.1},
            "began": self.time - 2.6,
        }


def options_of(trials: int, storage: Path, *flags: str) -> Options:
    """The flags of such a search."""
    always = ["--trials", str(trials), "--storage", str(storage), "--set", f"epochs={EPOCHS}", "--replicates", "2"]
    return parse(SEARCH, [*always, "--objective", OBJECTIVE, *(flags or ["--sampler", "random"])])


def curve(trial: Trial) -> Curve:
    """Learning curves that the point decides, and a little chance."""
    random = np.random.default_rng(list(json.dumps([trial.name, trial.point]).encode()))
    height = 30 - 3 * abs(math.log10(trial.run["lr"]) + 3) + math.log2(trial.run["rank"]) / 2 + random.normal()
    seconds = random.uniform(1, 5, size=EPOCHS).tolist()
    scores = [height * (1 - 0.5**epoch) for epoch in range(1, EPOCHS + 1)]
    metrics = [_metrics(trial, epoch, scores[epoch - 1], seconds[epoch - 1]) for epoch in range(1, EPOCHS + 1)]
    return Curve(metrics=metrics, seconds=seconds)


def _metrics(trial: Trial, epoch: int, score: float, seconds: float) -> dict[str, float]:
    return {
        OBJECTIVE: score, f"{OBJECTIVE}_low": score - 1, f"{OBJECTIVE}_high": score + 1, "chrf_whole": score + 15,
        "train_loss": 5.0 - score / 20, "train_examples": 131, "train_seconds": seconds - 0.5,
        "eval_seconds": 0.5, "tokens_per_second": 1500.0, "trainable_parameters": 4608 * trial.run["rank"],
        "predicted_gpu_memory_gb": 0.25 + trial.run["rank"] / 100, "dev_loss": 4.5 - score / 20,
        "dev_perplexity": math.exp(4.5 - score / 20), "length_ratio": 0.9, "form_rhyme": 0.5, "form_metre": 0.7,
        "distinct_2": 0.9, "process_memory_gb": 0.8 + epoch / 100,
    }  # fmt: skip


def write_ledger(options: Options, folder: Path, *, texts: int = EXAMPLES) -> None:
    """Let a strategy run the search of `options`, with `texts` texts in a report."""
    plan = options.plan
    known: dict[str, Curve] = {}

    def of(trial: Trial) -> Curve:
        if trial.name not in known:
            known[trial.name] = curve(trial)
        return known[trial.name]

    with closing(WrittenLedger(folder / "ledger.jsonl", [lines(10, seed) for seed in range(texts)])) as ledger:
        for event in _begin(options):
            ledger.record(event)
        ReplayBackend(of, workers=WORKERS).run(Strategy(plan, ledger))
        ledger.record({"event": "left", "status": "finished"})


def _begin(options: Options) -> list[RawEvent]:
    plan, argv = options.plan, list(options.argv)
    warm_start = [start.model_dump() for start in plan.warm_start]
    baselines = {"random": {"meaning": "random lines", "scores": {OBJECTIVE: [20.0, 0.3]}}}
    ranges: dict[Quantity, Range] = {
        "trials": exactly(2.0),
        "hours": Range(value=2.0, low=1.0, high=3.0),
        "trial_seconds": Range(value=9.0, low=5.0, high=20.0),
    }
    predicted = Forecast(ranges=ranges, trials=plan.profile.trials, replicates=plan.profile.replicates)
    return [
        {"event": "search", "digest": plan.digest, "name": plan.search.name, "seed": plan.seed, "id": "0" * 32},
        {"event": "started", "argv": argv, "environment": {"Python": "3.11"}, "warm_start": warm_start},
        {"event": "run", "trial": "", "run_id": "f" * 32},
        {"event": "data", "data": {"data": "toy data", "digest": "d" * 64}, "baselines": baselines},
        {"event": "cluster", "cluster": {"cluster": f"1 node, {WORKERS} CPUs, 0 GPUs"}},
        {"event": "plan", "plan": predicted.model_dump()},
        {"event": "share", "gpus": 0.0, "cpus": 1.0, "concurrent": WORKERS},
    ]
