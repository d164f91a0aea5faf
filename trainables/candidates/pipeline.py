"""One round of Impossible Distillation on Ray, parallel and resumable: contexts, candidates, scored pairs, accepted pairs.

Generators and scorers are actors (`actors.py`). This file gives them shards, counts their rows and writes the manifest. Only
the order of the work is random: 1, 2 or 4 workers leave the same files, bit for bit.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from gpt2core.distill.critics import CRITICS, ModelKeys
from gpt2core.distill.manifest import MANIFEST
from gpt2core.distill.shards import STAGES, Shard
from gpt2core.errors import ConfigError, UserError, first_line
from gpt2core.storage import local
from trainables.candidates.actors import GeneratorActor, ScorerActor
from trainables.candidates.folder import check_lease, locked, manifest, remove_results, write_manifest
from trainables.candidates.job import Job, shards
from trainables.candidates.pool import Pool
from trainables.candidates.progress import Listener, Progress, Report
from trainables.heartbeat import TICK, Heartbeat, ray_ended
from trainables.nodes import can_grow

BACKLOG = 4  # shards for each scorer that may wait before generators wait too


def run(job: Job, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Run or resume a round on the connected Ray; return its entry of the manifest.

    Raises UserError for bad input, a folder that another job writes to, too many unusable rows, and if Ray ends. Finished
    shards are kept, and the same job resumes from them.
    """
    with locked(job.folder), translate_ray_errors():
        check_job(job)
        return _Round(job, listeners).run()


def fit_within(job: Job, *, workers: int, gpus_per_worker: float) -> Job:
    """Return the job with as many workers as fit on the connected Ray, but at most `workers`."""
    room = fit_to_cluster(job, gpus_per_worker=gpus_per_worker).workers
    return fit_to_cluster(job, workers=min(room, workers), gpus_per_worker=gpus_per_worker)


def check_job(job: Job) -> None:
    """Raise ConfigError for a count below 1, or for more workers than fit on a cluster that does not grow."""
    for name in ("contexts", "workers", "scorers", "round"):
        if getattr(job, name) < 1:
            raise ConfigError(f"The value of `{name}` is {getattr(job, name)}, but must be >= 1")
    if not 0 <= job.max_quarantine <= 1:
        raise ConfigError(f"The value of `max_quarantine` is {job.max_quarantine:g}, but must be a share, 0 to 1")
    if can_grow():
        return  # workers wait for nodes; the screen shows how many are ready
    total = ray.cluster_resources()
    for kind, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        need = job.workers * job.generator_resources.get(key, 0) + job.scorers * job.scorer_resources.get(key, 0)
        available = total.get(kind, 0.0)
        if need > available + 1e-6:
            raise ConfigError(
                f"{job.workers} workers and {job.scorers} scorers need {need:g} {kind}s, but the cluster has {available:g}; "
                "use fewer of them"
            )


