"""The executors on real Ray: each gives a trial the same losses."""

import os
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cluster.environment import HIDE_GPUS
from gpt2core.config import RunConfig
from gpt2core.errors import UserError
from gpt2core.testing import toys
from gpt2core.weights import save_model
from trainables.executors import trainable
from trainables.groups import Groups
from trainables.trial import TrialSpec, score_all

pytestmark = pytest.mark.slow

SONNETS = {"epochs": 2, "batch_size": 16, "train_examples": 40, "decode_seeds": 1, "max_new_tokens": 8, "lr": 1e-3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "toy"
    save_model(toys.model(shape=toys.SHAPE.but(n_positions=1024, vocab_size=320)), folder)
    toys.tokenizer().save(folder)
    return str(folder)


def run(config: RunConfig, folder: Path, workers: int = 1) -> list[Any]:
    spec = TrialSpec(name="trial", run=config, folder=str(folder / "trial"), workers=workers)
    function, resources = trainable(spec)
    groups, seen = Groups("equal"), Keep()
    if spec.grouped:
        spec = groups.place(spec)
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        param_space={"spec": spec.to_dict(), "replicate": False},
        tune_config=tune.TuneConfig(scheduler=seen),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    )
    assert not tuner.fit().errors
    groups.close()
    return seen.metrics


class Keep(FIFOScheduler):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[dict[str, Any]] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result["epoch"] > len(self.metrics):
            self.metrics.append({k: v for k, v in result.items() if k.endswith("_loss")})
        return str(TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("judging", [{}, {"folds": 2, "judged": True}], ids=["one run", "a round"])
def test_functions_and_groups_are_equal(local_ray: None, model: str, tmp_path: Path, judging: dict[str, Any]) -> None:
    config = RunConfig.of({**SONNETS, "model": model, "adapter": "lora", "rank": 4, "accumulation": 2, **judging})
    function = run(config, tmp_path / "function")
    group = run(config.but(accumulation=1), tmp_path / "group", workers=2)
    assert len(function) == len(group) == 2
    for one, two in zip(function, group, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert value == pytest.approx(two[key], rel=1e-4), key


def test_a_trial_that_diverges_reports_why(local_ray: None, model: str, tmp_path: Path) -> None:
    config = RunConfig.of({**SONNETS, "model": model, "lr": 1e30})
    spec = TrialSpec(name="trial", run=config, folder=str(tmp_path / "trial"))
    function, resources = trainable(spec)
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        param_space={"spec": spec.to_dict()},
        run_config=tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0),
    )
    (result,) = tuner.fit()
    assert result.error is None
    assert result.metrics["failure"]["kind"] == "diverged"
    assert "The training loss is nan" in result.metrics["failure"]["reason"]


def test_a_failed_test_score_is_a_one_line_error(local_ray: None, model: str, tmp_path: Path) -> None:
    spec = TrialSpec(name="0000", run=RunConfig.of({**SONNETS, "model": model}), folder=str(tmp_path / "nothing"))
    words = r"^The test split could not be scored \(CheckpointError: .*; the same command"
    with pytest.raises(UserError, match=words) as told:
        score_all([spec])
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(("gpus", "seen"), [(0, 0), (1, 1), (0.5, 1), (2, 2)])
def test_a_worker_sees_the_gpus_that_it_asked_for(local_ray: None, gpus: float, seen: int) -> None:
    @ray.remote(num_gpus=gpus, runtime_env={"env_vars": {**HIDE_GPUS, "CUDA_VISIBLE_DEVICES": "0,1"}})
    def visible() -> list[str]:
        return os.environ["CUDA_VISIBLE_DEVICES"].split(",")

    assert len([number for number in ray.get(visible.remote()) if number]) == seen
