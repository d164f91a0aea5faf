"""One round of Impossible Distillation on Ray, parallel and resumable: contexts, candidates, scored pairs, accepted pairs.

Generators and scorers are actors (`trainables/candidates/actors.py`); this file hands them shards, counts, and writes the
manifest. Everything is deterministic but the order of the work: 1, 2 or 4 workers leave the same files, bit for bit.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from gpt2core.distill.manifest import MANIFEST
from gpt2core.distill.shards import STAGES, Shard
from gpt2core.errors import ConfigError, UserError
from gpt2core.storage import local
from trainables.candidates.actors import GeneratorActor, ScorerActor
from trainables.candidates.folder import check_lease, locked, manifest, write_manifest
from trainables.candidates.job import Job, shards
from trainables.candidates.pool import Pool
from trainables.candidates.progress import Progress, Report
from trainables.candidates.results import remove_results
from trainables.heartbeat import TICK, Heartbeat, RayEndedError, ended
from trainables.machines import grows

BACKLOG = 4  # shards for each scorer that may wait before generators wait too

Listen = Callable[[Progress], None]


def run(job: Job, listen: Listen = lambda progress: None) -> dict[str, Any]:
    """Run or go on with a round on the Ray that is connected; return its entry of the manifest.

    Raises UserError: for bad input, where another job writes into the folder, where too many rows are unusable, and where
    Ray ends. What is finished is kept then, and the same job goes on with it.
    """
    with locked(job.folder), ray_explained():
        check_room(job)
        return _Round(job, listen).run()


def run_within(job: Job, *, workers: int, gpus_per_worker: float) -> dict[str, Any]:
    """Run or go on with a round on at most `workers` workers, see `run`."""
    room = fitted(job, gpus_per_worker=gpus_per_worker).workers
    return run(fitted(job, workers=min(room, workers), gpus_per_worker=gpus_per_worker))


def check_room(job: Job) -> None:
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
        need = job.workers * job.generator_resources.get(key, 0) + job.scorers * job.scorer_resources.get(key, 0)
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


class _Round:
    """A round that runs: the shards that wait, the identities of the actors, and how far it is."""

    def __init__(self, job: Job, listen: Listen) -> None:
        self.job, self.listen = job, listen
        self.started = time.monotonic()
        self.ready_at: float | None = None
        self.progress = Progress(job.round, job.count, job.workers)
        self.identity: dict[str, Any] = {}
        self.to_generate, self.to_score = deque(range(job.count)), deque[int]()
        self.scoring = 0

    def run(self) -> dict[str, Any]:
        """Make all shards, then the accepted pairs and the manifest."""
        known = manifest(self.job.folder)["rounds"]
        earlier = [entry for entry in known if entry["round"] < self.job.round]
        pools: list[Pool] = []
        try:
            ray_lives = Heartbeat()
            job = self.job
            generators = Pool(GeneratorActor, job, job.workers, job.generator_resources)
            pools.append(generators)
            scorers = Pool(ScorerActor, job, job.scorers, job.scorer_resources)
            pools.append(scorers)
            while not (self.progress.is_filtered and self.identified):
                self._send(generators, scorers)
                self._receive(generators, scorers)
                ray_lives.check()
            accepted = self._accept(earlier, generators, scorers, ray_lives)
        except RayEndedError:
            pools.clear()  # there is nobody left who could stop them
            raise
        finally:
            for pool in pools:
                pool.stop()
        entry = self._entry(accepted)
        write_manifest(self.job.folder, [*earlier, entry])
        return entry

    @property
    def identified(self) -> bool:
        """Whether a generator and a scorer have told what they work with, which the names of all shards need."""
        return {"model", "critic"} <= self.identity.keys()

    def _send(self, generators: Pool, scorers: Pool) -> None:
        """Give work to every actor that can take some: to generators unless too many shards wait to be scored."""
        if not self.identified:
            return
        while self.to_generate and self._room() and (actor := generators.free()) is not None:
            number = self.to_generate.popleft()
            generators.send(actor, number, self._files(number))
        while self.to_score and (actor := scorers.free()) is not None:
            number = self.to_score.popleft()
            self.scoring += 1
            scorers.send(actor, number, self._files(number))

    def _room(self) -> bool:
        return len(self.to_score) + self.scoring < BACKLOG * self.job.scorers

    def _receive(self, generators: Pool, scorers: Pool) -> None:
        """Wait for an answer, but no longer than TICK, and take all that are there."""
        calls = [*generators.flying, *scorers.flying]
        done, _ = ray.wait(calls, num_returns=1, timeout=TICK)
        for call in done:
            pool = generators if call in generators.flying else scorers
            answer = pool.take(call)
            if isinstance(answer, Report):
                self._count(answer)
            elif isinstance(answer, dict):
                self._learn(answer)
            elif answer is not None:
                self._take_back(pool is generators, answer)
        self.progress.ready = len(generators.busy)
        if self.ready_at is None and self.identified:
            self.ready_at = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        check_lease(self.job.folder)
        now = time.monotonic()
        self.progress.seconds = now - self.started
        self.progress.working = now - (self.ready_at or now)
        self.listen(self.progress)

    def _take_back(self, generating: bool, number: int) -> None:
        """Give a shard whose actor died to another one."""
        if generating:
            self.to_generate.appendleft(number)
        else:
            self.scoring -= 1
            self.to_score.appendleft(number)

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
            self.to_score.append(report.number)
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

    def _accept(
        self, earlier: list[dict[str, Any]], generators: Pool, scorers: Pool, ray_lives: Heartbeat
    ) -> dict[str, Any]:
        """Let a scorer write the accepted pairs. The manifest forgets this round before: it never names what is half there."""
        folder = self.job.folder
        if (folder / MANIFEST).exists():
            write_manifest(folder, earlier)
        remove_results(folder)
        filtered = [self._files(number)["judged"] for number in range(self.job.count)]
        while True:
            while not scorers.busy:
                self._receive(generators, scorers)
                ray_lives.check()
            actor = next(iter(scorers.busy))
            call = actor.accept.remote(filtered)
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
