"""Checkpoints: a kill at any moment and a damaged file cost an epoch at most, and never the best weights."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2core.builders import build_model, build_optimizer
from gpt2core.checkpoints import saving
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.checkpoints.layout import OPTIMIZER, STATE, WEIGHTS
from gpt2core.checkpoints.resuming import resume
from gpt2core.checkpoints.saving import Pace, save
from gpt2core.errors import CheckpointError
from gpt2core.model import trainable_parameters
from gpt2core.steps import take_steps
from gpt2core.testing import toys
from gpt2core.training import loop
from gpt2core.weights import save_model
from tests.rights import as_files_allow

LORA = toys.RUN.but(adapter="lora", rank=2)
BEST = {1: True, 2: False, 3: True, 4: False, 5: False}  # by epoch: whether its score is the best so far
CPU = torch.device("cpu")


class KilledError(BaseException):
    """What a process does when it is killed: nothing more, no tidying up either."""


class Run:
    """A run whose weights after an epoch are the epoch's number."""

    def __init__(self) -> None:
        self.model = build_model(LORA, toys.model(), CPU)
        self.parameters = trainable_parameters(self.model)
        self.optimizer = build_optimizer(self.model, LORA, CPU)
        self.notes: list[str] = []

    def until(self, last: int, folder: Path) -> int:
        history, started, lost = resume(folder, LORA, self.model, self.optimizer, say=self.notes.append)
        if started:
            assert self.weights() == {started}
        for epoch in range(started + 1, last + 1):
            self.step(epoch)
            if epoch > len(history):
                history.append({"epoch": epoch, "best": BEST[epoch]})
                lost = epoch if BEST[epoch] else lost
            save(folder, LORA, self.model, self.optimizer, history[:epoch], best=epoch == lost)
        return started

    def step(self, epoch: int) -> None:
        sum(parameter.sum() for parameter in self.parameters.values()).backward()  # type: ignore[union-attr]
        self.optimizer.step()
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.fill_(epoch)

    def weights(self) -> set[float]:
        return {value for parameter in self.parameters.values() for value in parameter.unique().tolist()}

    def best(self, folder: Path) -> int:
        """The epoch of the best weights, which they are indeed of."""
        epoch = load_best(folder, self.model)
        assert self.weights() == {epoch}
        assert run_config(folder) == LORA
        return epoch


