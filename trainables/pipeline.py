"""One round of Impossible Distillation on Ray, parallel and resumable: contexts, candidates, scored pairs, accepted pairs.

Writers and scorers are actors (`trainables/stages_on_ray.py`); this file hands them shards, counts, and writes the manifest.
Everything is deterministic but the order of the work: 1, 2 or 4 workers leave the same files, bit for bit.
"""

import fcntl
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from gpt2core.distill.manifest import MANIFEST, Told, checked_rounds
from gpt2core.distill.shards import Shard
from gpt2core.errors import ConfigError, DataError, UserError, shown
from gpt2core.files import read_json, write_json
from gpt2core.lease import Kept, Lease
from gpt2core.storage import address, fetch, is_copy, local, send
from trainables.heartbeat import TICK, Heartbeat, RayEndedError, ended
from trainables.machines import grows
from trainables.pool import Pool
from trainables.stages_on_ray import SHARD, STAGES, Job, Report, ScorerActor, WriterActor, shards

__all__ = ["SHARD", "STAGES", "Job", "Progress", "RayEndedError", "fitted", "locked", "manifest", "run"]

VERSION = 1  # of the manifest
BACKLOG = 4  # written shards for each scorer that may wait before writers wait too
DERIVED = ("README.md", "course.tsv")  # made from the manifest and what it names

_HELD: dict[Path, Kept | None] = {}  # folders that this process has locked, with the lease of one behind an address


@dataclass
class Progress:
    """How far a round is. Counts are those of the files that are whole, made now or before."""

    round: int
    shards: int
    workers: int
    ready: int = 0  # of `workers`: writers that have loaded their model
    done: Counter[str] = field(default_factory=Counter)  # shards by stage
    made: Counter[str] = field(default_factory=Counter)  # those that were not there before
    rows: Counter[str] = field(default_factory=Counter)  # by stage
    fresh: Counter[str] = field(default_factory=Counter)  # rows by stage, of shards that were not there before
    reasons: dict[str, Counter[str]] = field(default_factory=dict)  # by stage
    errors: Counter[str] = field(default_factory=Counter)  # of quarantined rows
    seconds: float = 0.0
    working: float = 0.0  # of these, since the first writer was ready

    def add(self, report: Report) -> None:
        """Count one more answer of an actor."""
        self.done.update(report.rows.keys())
        self.made.update(report.made)
        self.rows.update(report.rows)
        self.fresh.update({stage: report.rows[stage] for stage in report.made})
        for stage, reasons in report.reasons.items():
            self.reasons.setdefault(stage, Counter()).update(reasons)
        self.errors.update(report.errors)


Listen = Callable[[Progress], None]


def run(job: Job, listen: Listen = lambda progress: None) -> dict[str, Any]:
    """Run or go on with a round on the Ray that is connected; return its entry of the manifest.

    Raises UserError: for bad input, where another job writes into the folder, where too many rows are unusable, and where
    Ray ends. What is finished is kept then, and the same job goes on with it.
    """
    with locked(job.folder), ray_explained():
        check(job)
        return _Round(job, listen).run()


def check(job: Job) -> None:
    """Raise ConfigError for what no cluster can do, and for what this one cannot, if it does not grow."""
    for name in ("contexts", "workers", "scorers", "round"):
        if getattr(job, name) < 1:
            raise ConfigError(f"The value of `{name}` is {getattr(job, name)}, but must be >= 1")
    if not 0 <= job.max_quarantine <= 1:
        raise ConfigError(f"The value of `max_quarantine` is {job.max_quarantine:g}, but must be a share, 0 to 1")
    if grows():
        return  # what it has no room for now waits for machines; the screen shows how many workers are ready
    total = ray.cluster_resources()
    for kind, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        need = job.workers * job.writer_resources.get(key, 0) + job.scorers * job.scorer_resources.get(key, 0)
        there = total.get(kind, 0.0)
        if need > there + 1e-6:
            raise ConfigError(
                f"{job.workers} workers and {job.scorers} scorers need {need:g} {kind}s, but the cluster has {there:g}"
            )


