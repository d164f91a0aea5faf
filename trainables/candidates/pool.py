"""A pool of actors for the shards of a job, on machines that may go away."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import ray
from ray.exceptions import RayActorError

from gpt2core.distill.shards import Shard
from gpt2core.errors import UserError
from trainables.candidates.job import Job
from trainables.candidates.progress import Report
from trainables.heartbeat import RayEndedError

IN_FLIGHT = 2  # calls of an actor at once: one runs, one waits; no more are lost to a slow actor
LOSSES = 5  # times that an actor may die at a shard: machines go away, but a shard that kills every actor is a fault


class Pool:
    """Actors of one kind. An actor that has answered with its identity gets up to IN_FLIGHT calls at once.

    An actor that dies is replaced as soon as there is room for another, and any ready actor takes over its shards, so no shard
    waits for a machine that does not come back.
    """

    def __init__(self, kind: type, job: Job, count: int, resources: Mapping[str, float], shards: Iterable[int]) -> None:
        self.job, self.remote = job, ray.remote(max_restarts=0, max_task_retries=0, **resources)(kind)
        self.waiting = deque(shards)  # shards that no actor works on yet
        self.actors: list[Any] = []
        self.load: dict[Any, int] = {}  # calls in flight of each ready actor
        self.in_flight: dict[Any, tuple[Any, int | None]] = {}  # call -> actor, and shard (None: asks for the identity)
        self.losses: Counter[int] = Counter()  # by shard
        for _ in range(count):
            self._add()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Kill all actors, unless Ray itself has ended."""
        if isinstance(error, RayEndedError):
            return
        for call in self.in_flight:
            ray.cancel(call)  # else Ray would announce that it repeats the calls
        for actor in self.actors:
            ray.kill(actor)

    def _add(self) -> None:
        actor = self.remote.remote(self.job)
        self.actors.append(actor)
        self.in_flight[actor.identity.remote()] = (actor, None)

    def replace(self, actor: Any) -> None:
        """Start another actor in place of one that died; do nothing if that was done."""
        if actor in self.actors:
            ray.kill(actor)  # it may only have been unreachable
            self.actors.remove(actor)
            self.load.pop(actor, None)
            self._add()

    @property
    def backlog(self) -> int:
        """The number of shards that wait or that actors work on."""
        return len(self.waiting) + sum(number is not None for _, number in self.in_flight.values())

    def send(self, files: Callable[[int], dict[str, Shard]]) -> None:
        """Give waiting shards to the least busy actors, up to IN_FLIGHT calls each."""
        while self.waiting and self.load:
            actor = min(self.load, key=self.load.__getitem__)
            if self.load[actor] >= IN_FLIGHT:
                break
            number = self.waiting.popleft()
            self.load[actor] += 1
            self.in_flight[actor.run.remote(number, files(number))] = (actor, number)

    def take(self, call: Any) -> dict[str, Any] | Report | None:
        """Return the answer to a call: an identity, a report, or None if its actor died; its shard then waits again.

        Raises what the call raised, and UserError for a shard at which actors die again and again.
        """
        actor, number = self.in_flight.pop(call)
        try:
            answer: dict[str, Any] | Report = ray.get(call)
        except RayActorError:
            self.replace(actor)
            if number is None:
                return None
            self.waiting.appendleft(number)
            self.losses[number] += 1
            if self.losses[number] <= LOSSES:
                return None
            raise UserError(
                f"Shard {number} killed its process {LOSSES + 1} times; give the machines more memory, or choose a smaller model"
            ) from None
        self.load[actor] = 0 if number is None else self.load[actor] - 1
        return answer
