"""The calls of a worker group, without Ray: its first worker, the trials' processes and the driver in threads of this process."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest

from gpt2core.testing import toys
from trainables import groups
from trainables.failures import Failure
from trainables.groups import Group, Groups, _Stopped
from trainables.trial import Payload, TrialSpec

WAIT = 60  # seconds after which a call counts as one that waits for ever
SHAPE = TrialSpec(name="", run=toys.RUN, folder="", workers=2).to_dict()


class Started(Group):
    """A group whose Ray Train does nothing until the test lets it end."""

    def __init__(self) -> None:
        self.fits: Queue[threading.Event] = Queue()
        self.over = threading.Event()
        super().__init__("group", SHAPE)

    def _fit(self) -> None:
        over = threading.Event()
        self.fits.put(over)
        over.wait()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Started:
    monkeypatch.setattr(groups, "_note_resources", lambda name, resources: None)
    return Started()


def of(name: str) -> dict[str, Any]:
    return {"name": name}


def report(epoch: int) -> Payload:
    return {"epoch": epoch, "objective": 0.5}


def begun(group: Started, pool: ThreadPoolExecutor, name: str) -> Future[Payload | None]:
    """A new first worker that has taken the trial `name`; return what the trial's process waits for."""
    waiting = pool.submit(group.next, of(name), joins=True)
    group.over = group.fits.get(timeout=WAIT)
    group.begin("worker", SimpleNamespace())
    assert group.take("worker") == of(name)
    return waiting


def test_a_worker_takes_one_trial_after_another(group: Started, pool: ThreadPoolExecutor) -> None:
    waiting = begun(group, pool, "0000")
    for epoch in (1, 2):
        going_on = pool.submit(group.put, "worker", report(epoch))
        assert waiting.result(WAIT) == report(epoch)
        assert not going_on.done(), "the trial's process has not asked for the next report"
        waiting = pool.submit(group.next, of("0000"), joins=False)
        assert going_on.result(WAIT)
    taken = pool.submit(group.take, "worker")
    assert waiting.result(WAIT) is None
    group.leave("0000")
    pool.submit(group.next, of("0001"), joins=True)
    assert taken.result(WAIT) == of("0001")
    assert group.fits.empty(), "Ray Train started once"
    group.leave("0001")


def test_a_stopped_trial_ends_at_its_report(group: Started, pool: ThreadPoolExecutor) -> None:
    waiting = begun(group, pool, "0000")
    going_on = pool.submit(group.put, "worker", report(1))
    assert waiting.result(WAIT) == report(1)
    group.leave("0000")
    assert not going_on.result(WAIT)


def test_a_trial_that_is_stopped_within_an_epoch_ends_at_a_step(group: Started, pool: ThreadPoolExecutor) -> None:
    begun(group, pool, "0000")
    assert group.trains("worker")
    group.leave("0000")
    assert not group.trains("worker")
    pool.submit(group.next, of("0001"), joins=True)
    assert group.take("worker") == of("0001")
    group.leave("0001")


def test_a_trial_whose_worker_died_is_taken_by_the_next_worker(group: Started, pool: ThreadPoolExecutor) -> None:
    waiting = begun(group, pool, "0000")
    group.failed(None, "ActorDiedError: its process died")
    with pytest.raises(RuntimeError, match="ActorDiedError: its process died"):
        waiting.result(WAIT)
    assert group.take("worker") is None, "it is about to be killed"
    assert not group.put("worker", report(1))
    waiting = pool.submit(group.next, of("0000"), joins=True)
    group.begin("successor", SimpleNamespace())
    assert group.take("successor") == of("0000")
    pool.submit(group.put, "successor", report(1))
    assert waiting.result(WAIT) == report(1)
    group.leave("0000")


def test_a_preempted_trial_goes_on_and_reports_no_epoch_twice(group: Started, pool: ThreadPoolExecutor) -> None:
    waiting = begun(group, pool, "0000")
    pool.submit(group.put, "worker", report(1))
    assert waiting.result(WAIT) == report(1)
    waiting = pool.submit(group.next, of("0000"), joins=False)
    group.begin("successor", SimpleNamespace())
    assert group.take("successor") == of("0000")
    assert group.put("successor", report(1)), "this epoch was reported"
    pool.submit(group.put, "successor", report(2))
    assert waiting.result(WAIT) == report(2)
    group.leave("0000")


def test_a_failure_is_the_last_report(group: Started, pool: ThreadPoolExecutor) -> None:
    waiting = begun(group, pool, "0000")
    group.failed(Failure("out_of_memory", "out of memory: on one worker"), "")
    failed = waiting.result(WAIT)
    assert failed is not None
    assert failed["failure"] == {"kind": "out_of_memory", "reason": "out of memory: on one worker"}
    assert group.next(of("0000"), joins=False) is None


def test_workers_without_a_trial_end_and_start_again(
    group: Started, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(group, pool, "0000")
    group.leave("0000")
    monkeypatch.setattr(groups, "IDLE", 0.0)
    assert group.take("worker") is None
    pool.submit(group.next, of("0001"), joins=True)
    group.over.set()
    assert group.fits.get(timeout=WAIT), "Ray Train starts again"
    group.leave("0001")


def test_a_closed_group_ends_its_workers(group: Started, pool: ThreadPoolExecutor) -> None:
    begun(group, pool, "0000")
    closed = pool.submit(group.close)
    assert not group.trains("worker")
    assert group.take("worker") is None
    assert closed.result(WAIT), "Ray Train still runs"


@pytest.mark.parametrize(("size", "asked"), [(1, 1), (2, 0)])
def test_workers_look_rarely_whether_the_trial_is_stopped(
    size: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_of_first", lambda value, size: value)
    calls: list[bool] = []
    stopped = _Stopped(lambda: bool(calls.append(True)) or len(calls) == 2, 0, size)
    assert not any(stopped() for _ in range(5))
    assert len(calls) == asked, "once a second, and several workers only at every tenth step"
    stopped.due = 0.0
    assert [stopped() for _ in range(5)][-1 if size > 1 else 0] == (size == 1)


def test_groups_are_reused_while_their_part_of_a_gpu_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(groups.ray, "get", lambda reference: reference)
    actor = SimpleNamespace(leave=SimpleNamespace(remote=lambda name: None))

    class Known(Groups):
        def _new_actor(self, name: str, spec: TrialSpec) -> Any:
            return actor

        def _close(self, names: list[str]) -> None:
            closed.extend(names)
            self.idle = [name for name in self.idle if name not in names]

    known = Known("search")

    def placed(name: str, part: float) -> str | None:
        return known.place(TrialSpec(name=name, run=toys.RUN, folder="", gpus_per_worker=part)).process

    assert [placed("a", 0.25), placed("b", 0.25)] == ["search-group-0", "search-group-1"]
    known.leave("a")
    assert placed("c", 0.25) == "search-group-0"
    known.leave("c")
    assert placed("d", 0.5) == "search-group-2"
    assert closed == ["search-group-0"], "an idle group would keep its part"
    known.leave("b")
    assert closed == ["search-group-0", "search-group-1"], "no later trial fits into its part"
    known.leave("d")
    assert placed("e", 0.5) == "search-group-2"
