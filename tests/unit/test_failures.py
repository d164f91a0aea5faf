"""Failures have a kind and a reason."""

import errno
from itertools import islice
from pathlib import Path

import pytest
import torch
from ray.exceptions import OutOfMemoryError

from gpt2core.checkpoints.layout import WEIGHTS
from gpt2core.errors import CheckpointError, ConfigError, DivergedError
from gpt2core.testing import toys
from searches.running import failures
from searches.running.ledger import FAILED, OUT_OF_MEMORY
from trainables import trial, worker_cache
from trainables.failures import failure_of
from trainables.trial import TrialSpec


def no_memory() -> Exception:
    """What PyTorch really says on a CPU where there is no memory."""
    try:
        torch.empty(2**60)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(("error", "kind"), [
    (DivergedError("The loss is nan"), "diverged"),
    (ConfigError("The value of `rank` is 0"), "failed"),
    (CheckpointError("folder: cannot be written"), "failed"),
    (CheckpointError("folder: cannot be written (No space left on device (os error 28))"), "no_room"),
    (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
    (MemoryError(), "out_of_memory"),
    (OutOfMemoryError("Task was killed due to the node running low on memory"), "out_of_memory"),
    (no_memory(), "out_of_memory"),
])  # fmt: skip
def test_what_an_error_means(error: Exception, kind: str) -> None:
    failure = failure_of(error)
    assert failure.kind == kind


def test_a_full_disk_is_named_with_the_way_out() -> None:
    failure = failure_of(OSError(errno.ENOSPC, "No space left on device", "/shared/runs"))
    assert failure.kind == "no_room"
    assert failure.reason == "/shared/runs: is full (No space left on device); make room, or choose another --storage"


def test_the_cause_counts_whatever_it_was_wrapped_in() -> None:
    wrapped = RuntimeError("worker failed")
    wrapped.__cause__ = MemoryError()
    failure = failure_of(wrapped)
    assert failure.kind == "out_of_memory"


def test_an_error_that_may_pass_is_none() -> None:
    assert failure_of(RuntimeError("connection closed by peer")) is None
    assert failure_of(OSError(errno.EIO, "Input/output error")) is None


def test_a_trial_without_memory_reports_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(worker_cache, "inputs", hungry)
    (payload,) = trial.payloads(TrialSpec(name="0000", run=toys.RUN, folder=str(tmp_path)))
    assert payload["failure"]["kind"] == "out_of_memory"
    assert payload["failure"]["reason"].startswith("out of memory: ")


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_cache, "start", lambda run: toys.model())
    monkeypatch.setattr(worker_cache, "task_data", lambda run: toys.data())
    spec, said = TrialSpec(name="0007", run=toys.RUN, folder=str(tmp_path)), list[str]()
    assert [payload["epoch"] for payload in islice(trial.payloads(spec), 2)] == [1, 2]
    weights = tmp_path / "epoch-0002" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    again = next(payload for payload in trial.payloads(spec) if payload["notes"])
    callback = failures.Faults(heart=None, say=said.append)  # type: ignore[arg-type]
    callback.on_trial_result(0, [], spec.name, again)
    (line,) = said
    assert line.startswith(f"trial 0007: {tmp_path / 'epoch-0002'} is damaged (")


def test_one_worker_of_several_that_fails_alone_ends_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(worker_cache, "inputs", hungry)
    with pytest.raises(MemoryError):
        list(trial.payloads(TrialSpec(name="0000", run=toys.RUN, folder=str(tmp_path), workers=2), rank=1, size=2))


@pytest.mark.parametrize(("text", "killed", "status", "reason"), [
    ("1 (at 12:00)\nThe actor died unexpectedly before finishing this task.\n", False, FAILED, "its process died"),
    ("1 (at 12:00)\nThe actor died unexpectedly before finishing this task.\n", True, OUT_OF_MEMORY, "the kernel"),
    ("1\nray.exceptions.OutOfMemoryError: the node was low on memory\n", False, OUT_OF_MEMORY, "Ray killed"),
    ("1\nTraceback\n  line\nKeyError: 'x'\n", False, FAILED, "it raised an error: KeyError: 'x'"),
    ("", False, FAILED, "its process died, or it raised"),
])  # fmt: skip
def test_what_tune_wrote_is_read(text: str, killed: bool, status: str, reason: str) -> None:
    found = failures.classify(text, killed=killed)
    assert found[0] == status
    assert reason in found[1]


DEATH = "1 (at 12:00)\nThe actor died unexpectedly before finishing this task.\n\tclass_name: Pack\n\tpid: {pid}\n\tip: {ip}\n"


class Kernel:
    """A kernel that kills, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.time = 7, 1000.0
        monkeypatch.setattr(failures, "kernel_kills", lambda: self.count)
        monkeypatch.setattr(failures, "own_addresses", lambda: ("10.0.0.1",))
        self.kills = failures.Kills(lambda: self.time)

    def explains(self, pid: int, ip: str = "10.0.0.1") -> bool:
        return self.kills.explain(DEATH.format(pid=pid, ip=ip))

    def passes(self, seconds: int, kills: int = 0) -> None:
        self.count += kills
        for _ in range(seconds):
            self.time += 1.0
            self.kills.look()


def test_each_kill_of_the_kernel_explains_the_death_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    assert not kernel.explains(1), "those before this search do not count"
    kernel.passes(2, kills=1)
    assert kernel.explains(2)
    assert kernel.explains(2), "another trial of the same process"
    assert not kernel.explains(3)
    kernel.passes(5, kills=2)
    assert [kernel.explains(pid) for pid in (4, 5, 6)] == [True, True, False]


def test_a_kill_explains_no_later_death_and_none_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    kernel.passes(1, kills=1)
    assert not kernel.explains(1, ip="10.0.0.2")
    kernel.passes(60)
    assert not kernel.explains(2)
    kernel.count += 1  # and nobody looked since
    assert kernel.explains(3)
