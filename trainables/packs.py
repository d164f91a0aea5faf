"""Packs: processes that train several trials at once, in one forward pass where possible (`gpt2core.packing`).

Each trial also has a light process under Tune, which forwards what the pack reports. A trial joins its pack when it starts, or
again when a killed pack has restarted, and resumes from its last checkpoint. It leaves when it ends. Its next epoch starts only
after its last report was taken and Tune did not stop it.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from gpt2core.config import RunConfig, keys_that_decide
from trainables.programs.process import GRACE
from trainables.programs.runner import Runner
from trainables.trial import RESTARTS, Payload, TrialSpec, events

if TYPE_CHECKING:  # PyTorch takes a second to import
    from gpt2core.steps import Events, Step

CLOSING = GRACE + 2  # seconds after which a pack is killed: the programs that it runs have ended by then
MAX_CALLS = 1000  # concurrent calls of a pack: each of its trials waits in one


@dataclass
class _Member:
    """A trial in a pack. `event` is its pending step, or a report to be fetched."""

    spec: TrialSpec
    events: "Events[Payload]"
    event: "Step | Payload | None" = None
    wanted: bool = True  # whether its process waits for the next report
    error: Exception | None = None


class Pack:
    """The trials of one process; a Ray actor. A thread trains them while calls come and go."""

    def __init__(self) -> None:
        from gpt2core.packing import Packer

        self.members: dict[str, _Member] = {}
        self.changed = threading.Condition()
        self.packer = Packer()
        threading.Thread(target=self._train, daemon=True).start()

    def next(self, values: dict[str, Any], *, joins: bool) -> Payload | None:
        """Return the trial's next report, or None at its end. Registers the trial first if it `joins` or is unknown."""
        from gpt2core.machine import release_memory

        spec = TrialSpec.from_dict(values)
        with self.changed:
            if joins or spec.name not in self.members:
                self.members.pop(spec.name, None)
                release_memory()  # of trials that left
                self.members[spec.name] = _Member(spec, events(spec))
            member = self.members[spec.name]
            member.wanted = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not member.wanted or member is not self.members.get(spec.name))
        if member.error is not None:
            raise member.error
        return member.event if isinstance(member.event, dict) else None

    def leave(self, name: str) -> None:
        """Forget a trial."""
        with self.changed:
            self.members.pop(name, None)
            self.changed.notify_all()

    def close(self) -> None:
        """Forget all trials."""
        with self.changed:
            self.members.clear()
            self.changed.notify_all()

    def _train(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: any(member.wanted for member in self.members.values()))
                working = [member for member in self.members.values() if member.wanted]
            try:
                self._turn(working)
            except BaseException as error:  # raised by all waiting trials, which then resume from their checkpoints
                with self.changed:
                    for member in working:
                        if member.wanted:
                            member.error, member.wanted = RuntimeError(f"its process failed: {error!r}"), False
                    self.changed.notify_all()

    def _turn(self, working: list[_Member]) -> None:
        """Take the pending step of each trial, and advance the others to their next step or report."""
        from gpt2core.steps import Step

        steps = [(member, member.event) for member in working if isinstance(member.event, Step)]
        _generate_ahead([member.spec.config for member in working if member.event is None])
        for member in working:
            if not isinstance(member.event, Step):
                self._advance(member, None)
        answers = self.packer.take([step for _, step in steps])
        for (member, _), answer in zip(steps, answers, strict=True):
            self._advance(member, answer)

    def _advance(self, member: _Member, answer: Any) -> None:
        """Send a trial the outcome of its step, and wake its process if it has a report, an error or ended."""
        from gpt2core.steps import Step, advance

        try:
            member.event = advance(member.events, answer)
        except Exception as error:
            member.error = error
        if member.error is not None or not isinstance(member.event, Step):
            with self.changed:
                member.wanted = False
                self.changed.notify_all()


def _generate_ahead(runs: Sequence[RunConfig]) -> None:
    """Generate the texts of runs that train nothing and differ only in decoding, in one batch."""
    from gpt2core.builders import build_model, device
    from gpt2core.identity import identity
    from gpt2core.tasks import sonnet
    from trainables import worker_cache

    groups, own = defaultdict(list), keys_that_decide("texts")
    for run in runs:
        if not run.trains and run.task == "sonnet" and run.folds == 1:
            shared = {key: value for key, value in identity(run).items() if key not in own}
            groups[json.dumps(shared, sort_keys=True)].append(run)
    for alike in groups.values():
        if len(alike) > 1:
            with suppress(Exception):  # each run then raises its own error
                base, data = worker_cache.inputs(alike[0])
                model, dev = build_model(alike[0], base, device()), data.divided(alike[0])
                sonnet.generate_ahead(model, dev, alike, "dev")


class Packs:
    """The packs of a search, and the pack of each trial; or the actors that run its programs."""

    def __init__(self, spec: TrialSpec, name: str, process: type[Pack] | type[Runner] = Pack) -> None:
        shared = {"num_cpus": spec.cpus_per_worker, "num_gpus": spec.gpus_per_worker, "max_concurrency": MAX_CALLS}
        again = {"max_restarts": -1, "max_task_retries": RESTARTS}
        actor, count = ray.remote(process), -(-spec.concurrent // spec.pack)
        names = [f"{name}-pack-{number}" for number in range(count)]
        self.actors = {name: actor.options(name=name, **shared, **again).remote() for name in names}
        self.places: dict[str, str] = {}  # trial -> pack, of trials that run

    def place(self, spec: TrialSpec) -> TrialSpec:
        """Assign a trial to the pack with the fewest trials."""
        taken = list(self.places.values())
        self.places[spec.name] = min(self.actors, key=taken.count)
        return replace(spec, process=self.places[spec.name])

    def leave(self, name: str) -> None:
        """Let a trial's pack forget it."""
        with suppress(RayActorError):  # a pack that died has forgotten the trial
            ray.get(self.actors[self.places.pop(name)].leave.remote(name))

    def close(self) -> None:
        """End the trials that run, as when a search is interrupted, and kill the packs."""
        ended = [self.actors[name].close.remote() for name in set(self.places.values())]
        if ended:
            ray.wait(ended, num_returns=len(ended), timeout=CLOSING)
        for actor in self.actors.values():
            ray.kill(actor)