def fit_to_cluster(
    job: Job,
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    scorers: int | None = None,
    gpus_per_scorer: float | None = None,
) -> Job:
    """Return the job with these numbers of workers and scorers; by default, with as many as fit on the connected Ray.

    By default, if there are GPUs, each worker has one, and each CPU has a scorer so that no GPU waits for filters; a critic that
    loads a model shares each GPU with a worker, half and half, so that any placement fits. If there are none, each CPU has a
    worker and a scorer. There are never more than shards.
    """
    loads_model = issubclass(CRITICS[job.critic].keys, ModelKeys)
    total = ray.cluster_resources()
    cpus, gpus = max(1, int(total.get("CPU", 1.0))), total.get("GPU", 0.0)
    shared = loads_model and gpus_per_scorer is None
    each = gpus_per_worker if gpus_per_worker is not None else 0.0 if gpus < 1 else 0.5 if shared else 1.0
    if gpus_per_scorer is None:
        gpus_per_scorer = each if loads_model and gpus >= 2 * each else 0.0
    room = int(gpus // (each + gpus_per_scorer)) if each else cpus
    workers = workers or max(1, min(room, job.shard_count))
    scorers = scorers or min(cpus if each and not gpus_per_scorer else workers, job.shard_count)
    return replace(job, workers=workers, gpus_per_worker=each, scorers=scorers, gpus_per_scorer=gpus_per_scorer)


@contextmanager
def translate_ray_errors() -> Iterator[None]:
    """Raise an actor's UserError as if raised here, and RayEndedError if Ray itself failed.

    Errors of files and memory become a UserError; other errors keep Ray's traceback.
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
                f"A worker ran out of memory ({first_line(error.cause)}); choose a smaller model or shorter texts"
            ) from None
        raise
    except RayError as error:
        raise ray_ended(error) from None


class _Round:
    """A running round: its actors with their digests, and its progress."""

    generators: Pool
    scorers: Pool

    def __init__(self, job: Job, listeners: Sequence[Listener]) -> None:
        self.job, self.listeners, self.heartbeat = job, listeners, Heartbeat()
        self.started = time.monotonic()
        self.ready_at: float | None = None
        self.progress = Progress(job.round, job.shard_count, job.workers)
        self.identity: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Make all shards, then the accepted pairs and the manifest; return the round's entry."""
        job = self.job
        earlier = [entry for entry in manifest(job.folder)["rounds"] if entry["round"] < job.round]
        with (
            Pool(GeneratorActor, job, job.workers, job.generator_resources, range(job.shard_count)) as self.generators,
            Pool(ScorerActor, job, job.scorers, job.scorer_resources, ()) as self.scorers,
        ):
            while not (self.progress.is_filtered and self.is_identified):
                if self.is_identified and self.scorers.backlog < BACKLOG * job.scorers:
                    self.generators.send(self._files)
                if self.is_identified:
                    self.scorers.send(self._files)
                self._receive()
            accepted = self._accept(earlier)
        entry = self._entry(accepted)
        write_manifest(job.folder, [*earlier, entry])
        return entry

    @property
    def is_identified(self) -> bool:
        """Whether a generator and a scorer have sent their digests, which are part of all shard names."""
        return {"model", "critic"} <= self.identity.keys()

    def _receive(self) -> None:
        """Wait for an answer, at most TICK, and handle it."""
        done, _ = ray.wait([*self.generators.in_flight, *self.scorers.in_flight], num_returns=1, timeout=TICK)
        for call in done:
            answer = (self.generators if call in self.generators.in_flight else self.scorers).take(call)
            if isinstance(answer, Report):
                self._count(answer)
            elif answer is not None:
                self._add_identity(answer)
        self.progress.ready = len(self.generators.load)
        if self.ready_at is None and self.is_identified:
            self.ready_at = time.monotonic()
        self._tick()

    def _tick(self) -> None:
        """Show the progress; raise UserError if Ray ended or another machine took the folder over."""
        check_lease(self.job.folder)
        now = time.monotonic()
        self.progress.seconds = now - self.started
        self.progress.working = now - (self.ready_at or now)
        for listener in self.listeners:
            listener(self.progress)
        self.heartbeat.check()

    def _add_identity(self, identity: dict[str, Any]) -> None:
        """Keep an actor's digests; raise UserError if another actor's differ, as the two would write different files."""
        for role, value in identity.items():
            known = self.identity.setdefault(role, value)
            if known != value:
                raise UserError(f"Workers differ in their {role}: {known} and {value}; give all nodes the same files")

    def _count(self, report: Report) -> None:
        """Add a report; raise UserError for too many unusable rows, as a share of the whole job in any order of work."""
        self.progress.add(report)
        if "candidates" in report.rows:
            self.scorers.waiting.append(report.number)
        job, errors = self.job, self.progress.errors
        total = job.contexts * job.generation.candidates
        if errors.total() > job.max_quarantine * total:
            common = "; ".join(f"{count} times: {error}" for error, count in errors.most_common(3))
            raise UserError(
                f"{errors.total()} rows are unusable, but `max_quarantine` allows {job.max_quarantine:g} of {total} "
                f"candidates; the most common errors: {common}. The rows are in {job.out}/quarantine"
            )

    def _files(self, number: int) -> dict[str, Shard]:
        return shards(self.job, self.identity, number)

    def _accept(self, earlier: list[dict[str, Any]]) -> dict[str, Any]:
        """Let a scorer write the accepted pairs. First drop this round from the manifest, which never names half of one."""
        folder = self.job.folder
        if (folder / MANIFEST).exists():
            write_manifest(folder, earlier)
        remove_results(folder)
        filtered = [self._files(number)["judged"] for number in range(self.job.shard_count)]
        while True:
            while not self.scorers.load:
                self._receive()
            actor = next(iter(self.scorers.load))
            call = actor.accept.remote(filtered)
            while not ray.wait([call], timeout=TICK)[0]:
                self._tick()
            try:
                return dict(ray.get(call))
            except RayActorError:
                self.scorers.replace(actor)

    def _entry(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """Return this round's entry of the manifest, without times or worker counts: any number of workers gives the same."""
        job, progress = self.job, self.progress
        files = [self._files(number) for number in range(job.shard_count)]
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
            "shards": {stage: [shard[stage].path.name for shard in files] for stage in STAGES},
        }

    def _name(self, model: str) -> str:
        """Return a model's name; a student's path is relative to the job's folder, so that folders can be compared."""
        path = local(model)
        return str(path.relative_to(self.job.folder)) if path.is_relative_to(self.job.folder) else model
