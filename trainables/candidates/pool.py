"""Actors that share a job's shards, on machines that may go."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError

from gpt2core.distill.shards import Shard
from gpt2core.errors import UserError
from trainables.candidates.job import Job
from trainables.candidates.progress import Report

IN_FLIGHT = 2  # calls of an actor at once: the next one waits beside it, and no more than that is lost to a slow one
LOSSES = 5  # times that a process may die at a shard: machines go, but a shard that kills each is no accident


class Pool:
    """Actors of one kind. Each that has told its identity gets up to IN_FLIGHT calls at once.

    One that dies is replaced as soon as there is room for another, and its work is for whoever is ready: on what is left of
    a cluster, no shard waits for a machine that does not come back.
    """

    def __init__(self, kind: type, job: Job, count: int, resources: Mapping[str, float]) -> None:
        self.job, self.remote = job, ray.remote(max_restarts=0, max_task_retries=0, **resources)(kind)
        self.actors: list[Any] = []
        self.busy: dict[Any, int] = {}  # actors that are ready, and their calls in flight
        self.flying: dict[Any, tuple[Any, int | None]] = {}
        self.losses: Counter[int] = Counter()  # of each shard
        for _ in range(count):
            self._add()

    def _add(self) -> None:
        actor = self.remote.remote(self.job)
        self.actors.append(actor)
        self.flying[actor.identity.remote()] = (actor, None)

    def replace(self, actor: Any) -> None:
        """Put another in the place of an actor that died; nothing where that was done."""
        if actor in self.actors:
            ray.kill(actor)  # one that only could not be reached must not go on
            self.actors.remove(actor)
            self.busy.pop(actor, None)
            self._add()

    def free(self) -> Any:
        """The actor with the fewest calls, or None where all have enough."""
        actor = min(self.busy, key=lambda one: self.busy[one], default=None)
        return actor if actor is not None and self.busy[actor] < IN_FLIGHT else None

    def send(self, actor: Any, number: int, files: dict[str, Shard]) -> None:
        """Ask for a shard."""
        self.busy[actor] += 1
        self.flying[actor.run.remote(number, files)] = (actor, number)

    def take(self, call: Any) -> dict[str, Any] | Report | int | None:
        """Return the answer to a call: an identity or a report; the shard that it was for, if any, where its actor died.

        Raises what the call raised, and UserError for a shard at which actors die again and again.
        """
        actor, number = self.flying.pop(call)
        try:
            answer: dict[str, Any] | Report = ray.get(call)
        except RayActorError:
            self.replace(actor)
            if number is not None:
                self.losses[number] += 1
                if self.losses[number] > LOSSES:
                    raise UserError(
                        f"The process at work on shard {number} died {LOSSES + 1} times: see the memory of the machines"
                    ) from None
            return number
        self.busy[actor] = 0 if number is None else self.busy[actor] - 1
        return answer

    def stop(self) -> None:
        """End the processes of all actors. Ray would promise to repeat calls under way, were they not called off first."""
        for call in self.flying:
            ray.cancel(call)
        for actor in self.actors:
            ray.kill(actor)
