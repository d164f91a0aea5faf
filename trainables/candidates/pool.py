"""A pool of actors for the shards of a job, on machines that may go away."""

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
LOSSES = (
    5  # times that a process may die at a shard: machines go away, but a shard that kills every actor is no accident
)


class Pool:
    """Actors of one kind. Each actor that has answered with its identity gets up to IN_FLIGHT calls at once.

    An actor that dies is replaced as soon as there is room for another, and its shards go to any actor that is ready: no shard
    waits for a machine that does not come back.
    """

    def __init__(self, kind: type, job: Job, count: int, resources: Mapping[str, float]) -> None:
        self.job, self.remote = job, ray.remote(max_restarts=0, max_task_retries=0, **resources)(kind)
        self.actors: list[Any] = []
        self.load: dict[Any, int] = {}  # calls in flight of each actor that is ready
        self.in_flight: dict[
            Any, tuple[Any, int | None]
        ] = {}  # call -> its actor, and its shard; None asks for an identity
        self.losses: Counter[int] = Counter()  # of each shard
        for _ in range(count):
            self._add()

    def _add(self) -> None:
        actor = self.remote.remote(self.job)
        self.actors.append(actor)
        self.in_flight[actor.identity.remote()] = (actor, None)

    def replace(self, actor: Any) -> None:
        """Start another actor in the place of one that died, once."""
        if actor in self.actors:
            ray.kill(actor)  # one that only could not be reached must not go on
            self.actors.remove(actor)
            self.load.pop(actor, None)
            self._add()

    def least_busy(self) -> Any:
        """The actor with the fewest calls in flight; None where all have IN_FLIGHT."""
        actor = min(self.load, key=lambda one: self.load[one], default=None)
        return actor if actor is not None and self.load[actor] < IN_FLIGHT else None

    def send(self, actor: Any, number: int, files: dict[str, Shard]) -> None:
        """Let an actor work on a shard."""
        self.load[actor] += 1
        self.in_flight[actor.run.remote(number, files)] = (actor, number)

    def take(self, call: Any) -> dict[str, Any] | Report | int | None:
        """Return the answer to a call: an identity or a report; the shard that it was for, if any, where its actor died.

        Raises what the call raised, and UserError for a shard at which actors die again and again.
        """
        actor, number = self.in_flight.pop(call)
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
        self.load[actor] = 0 if number is None else self.load[actor] - 1
        return answer

    def stop(self) -> None:
        """Kill all actors. Calls in flight are cancelled first, else Ray would announce that it repeats them."""
        for call in self.in_flight:
            ray.cancel(call)
        for actor in self.actors:
            ray.kill(actor)
