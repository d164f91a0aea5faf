"""Worker groups on real Ray with GPUs that nobody has: the same processes train one trial of Tune after another."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gpt2core.config import RunConfig
from tests.grouped import fit
from tests.killing import lora_run, make_toy, name_of
from tests.waiting import wait_until
from trainables.groups import Groups
from trainables.trial import RESTARTS, TrialSpec, payloads

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return lora_run(tmp_path_factory.mktemp("groups"))


class Watch(FIFOScheduler):  # type: ignore[misc]
    """Keeps the losses of each trial and the processes that were there; calls `at`, which may stop the trial."""

    def __init__(self, at: Callable[[str, int], bool | None]) -> None:
        super().__init__()
        self.at = at
        self.losses: dict[str, dict[int, float]] = {}
        self.reports: Counter[tuple[str, int]] = Counter()
        self.pids: set[int] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name, epoch = trial.config["spec"]["name"], result["epoch"]
        self.pids |= pids("RayTrainWorker", "TrainController")
        if "failure/kind" in result:
            return str(TrialScheduler.CONTINUE)
        self.reports[name, epoch] += 1
        self.losses.setdefault(name, {})[epoch] = result["metrics/dev_loss"]
        return str(TrialScheduler.STOP if self.at(name, epoch) else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def pids(*roles: str) -> set[int]:
    """The processes of Ray's actors of these classes."""
    below = psutil.Process().children(recursive=True)
    return {process.pid for process in below if any(role in name_of(process) for role in roles)}


def trained(
    specs: list[TrialSpec], folder: Path, at: Callable[[str, int], bool | None]
) -> tuple[Watch, dict[str, str | None], int]:
    """Run trials one after another; return what was seen, the kind of failure of each, and how many of them Tune gave up."""
    groups, watch = Groups(folder.name), Watch(at)
    try:
        results = fit(specs, groups, watch, folder)
    finally:
        groups.close()
    kinds = {result.config["spec"]["name"]: (result.metrics or {}).get("failure", {}).get("kind") for result in results}
    return watch, kinds, len(results.errors)


def specs_of(configs: dict[str, RunConfig], folder: Path, **shape: Any) -> list[TrialSpec]:
    return [TrialSpec(name=name, run=run, folder=str(folder / name), **shape) for name, run in configs.items()]


def alone(run: RunConfig, folder: Path) -> dict[int, float]:
    spec = TrialSpec(name="alone", run=run, folder=str(folder / "alone"))
    return {payload["epoch"]: payload["metrics"]["dev_loss"] for payload in payloads(spec)}


@pytest.mark.parametrize("shape", [{"gpus_per_worker": 1}, {"workers": 2}], ids=["a GPU", "two workers"])
def test_one_group_trains_all_trials(local_ray: None, run: RunConfig, tmp_path: Path, shape: dict[str, Any]) -> None:
    configs = {
        "first": run.but(epochs=2),
        "stopped": run.but(epochs=9, seed=3),
        "diverges": run.but(epochs=2, lr=1e30),
        "second": run.but(epochs=2, rank=2),
        "round": run.but(epochs=2, folds=2, judged=True),
    }
    specs = specs_of(configs, tmp_path, **shape)
    watch, kinds, errors = trained(specs, tmp_path, lambda name, epoch: (name, epoch) == ("stopped", 1))
    assert not errors
    assert kinds == dict.fromkeys(configs) | {"diverges": "diverged"}
    assert list(watch.losses["stopped"]) == [1]
    assert len(watch.pids) == 1 + shape.get("workers", 1), "one controller, and workers that stay"
    wait_until(lambda: not pids("ray::Group", "RayTrainWorker", "TrainController"))
    for name in ("first", "second", "round"):
        assert watch.losses[name] == pytest.approx(alone(configs[name], tmp_path / name), rel=1e-4), name


def test_a_killed_worker_is_replaced(local_ray: None, run: RunConfig, tmp_path: Path) -> None:
    configs = {"killed": run.but(epochs=3), "next": run.but(epochs=2)}
    killed: list[int] = []

    def kill_once(name: str, epoch: int) -> None:
        if (name, epoch) == ("killed", 2) and not killed:
            killed.extend(pids("RayTrainWorker"))
            os.kill(killed[0], signal.SIGKILL)

    watch, kinds, errors = trained(specs_of(configs, tmp_path, workers=2), tmp_path, kill_once)
    assert (errors, kinds) == (0, dict.fromkeys(configs))
    assert len(watch.pids - set(killed)) == 3, "one controller, and two new workers for both trials"
    for name, config in configs.items():
        assert watch.losses[name] == pytest.approx(alone(config, tmp_path / name), rel=1e-4), name


def test_a_trial_whose_worker_always_dies_fails_alone(local_ray: None, run: RunConfig, tmp_path: Path) -> None:
    configs = {"dies": run.but(epochs=2), "next": run.but(epochs=2)}

    def kill(name: str, epoch: int) -> None:
        for pid in pids("RayTrainWorker") if name == "dies" else ():
            os.kill(pid, signal.SIGKILL)

    watch, kinds, errors = trained(specs_of(configs, tmp_path, gpus_per_worker=1), tmp_path, kill)
    assert (errors, kinds) == (1, dict.fromkeys(configs))
    assert watch.reports["dies", 1] == 1 + RESTARTS
    assert list(watch.losses["next"]) == [1, 2]


def test_a_trial_that_is_stopped_within_an_epoch_ends_there(local_ray: None, run: RunConfig, tmp_path: Path) -> None:
    data = make_toy(tmp_path, train=6000, dev=20) / "data"
    configs = {"long": run.but(data_dir=str(data), batch_size=1), "next": run.but(epochs=1)}
    groups = Groups(tmp_path.name)
    long, following = specs_of(configs, tmp_path, workers=2, trace=True)
    long = groups.place(long)
    actor = ray.get_actor(str(long.process))
    waiting = actor.next.remote(long.to_dict(), joins=True)
    wait_until((tmp_path / "long" / "trace.json.gz").exists)  # written after some steps
    groups.leave("long")
    assert ray.get(waiting) is None
    report = ray.get(actor.next.remote(groups.place(following).to_dict(), joins=True))
    assert report["epoch"] == 1
    assert not list((tmp_path / "long").glob("epoch*")), "it trained until the end of its epoch"
    groups.leave("next")
    groups.close()
