"""Packs on real Ray: each trial is known to Tune and reports what it would report alone."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gpt2core.config import RunConfig
from tests.killing import lora_run, name_of
from trainables.executors import trainable
from trainables.packs import Packs
from trainables.trial import TrialSpec, payloads


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return lora_run(tmp_path_factory.mktemp("packs"))


class Watch(FIFOScheduler):  # type: ignore[misc]
    """Keeps the losses of each trial, stops `00002` after its second epoch, and calls `at` with each trial and epoch."""

    def __init__(self, packs: Packs, at: Callable[[str, int], None]) -> None:
        super().__init__()
        self.packs, self.at = packs, at
        self.losses: dict[str, dict[int, list[float]]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name, epoch = trial.config["spec"]["name"], result["epoch"]
        if "failure/kind" in result:
            return str(TrialScheduler.CONTINUE)
        self.losses.setdefault(name, {})[epoch] = losses(result, "metrics/")
        self.at(name, epoch)
        return str(TrialScheduler.STOP if (name, epoch) == ("00002", 2) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._left(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._left(trial)

    def _left(self, trial: Any) -> None:
        if trial.config["spec"]["name"] in self.packs.places:
            self.packs.leave(trial.config["spec"]["name"])

    def __getstate__(self) -> dict[str, Any]:
        return {}


def losses(metrics: dict[str, Any], prefix: str = "") -> list[float]:
    return [metrics[f"{prefix}{key}"] for key in ("train_loss", "dev_loss")]


def test_packed_trials_survive_a_kill_and_match_unpacked_runs(local_ray: None, run: RunConfig, tmp_path: Path) -> None:
    configs = {
        "00001": run.but(epochs=3),
        "00002": run.but(epochs=6, rank=2, seed=3, batch_size=5),
        "00003": run.but(epochs=2, targets="all"),  # joins when one of the others has left
        "00004": run.but(epochs=2, adapter="freeze"),  # takes its turns beside the pass of the others
        "00005": run.but(epochs=2, lr=1e30),
        "00006": run.but(epochs=2, folds=2, judged=True),
    }
    shape = TrialSpec(name="", run=run, folder="", concurrent=2, pack=2)
    packs = Packs(shape, "toy")
    specs = [replace(shape, name=name, run=config, folder=str(tmp_path / name)) for name, config in configs.items()]
    killed: list[int] = []

    def kill_once(name: str, epoch: int) -> None:
        if name == "00001" and epoch == 1 and not killed:
            (pid,) = (p.pid for p in psutil.Process().children(recursive=True) if "ray::Pack" in name_of(p))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    watch = Watch(packs, kill_once)
    function, resources = trainable(shape)
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        param_space={"spec": tune.grid_search([packs.place(spec).to_dict() for spec in specs])},
        tune_config=tune.TuneConfig(scheduler=watch, max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    packs.close()
    assert killed
    assert not results.errors
    failures = {result.config["spec"]["name"]: (result.metrics or {}).get("failure") for result in results}
    assert (failures.pop("00005") or {}).get("kind") == "diverged", "it alone"
    assert not any(failures.values())
    assert sorted(watch.losses["00002"]) == [1, 2]
    for spec in (*specs[:4], specs[5]):
        alone = [losses(p["metrics"]) for p in payloads(replace(spec, folder=f"{spec.folder}-alone"))]
        for epoch, found in watch.losses[spec.name].items():
            assert found == pytest.approx(alone[epoch - 1], rel=1e-4), (spec.name, epoch)
        assert len(alone) == len(watch.losses[spec.name]) or spec.name == "00002"
