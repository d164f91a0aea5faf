"""One round of Impossible Distillation on Ray, parallel and resumable: contexts, candidates, scored pairs, accepted pairs.

Generators and scorers are actors (`trainables/candidates/actors.py`); this file hands them shards, counts, and writes the
manifest. Everything is deterministic but the order of the work: 1, 2 or 4 workers leave the same files, bit for bit.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
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
from trainables.candidates.progress import Listener, Progress, Report
from trainables.candidates.results import remove_results
from trainables.heartbeat import TICK, Heartbeat, RayEndedError, ended
from trainables.nodes import can_grow

BACKLOG = 4  # shards for each scorer that may wait before generators wait too


def run(job: Job, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Run or resume a round on the connected Ray; return its entry of the manifest.

    Raises UserError for bad input, a folder that another job writes into, too many unusable rows, and where Ray ends. Finished
    shards are kept then, and the same job resumes from them.
    """
    with locked(job.folder), translate_ray_errors():
        check_room(job)
        return _Round(job, listeners).run()


def run_within(job: Job, *, workers: int, gpus_per_worker: float) -> dict[str, Any]:
    """Run or resume a round on at most `workers` workers, see `run`."""
    room = fit_to_cluster(job, gpus_per_worker=gpus_per_worker).workers
    return run(fit_to_cluster(job, workers=min(room, workers), gpus_per_worker=gpus_per_worker))


def check_room(job: Job) -> None:
    """Raise ConfigError for counts that make no sense, and for more workers than a cluster that does not grow has room for."""
    for name in ("contexts", "workers", "scorers", "round"):
        if getattr(job, name) < 1:
            raise ConfigError(f"The value of `{name}` is {getattr(job, name)}, but must be >= 1")
    if not 0 <= job.max_quarantine <= 1:
        raise ConfigError(f"The value of `max_quarantine` is {job.max_quarantine:g}, but must be a share, 0 to 1")
    if can_grow():
        return  # workers wait for machines; the screen shows how many are ready
    total = ray.cluster_resources()
    for kind, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        need = job.workers * job.generator_resources.get(key, 0) + job.scorers * job.scorer_resources.get(key, 0)
        there = total.get(kind, 0.0)
        if need > there + 1e-6:
            raise ConfigError(
                f"{job.workers} workers and {job.scorers} scorers need {need:g} {kind}s, but the cluster has {there:g}"
            )


def fit_to_cluster(
    job: Job,
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    scorers: int | None = None,
    gpus_per_scorer: float = 0.0,
) -> Job:
    """The job with as many workers and scorers as asked for, else as many as the connected Ray has room for.

    By default each worker has a GPU where there are GPUs, with a scorer for each CPU, so that no GPU waits for filters; else
    each CPU has a worker and a scorer. There are never more than shards.
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
def translate_ray_errors() -> Iterator[None]:
    """Raise the UserError of an actor or a task as if it had been raised here, and RayEndedError where Ray itself failed.

    Errors of files and of memory become a UserError; others keep Ray's traceback.
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

    def __init__(self, job: Job, listeners: Sequence[Listener]) -> None:
        self.job, self.listeners = job, listeners
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
            heartbeat = Heartbeat()
            job = self.job
            generators = Pool(GeneratorActor, job, job.workers, job.generator_resources)
            pools.append(generators)
            scorers = Pool(ScorerActor, job, job.scorers, job.scorer_resources)
            pools.append(scorers)
            while not (self.progress.is_filtered and self.is_identified):
                self._send(generators, scorers)
                self._receive(generators, scorers)
                heartbeat.check()
            accepted = self._accept(earlier, generators, scorers, heartbeat)
        except RayEndedError:
            pools.clear()  # there is no Ray left to stop them
            raise
        finally:
            for pool in pools:
                pool.stop()
        entry = self._entry(accepted)
        write_manifest(self.job.folder, [*earlier, entry])
        return entry

    @property
    def is_identified(self) -> bool:
        """Whether a generator and a scorer have answered with their digests, which the names of all shards need."""
        return {"model", "critic"} <= self.identity.keys()

    def _send(self, generators: Pool, scorers: Pool) -> None:
        """Give shards to all actors that can take some; to no generator where too many shards wait to be scored."""
        if not self.is_identified:
            return
        while self.to_generate and self._has_room() and (actor := generators.least_busy()) is not None:
            number = self.to_generate.popleft()
            generators.send(actor, number, self._files(number))
        while self.to_score and (actor := scorers.least_busy()) is not None:
            number = self.to_score.popleft()
            self.scoring += 1
            scorers.send(actor, number, self._files(number))

    def _has_room(self) -> bool:
        return len(self.to_score) + self.scoring < BACKLOG * self.job.scorers

    def _receive(self, generators: Pool, scorers: Pool) -> None:
        """Wait for an answer, but no longer than TICK, and handle all that are there."""
        calls = [*generators.in_flight, *scorers.in_flight]
        done, _ = ray.wait(calls, num_returns=1, timeout=TICK)
        for call in done:
            pool = generators if call in generators.in_flight else scorers
            answer = pool.take(call)
            if isinstance(answer, Report):
                self._count(answer)
            elif isinstance(answer, dict):
                self._note_identity(answer)
            elif answer is not None:
                self._requeue(pool is generators, answer)
        self.progress.ready = len(generators.load)
        if self.ready_at is None and self.is_identified:
            self.ready_at = time.monotonic()
        self._report()

    def _report(self) -> None:
        check_lease(self.job.folder)
        now = time.monotonic()
        self.progress.seconds = now - self.started
        self.progress.working = now - (self.ready_at or now)
        for listener in self.listeners:
            listener(self.progress)

    def _requeue(self, generating: bool, number: int) -> None:
        """Let another actor work on a shard whose actor died."""
        if generating:
            self.to_generate.appendleft(number)
        else:
            self.scoring -= 1
            self.to_score.appendleft(number)

    def _note_identity(self, identity: dict[str, Any]) -> None:
        """Keep an actor's digests; raise UserError where those of another differ, for the two would not write the same."""
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
        self._check_quarantine()

    def _check_quarantine(self) -> None:
        """Raise UserError for too many unusable rows, as a share of the whole job: then the order of the work does not matter."""
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
        self, earlier: list[dict[str, Any]], generators: Pool, scorers: Pool, heartbeat: Heartbeat
    ) -> dict[str, Any]:
        """Let a scorer write the accepted pairs. Before that the manifest drops this round: it never names half of one."""
        folder = self.job.folder
        if (folder / MANIFEST).exists():
            write_manifest(folder, earlier)
        remove_results(folder)
        filtered = [self._files(number)["judged"] for number in range(self.job.count)]
        while True:
            while not scorers.load:
                self._receive(generators, scorers)
                heartbeat.check()
            actor = next(iter(scorers.load))
            call = actor.accept.remote(filtered)
            while not ray.wait([call], timeout=TICK)[0]:
                heartbeat.check()
                self._report()
            try:
                return dict(ray.get(call))
            except RayActorError:
                scorers.replace(actor)

    def _entry(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """This round's entry of the manifest, without times and counts of workers: all workers give the same."""
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
        """A model's name; the path of a student in the job's folder is relative to it, so that folders can be compared."""
        path = local(model)
        return str(path.relative_to(self.job.folder)) if path.is_relative_to(self.job.folder) else model