def fitted(
    job: Job,
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    scorers: int | None = None,
    gpus_per_scorer: float = 0.0,
) -> Job:
    """The job with as many workers and scorers as asked for, else as many as the Ray that is connected has room for.

    Without a number: a GPU for each worker where there are GPUs, and then a scorer for each CPU, so that no GPU waits for
    filters; else a worker and a scorer for each CPU. Never more than there are shards.
    """
    total = ray.cluster_resources()
    cpus, gpus = max(1, int(total.get("CPU", 1.0))), total.get("GPU", 0.0)
    each = gpus_per_worker if gpus_per_worker is not None else 1.0 if gpus >= 1 else 0.0
    room = int(gpus // (each + gpus_per_scorer)) if each else cpus
    workers = workers or max(1, min(room, job.count))
    beside = cpus if each and not gpus_per_scorer else workers
    return replace(
        job,
        workers=workers,
        gpus_per_worker=each,
        scorers=scorers or min(beside, job.count),
        gpus_per_scorer=gpus_per_scorer,
    )


@contextmanager
def ray_explained() -> Iterator[None]:
    """Raise what an actor or a task raised as if it had been raised here, and RayEndedError where Ray itself failed.

    Of errors that are no user's, those of files and memory become one; others keep Ray's account of where they were.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if isinstance(error.cause, OSError):
            raise UserError(f"A worker could not read or write: {error.cause}; all nodes must share --out") from None
        if isinstance(error.cause, MemoryError | torch.OutOfMemoryError):
            raise UserError(
                f"A worker ran out of memory ({str(error.cause).splitlines()[0]}); take a smaller model or shorter texts"
            ) from None
        raise
    except RayError as error:
        raise ended(error) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other jobs out of a folder; raise UserError where one is in it. The lock ends with the process, however it ends.

    Who has it may ask for it again.
    """
    if folder in _HELD:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another job writes into this folder; wait for its end, or choose another --out"
            ) from None
        _HELD[folder] = _lease(folder, lock) if is_copy(folder) else None
        try:
            yield
        finally:
            kept = _HELD.pop(folder)
            if kept is not None:
                kept.close()


def _lease(folder: Path, lock: IO[str]) -> Kept:
    """Keep jobs on other machines out of a folder too; raise UserError where one is in it."""
    lease = Lease(folder / "owner.json", lock, folder, lambda text: print(text, file=sys.stderr, flush=True))
    lease.claim(f"{address(folder)}: a job on another machine writes into this folder ({{}}); choose another --out")
    return Kept(lease)


def check_lease(folder: Path) -> None:
    """Raise UserError where a job on another machine has taken the folder over."""
    kept = _HELD.get(folder)
    if kept is not None and kept.lost:
        raise UserError(f"{address(folder)}: a job on another machine has taken this folder over")


def manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder; one without rounds where there is none. Raises UserError for one that is damaged."""
    path = folder / MANIFEST
    fetch(path)
    if not path.exists():
        return {"version": VERSION, "rounds": []}
    try:
        values = read_json(path)
        version = values.get("version")
        rounds = checked_rounds(path, values, Told) if version == VERSION else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise UserError(f"{path}: is damaged; remove it, and the same command makes it again ({error})") from None
    if version != VERSION:
        raise UserError(f"{path}: its version is {shown(version)}, but must be {VERSION}; choose another --out")
    return {"version": version, "rounds": rounds}


class _Round:
    """A round that runs: what waits, what is under way, and what is known."""

    def __init__(self, job: Job, listen: Listen) -> None:
        self.job, self.listen = job, listen
        self.started = time.monotonic()
        self.ready_at: float | None = None
        self.progress = Progress(job.round, job.count, job.workers)
        self.identity: dict[str, Any] = {}
        self.unwritten, self.written = deque(range(job.count)), deque[int]()
        self.scoring = 0

    def run(self) -> dict[str, Any]:
        """Make all shards, then the accepted pairs and the manifest."""
        earlier = manifest(self.job.folder)
        pools: list[Pool] = []
        try:
            ray_lives = Heartbeat()
            job = self.job
            writers = Pool(WriterActor, job, job.workers, job.writer_resources)
            pools.append(writers)
            scorers = Pool(ScorerActor, job, job.scorers, job.scorer_resources)
            pools.append(scorers)
            while self.progress.done["judged"] < job.count or not self.identified:
                self._send(writers, scorers)
                self._receive(writers, scorers)
                ray_lives.check()
            accepted = self._accept(earlier, writers, scorers, ray_lives)
        except RayEndedError:
            pools.clear()  # there is nobody left who could stop them
            raise
        finally:
            for pool in pools:
                pool.stop()
        entry = self._entry(accepted)
        self._note([*_before(earlier, self.job), entry])
        return entry

    def _note(self, rounds: list[dict[str, Any]]) -> None:
        check_lease(self.job.folder)
        path = self.job.folder / MANIFEST
        write_json(path, {"version": VERSION, "rounds": rounds})
        send(path)

    @property
    def identified(self) -> bool:
        """Whether a writer and a scorer have told what they work with, which the names of all shards need."""
        return {"model", "critic"} <= self.identity.keys()

    def _send(self, writers: Pool, scorers: Pool) -> None:
        """Give work to all who can take some: writers unless too much of theirs waits, scorers what was written."""
        if not self.identified:
            return
        while self.unwritten and self._room() and (actor := writers.free()) is not None:
            number = self.unwritten.popleft()
            writers.send(actor, number, self._files(number))
        while self.written and (actor := scorers.free()) is not None:
            number = self.written.popleft()
            self.scoring += 1
            scorers.send(actor, number, self._files(number))

    def _room(self) -> bool:
        return len(self.written) + self.scoring < BACKLOG * self.job.scorers

    def _receive(self, writers: Pool, scorers: Pool) -> None:
        """Wait for an answer, but no longer than TICK, and take all that are there."""
        calls = [*writers.flying, *scorers.flying]
        done, _ = ray.wait(calls, num_returns=1, timeout=TICK)
        for call in done:
            pool = writers if call in writers.flying else scorers
            answer = pool.take(call)
            if isinstance(answer, Report):
                self._count(answer)
            elif isinstance(answer, dict):
                self._learn(answer)
            elif answer is not None:
                self._take_back(pool is writers, answer)
        self.progress.ready = len(writers.busy)
        if self.ready_at is None and self.identified:
            self.ready_at = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        check_lease(self.job.folder)
        now = time.monotonic()
        self.progress.seconds = now - self.started
        self.progress.working = now - (self.ready_at or now)
        self.listen(self.progress)

    def _take_back(self, unwritten: bool, number: int) -> None:
        """Let another do what an actor did not come to the end of."""
        if unwritten:
            self.unwritten.appendleft(number)
        else:
            self.scoring -= 1
            self.written.appendleft(number)

    def _learn(self, identity: dict[str, Any]) -> None:
        """Take an actor's identity; raise UserError where another one's differs, for they would not write the same."""
        for role, value in identity.items():
            known = self.identity.setdefault(role, value)
            if known != value:
                raise UserError(
                    f"The workers do not see the same {role}: {known} and {value}; give all nodes the same files"
                )

    def _count(self, report: Report) -> None:
        self.progress.add(report)
        if "candidates" in report.rows:
            self.written.append(report.number)
        else:
            self.scoring -= 1
        self._stop_if_poisoned()

    def _stop_if_poisoned(self) -> None:
        """Raise UserError for too many unusable rows: in units of the whole job, so that no order of the work matters."""
        job, errors = self.job, self.progress.errors
        whole = job.contexts * job.generation.candidates
        if errors.total() > job.max_quarantine * whole:
            common = "; ".join(f"{count} times: {error}" for error, count in errors.most_common(3))
            raise UserError(
                f"{errors.total()} rows are unusable, more than max_quarantine, {job.max_quarantine:g} of {whole} "
                f"candidates, allows; the commonest errors: {common}. They are in {job.out}/quarantine"
            )

    def _files(self, number: int) -> dict[str, Shard]:
        return shards(self.job, self.identity, number)

    def _accept(self, earlier: dict[str, Any], writers: Pool, scorers: Pool, ray_lives: Heartbeat) -> dict[str, Any]:
        """Let a scorer write what is accepted. The manifest forgets the round before: it never names what is half there."""
        folder = self.job.folder
        if (folder / MANIFEST).exists():
            self._note(_before(earlier, self.job))
        for name in DERIVED:
            (folder / name).unlink(missing_ok=True)
        judged = [self._files(number)["judged"] for number in range(self.job.count)]
        while True:
            while not scorers.busy:
                self._receive(writers, scorers)
                ray_lives.check()
            actor = next(iter(scorers.busy))
            call = actor.accept.remote(judged)
            while not ray.wait([call], timeout=TICK)[0]:
                ray_lives.check()
                self._tell()
            try:
                return dict(ray.get(call))
            except RayActorError:
                scorers.replace(actor)

    def _entry(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """What the manifest says of this round. No times and no worker counts: it is the same for all."""
        job, progress = self.job, self.progress
        files = [self._files(number) for number in range(job.count)]
        return {
            "round": job.round,
            "rewrite": job.rewrite,
            "generation": job.generation.model_dump(),
            "thresholds": job.thresholds.model_dump(),
            "model": self._name(job.model),
            "generator": self._name(job.generator),
            "digests": {role: self.identity[role] for role in ("model", "generator", "prefixes")},
            "critic": self.identity["critic"],
            "stand_in": self.identity["stand_in"],
            "contexts": {"asked": job.contexts, "made": progress.rows["contexts"]},
            "candidates": {
                "made": progress.rows["candidates"],
                "reasons": dict(sorted(progress.reasons["candidates"].items())),
            },
            "pairs": {"made": progress.rows["pairs"], "reasons": accepted.pop("reasons")},
            **accepted,
            "quarantined": {"rows": progress.errors.total(), "errors": dict(sorted(progress.errors.items()))},
            "shards": {stage: [one[stage].path.name for one in files] for stage in STAGES},
        }

    def _name(self, model: str) -> str:
        """A model's name; for a student in the folder itself the way from there, so that folders can be compared."""
        path = local(model)
        return str(path.relative_to(self.job.folder)) if path.is_relative_to(self.job.folder) else model


def _before(earlier: Mapping[str, Any], job: Job) -> list[dict[str, Any]]:
    return [entry for entry in earlier["rounds"] if entry["round"] < job.round]
