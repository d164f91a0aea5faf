"""An error in one trial of a pack ends only that trial; no call waits for ever."""

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpt2core import packing, training
from gpt2core.checkpoints.saving import Saving
from gpt2core.config import RunConfig
from gpt2core.packing import Packer
from gpt2core.run import Run
from gpt2core.testing import toys
from trainables import worker_cache
from trainables.packs import Pack
from trainables.trial import TrialSpec, payloads

RUNS = {
    "0000": toys.RUN.but(adapter="lora", rank=2, epochs=3, decode_seeds=0),
    "0001": toys.RUN.but(adapter="lora", rank=4, epochs=3, decode_seeds=0, seed=3, batch_size=5),
    "0002": toys.RUN.but(adapter="lora", rank=1, epochs=3, decode_seeds=0, seed=5),
}
SICK = RUNS["0001"]
WAIT = 120  # seconds after which a call counts as one that waits for ever


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    base, data = toys.model(), toys.data()
    monkeypatch.setattr(worker_cache, "start", lambda run: base)
    monkeypatch.setattr(worker_cache, "task_data", lambda run: data)


def losses(payload: dict[str, Any]) -> tuple[float, float]:
    return payload["metrics"]["train_loss"], payload["metrics"]["dev_loss"]


def follow(pack: Pack, spec: TrialSpec, attempts: int = 2) -> list[tuple[float, float]]:
    """The losses by epoch of a trial that resumes from its checkpoint after an error, as under Tune."""
    found: dict[int, tuple[float, float]] = {}
    for attempt in range(attempts):
        try:
            payload = pack.next(spec.to_dict(), joins=True)
            while payload is not None:
                assert "failure" not in payload, payload["failure"]
                found[payload["epoch"]] = losses(payload)
                payload = pack.next(spec.to_dict(), joins=False)
            return [found[epoch] for epoch in sorted(found)]
        except Exception:
            if attempt == attempts - 1:
                raise
    raise AssertionError


def all_followed(folder: Path, attempts: int = 2) -> dict[str, Future[list[tuple[float, float]]]]:
    pack, pool = Pack(), ThreadPoolExecutor(len(RUNS))
    specs = [TrialSpec(name=name, run=run, folder=str(folder / name), pack=3) for name, run in RUNS.items()]
    return {spec.name: pool.submit(follow, pack, spec, attempts) for spec in specs}


def alone(folder: Path, run: RunConfig) -> list[tuple[float, float]]:
    return [losses(payload) for payload in payloads(TrialSpec(name="alone", run=run, folder=str(folder / "alone")))]


def of_sick(config: RunConfig) -> bool:
    return config.seed == SICK.seed


def once(calls: "itertools.count[int]", error: BaseException, number: int) -> None:
    if next(calls) == number:
        raise error


PLACES: dict[str, tuple[Any, str, Callable[[Any], bool], BaseException, int]] = {
    "data": (Run, "token_count", lambda run: of_sick(run.config), OSError("no such block of the disk"), 3),
    "update": (Run, "apply_update", lambda run: of_sick(run.config), RuntimeError("a bug"), 6),
    "evaluation": (training, "evaluate_epoch", lambda run: of_sick(run.config), RuntimeError("no such kernel"), 2),
    "checkpoint": (Saving, "finish", lambda saving: saving.folder.name == "0001", OSError("is gone"), 2),
    "all": (Packer, "take", lambda packer: True, SystemExit("of the process"), 7),
    "shared": (packing, "_losses", lambda steps: len(steps) > 1, RuntimeError("an illegal address"), 5),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_in_one_trial_changes_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    owner, name, applies, error, number = PLACES[place]
    expected = {trial: alone(tmp_path / trial, run) for trial, run in RUNS.items()}
    whole, calls = getattr(owner, name), itertools.count(1)

    def failing(first: Any, *rest: Any, **more: Any) -> Any:
        if applies(first):
            once(calls, error, number)
        return whole(first, *rest, **more)

    monkeypatch.setattr(owner, name, failing)
    for trial, found in all_followed(tmp_path).items():
        rows = found.result(timeout=WAIT)
        assert len(rows) == 3
        for row, other in zip(rows, expected[trial], strict=True):
            assert row == pytest.approx(other, rel=1e-4), trial
    assert next(calls) > number, "the error was raised"


def test_a_trial_with_a_permanent_error_ends_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = Run.apply_update

    def failing(run: Run, *rest: Any) -> None:
        if of_sick(run.config) and rest[0] >= 4:
            raise RuntimeError("its gradients are wrong")
        whole(run, *rest)

    monkeypatch.setattr(Run, "apply_update", failing)
    found = all_followed(tmp_path)
    with pytest.raises(RuntimeError, match="its gradients are wrong"):
        found["0001"].result(timeout=WAIT)
    assert all(len(found[name].result(timeout=WAIT)) == 3 for name in ("0000", "0002"))
