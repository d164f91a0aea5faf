"""One owner of a place in a storage: identities that tell machines apart, names that are read again, what the dead leave."""

import fcntl
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpt2core import lease
from gpt2core.errors import StorageError, UserError
from gpt2core.lease import Lease, LeaseKeeper
from gpt2core.storage import Tag, local, read, remove, send, write
from tests.services import BUCKET, Store
from tests.unit.test_storage import become
from tests.waiting import PATIENCE
from trainables.candidates import folder

REFUSED = "{} is at work here"
Claimant = Callable[[str], Lease]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def place(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in store.environment.items():
        monkeypatch.setenv(key, value)
    for name, seconds in {"LEASE": 0.3, "RENEWAL": 0.05, "PAUSE": 0.02}.items():
        monkeypatch.setattr(lease, name, seconds)
    become(monkeypatch, tmp_path / "cache")
    return local(f"s3://{BUCKET}/{tmp_path.name}/out")


@pytest.fixture
def claimant(place: Path, tmp_path: Path, said: list[str]) -> Iterator[Claimant]:
    with ExitStack() as stack:

        def make(name: str) -> Lease:
            return Lease(place / "owner.json", stack.enter_context((tmp_path / name).open("w")), place, said.append)

        yield make


def test_the_next_start_with_the_same_file_waits_for_nobody(claimant: Claimant, said: list[str]) -> None:
    claimant("one").claim(REFUSED)
    after = claimant("one")
    after.claim(REFUSED)
    assert said == []
    assert after.is_ours()


def test_the_same_host_name_and_path_is_another_machine(claimant: Claimant, said: list[str]) -> None:
    first, second = claimant("one"), claimant("two")
    assert first.me["machine"] == second.me["machine"]
    first.claim(REFUSED)
    second.claim(REFUSED)
    assert said == [f"Another machine was here ({first.me['machine']}); waiting 0.3 s for a sign of it"]
    assert (first.is_ours(), second.is_ours()) == (False, True)
    first.release()
    assert second.is_ours(), "who has lost a place does not give it back"


def test_a_restart_is_another_machine(
    claimant: Claimant, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    claimant("one").claim(REFUSED)
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(lease, "BOOT", tmp_path / "boot")
    claimant("one").claim(REFUSED)
    assert len(said) == 1


def test_of_two_that_come_at_once_one_goes_away(claimant: Claimant, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = claimant("one"), claimant("two")
    write = lease.write

    def overtaken(path: Path, data: bytes, over: Tag) -> Tag:
        """The second comes after the first has looked, and before it writes."""
        monkeypatch.setattr(lease, "write", write)
        second.claim(REFUSED)
        return write(path, data, over)

    monkeypatch.setattr(lease, "write", overtaken)
    with pytest.raises(UserError, match="is at work here"):
        first.claim(REFUSED)
    assert second.is_ours()
    assert second.renew()


@pytest.mark.parametrize("dead", [False, True], ids=["an empty place", "the place of a dead owner"])
def test_one_of_many_owns_it(claimant: Claimant, place: Path, monkeypatch: pytest.MonkeyPatch, dead: bool) -> None:
    """Whoever has lost sees the winner's signs; so each of the others ends, and none waits for a lease to run out."""
    monkeypatch.setattr(lease, "LEASE", 2.0)  # so long that a busy machine renews in time
    for round_ in range(2 if dead else 5):
        racers = [claimant(f"{round_}-{number}") for number in range(8)]
        for one in racers:
            one.path = place / str(round_)
        if dead:
            write(place / str(round_), b"{}", None)
        start = threading.Barrier(len(racers))
        monkeypatch.setattr(lease, "LEASE", 1.0 if dead else PATIENCE)

        def race(one: Lease, start: threading.Barrier = start) -> LeaseKeeper | None:
            start.wait()
            try:
                one.claim(REFUSED)
            except UserError:
                return None
            monkeypatch.setattr(lease, "LEASE", PATIENCE)  # on a busy machine its signs may come late
            return LeaseKeeper(one)

        with ThreadPoolExecutor(len(racers)) as pool:
            winners = [kept for kept in pool.map(race, racers) if kept is not None]
        assert len(winners) == 1
        assert [one.is_ours() for one in racers].count(True) == 1
        winners[0].close()
        assert not winners[0].lost


def test_an_owner_that_slept_past_its_lease_writes_nothing(claimant: Claimant, place: Path) -> None:
    first, second = claimant("one"), claimant("two")
    first.claim(REFUSED)
    second.claim(REFUSED)
    there = read(place / "owner.json")
    assert not first.renew()
    first.release()
    assert read(place / "owner.json") == there


def test_a_sign_whose_answer_was_lost_is_no_loss(claimant: Claimant, monkeypatch: pytest.MonkeyPatch) -> None:
    one = claimant("one")
    one.claim(REFUSED)
    written = lease.write

    def unanswered(path: Path, data: bytes, over: Tag) -> Tag:
        monkeypatch.setattr(lease, "write", written)
        written(path, data, over)
        raise StorageError("no answer")

    monkeypatch.setattr(lease, "write", unanswered)
    with pytest.raises(StorageError):
        one.renew()
    assert one.renew()
    assert one.renew()


def test_one_that_lives_is_left_alone(claimant: Claimant, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = claimant("one"), claimant("two")
    first.claim(REFUSED)
    monkeypatch.setattr(lease, "LEASE", 60.0)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: first.renew())
    with pytest.raises(UserError, match="is at work here"):
        second.claim(REFUSED)
    assert first.keep()


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{}", '{"id": 1}', "[" * 100_000, '{"id": "a", "machine": {}}', "\ud800"]
)
def test_a_name_that_cannot_be_read_is_somebody(claimant: Claimant, place: Path, said: list[str], text: str) -> None:
    owner = place / "owner.json"
    owner.parent.mkdir(parents=True)
    owner.write_bytes(text.encode("utf-8", "surrogatepass"))
    send(owner)
    one = claimant("one")
    one.claim(REFUSED)
    assert len(said) == 1, "it was waited for"
    assert one.keep()


def test_a_job_in_a_storage_keeps_others_out_until_it_ends_or_is_overtaken(
    place: Path, claimant: Claimant, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.locked(place):
        kept = folder._HELD[place]
        assert kept is not None
        folder.check_lease(place)
        monkeypatch.setattr(lease, "LEASE", 60.0)
        with pytest.raises(UserError, match="is at work here"):
            claimant("two").claim(REFUSED)
        said.clear()
        other = json.dumps({"id": "another", "machine": "another", "time": 0.0})
        (place / "owner.json").write_text(other)
        send(place / "owner.json")
        kept.thread.join(30)
        with pytest.raises(UserError, match="a job on another machine has taken it over"):
            folder.check_lease(place)
    there = read(place / "owner.json")
    assert there[0].decode() == other
    remove(place / "owner.json")
    with folder.locked(place):
        assert read(place / "owner.json") is not None
    claimant("three").claim(REFUSED)
    assert said == [], "nobody was waited for"


def test_a_file_that_another_process_has_locked_is_no_place_to_begin(place: Path) -> None:
    place.mkdir(parents=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another job writes to it"), folder.locked(place):
            pass