class Killer:
    """Lets so many steps on the file system be taken, and kills in place of the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self.left = steps
        for module, names in ((os, ("replace", "mkdir", "unlink", "rmdir", "fsync", "link")), (shutil, ("copyfile",))):
            for name in names:
                monkeypatch.setattr(module, name, self.counted(getattr(module, name)))
        monkeypatch.setattr(saving, "save_file", self.counted(saving.save_file))

    def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise KilledError
            return step(*args, **kwargs)

        return counting


def test_a_kill_at_any_step_loses_no_more_than_the_epoch(tmp_path: Path) -> None:
    """From every step of the epochs 3 (a new best) and 4 (none) on."""
    Run().until(2, tmp_path / "start")
    steps, killed = 0, True
    while killed:
        folder = tmp_path / str(steps)
        shutil.copytree(tmp_path / "start", folder)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Killer(monkeypatch, steps)
            try:
                Run().until(4, folder)
                killed = False
            except KilledError:
                pass
        assert Run().best(folder) in (1, 3), steps
        run = Run()
        assert run.until(4, folder) >= 2, steps
        assert run.best(folder) == 3, steps
        assert run.notes == []
        assert {path.name for path in folder.iterdir()} >= {"best", "epoch-0003", "epoch-0004"}
        steps += 1
    assert steps > 20, "no step was counted"


@pytest.mark.parametrize("minutes", [0.0, 1e9])
def test_a_kill_at_any_step_while_an_epoch_is_evaluated_changes_no_result(minutes: float, tmp_path: Path) -> None:
    config, base, data = LORA.but(decode_seeds=0, epochs=2), toys.model(), toys.data(train=4, dev=2)

    def reported(folder: Path | None, killer: Callable[[pytest.MonkeyPatch], object] | None = None) -> list[Any]:
        reports = []
        with pytest.MonkeyPatch.context() as monkeypatch, suppress(KilledError):
            for report in take_steps(loop(config, base, data, folder=folder, pace=Pace(minutes))):
                if report.epoch == 1 and killer is not None:
                    killer(monkeypatch)
                reports.append((report.epoch, report.metrics["train_loss"], report.metrics["dev_loss"]))
        return reports

    whole = reported(None)
    for steps in itertools.count(step=2):
        before = reported(tmp_path / str(steps), lambda monkeypatch: Killer(monkeypatch, steps))  # noqa: B023
        assert before == whole[: len(before)]
        run = Run()
        resumed = resume(tmp_path / str(steps), config, run.model, run.optimizer)
        assert len(resumed.history) >= len(before)
        assert resumed.epoch == (0 if minutes else len(resumed.history))
        assert reported(tmp_path / str(steps)) == whole, steps
        if len(before) == len(whole):
            break
    assert steps > 10, "no step was counted"


def test_tensors_of_a_cpu_are_written_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = set[int]()
    monkeypatch.setattr(saving, "save_file", lambda tensors, *_: written.update(t.data_ptr() for t in tensors.values()))
    run = Run()
    with suppress(CheckpointError):  # since nothing is really written
        run.until(1, tmp_path)
    assert {parameter.data_ptr() for parameter in run.parameters.values()} <= written


FILES = (WEIGHTS, OPTIMIZER, STATE)


@pytest.mark.parametrize("name", ["epoch-0004", *(f"epoch-0004/{file}" for file in FILES)])
def test_what_may_not_be_read_is_neither_damaged_nor_missing(name: str, tmp_path: Path) -> None:
    Run().until(4, tmp_path)
    (tmp_path / name).chmod(0)
    file = f"{name}/{STATE}" if name == "epoch-0004" else name
    with as_files_allow(), pytest.raises(CheckpointError) as error:
        Run().until(5, tmp_path)
    (tmp_path / name).chmod(0o755)
    assert str(error.value) == f"{tmp_path / file}: cannot be read (Permission denied); ask its owner for access"
    assert Run().until(5, tmp_path) == 4, "the checkpoint is as it was"


@pytest.mark.parametrize("file", [WEIGHTS, STATE])
def test_best_weights_that_may_not_be_read_are_not_missing(file: str, tmp_path: Path) -> None:
    Run().until(3, tmp_path)
    path = tmp_path / "best" / file
    path.chmod(0)
    with as_files_allow(), pytest.raises(CheckpointError, match=f"{path}: cannot be read"):
        load_best(tmp_path, Run().model)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_modes_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    former = os.umask(umask)
    try:
        Run().until(3, tmp_path / "run")
        save_model(toys.model(), tmp_path / "run" / "model")
    finally:
        os.umask(former)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*") if path.is_file()} == {mode}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("last", [3, 4])
def test_a_truncated_newest_checkpoint_costs_one_epoch_and_is_told(file: str, last: int, tmp_path: Path) -> None:
    Run().until(last, tmp_path)
    truncate(tmp_path / f"epoch-{last:04d}" / file)
    run = Run()
    assert run.until(5, tmp_path) == last - 1
    assert run.best(tmp_path) == 3
    (note,) = run.notes
    assert f"epoch-{last:04d} is damaged (" in note
    assert note.endswith("and skipped")


@pytest.mark.parametrize("file", [WEIGHTS, STATE])
@pytest.mark.parametrize("last", [3, 4])
def test_a_removed_or_replaced_best_is_made_again_from_its_epoch(file: str, last: int, tmp_path: Path) -> None:
    for change in (Path.unlink, replace_by_half):
        folder = tmp_path / change.__name__
        Run().until(last, folder)
        change(folder / "best" / file)
        run = Run()
        assert run.until(last, folder) == last
        assert run.best(folder) == 3
        assert json.loads((folder / "best" / STATE).read_text())["history"][-1]["epoch"] == 3


@pytest.mark.parametrize(("last", "left"), [(3, 2), (4, 0)])
def test_a_truncated_file_that_best_links_to_is_trained_again(last: int, left: int, tmp_path: Path) -> None:
    """After epoch 4, no epoch before the best one is kept."""
    Run().until(last, tmp_path)
    truncate(tmp_path / "best" / WEIGHTS)
    run = Run()
    assert run.until(last, tmp_path) == left
    assert run.best(tmp_path) == 3
    (note,) = run.notes
    assert f"{tmp_path / 'epoch-0003'} is damaged (" in note


def test_best_links_to_its_epoch_and_outlives_it(tmp_path: Path) -> None:
    best = tmp_path / "best" / WEIGHTS
    Run().until(3, tmp_path)
    assert best.samefile(tmp_path / "epoch-0003" / WEIGHTS)
    whole = best.read_bytes()
    Run().until(4, tmp_path)
    truncate(tmp_path / "epoch-0004" / STATE)
    truncate(tmp_path / "epoch-0004" / OPTIMIZER)
    Run().until(5, tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("epoch-*"))] == ["epoch-0004", "epoch-0005"]
    assert best.read_bytes() == whole


def test_best_is_copied_where_the_filesystem_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    Run().until(3, tmp_path)
    assert not (tmp_path / "best" / WEIGHTS).samefile(tmp_path / "epoch-0003" / WEIGHTS)
    truncate(tmp_path / "best" / WEIGHTS)
    assert Run().until(3, tmp_path) == 3
    assert Run().best(tmp_path) == 3


def test_best_weights_that_are_lost_are_trained_again_and_it_is_told(tmp_path: Path) -> None:
    Run().until(5, tmp_path)
    truncate(tmp_path / "best" / WEIGHTS)
    run = Run()
    assert run.until(5, tmp_path) == 0
    assert run.best(tmp_path) == 3
    assert run.notes == [f"{tmp_path / 'best'} is damaged: epoch 3 is trained again"]


def test_a_checkpoint_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Run().until(2, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", full)
        words = r"epoch 3 cannot be written .*No space left.*check the free space"
        with pytest.raises(CheckpointError, match=words) as error:
            Run().until(3, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert Run().until(3, tmp_path) == 2


def truncate(path: Path) -> None:
    """Damage a file, whatever names it has."""
    path.write_bytes(path.read_bytes()[:-10])


def replace_by_half(path: Path) -> None:
    """Replace one name of a file by half of its content."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half)
