"""Optimizer steps of several LoRA runs in one forward and backward pass over their shared base (`gpt2core.joint`).

Up to rounding, a run has the same numbers as on its own: each has its own LoRA pairs, dropout, loss, clipping and optimizer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpt2core.joint import JointTrunk
from gpt2core.machine import is_out_of_memory
from gpt2core.run import Run
from gpt2core.steps import Clock, Step, StepResult, on_host

#: Tokens after which no further run joins a pass on a CPU, where larger passes are no faster and take memory.
TOKENS = 512
#: The most tokens of a pass with the padding of its runs to one length, over those with each run's own padding: on a CPU, where a
#: larger pass gains nothing, and elsewhere.
PADDING_ON_CPU, PADDING = 1.1, 1.5


class Packer:
    """Takes the steps of several runs in shared passes, each with as many runs as fit into GPU memory."""

    def __init__(self) -> None:
        self.max_runs: int | None = None  # of a pass; known once memory was exhausted
        self.trunks: dict[tuple[Run, ...], JointTrunk] = {}

    def take(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        """Return the result of each step, in the same order."""
        present = {step.run for step in steps}
        self.trunks = {runs: trunk for runs, trunk in self.trunks.items() if present.issuperset(runs)}
        results: dict[int, StepResult | Exception] = {}
        groups: dict[object, list[int]] = {}
        for place in sorted(range(len(steps)), key=lambda place: _longest(steps[place])):
            groups.setdefault(steps[place].run.shared_pass or place, []).append(place)
        for places in groups.values():
            while places:
                size = self._pass_size([steps[place] for place in places])
                chosen, places = sorted(places[:size]), places[size:]
                results |= zip(chosen, self._take_pass([steps[place] for place in chosen]), strict=True)
        return [results[place] for place in range(len(steps))]

    def _pass_size(self, steps: Sequence[Step]) -> int:
        """Return how many of the steps, in the order of their longest texts, the next pass takes."""
        on_cpu = steps[0].run.device.type == "cpu"
        most = PADDING_ON_CPU if on_cpu else PADDING
        rows = padded = tokens = 0
        for count, step in enumerate(steps[: self.max_runs]):
            rows, padded = rows + len(step.batch), padded + step.run.padded_token_count(step.batch)
            if count and (rows * _longest(step) > most * padded or (on_cpu and tokens >= TOKENS)):
                return count
            tokens += step.tokens
        return len(steps[: self.max_runs])

    def _take_pass(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        if len(steps) == 1:
            return [steps[0].take()]
        results: list[StepResult | Exception] = [UntakenError()] * len(steps)
        try:
            results = self._step_together(steps)
        except Exception as error:  # in the shared part, so no step was taken
            if is_out_of_memory(error):
                self.max_runs = len(steps) // 2
        untaken = [place for place, result in enumerate(results) if isinstance(result, UntakenError)]
        for place in untaken:
            steps[place].run.discard_gradients()
        if untaken:
            torch.cuda.empty_cache()
        if len(untaken) > (self.max_runs or len(steps)):  # `max_runs` was just reduced
            return self.take(steps)
        for place in untaken:
            results[place] = steps[place].take()
        return results

    def _step_together(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        """Take the steps of several runs with the same `shared_pass`; return their results in the same order.

        A run that diverges, or whose update fails, does not affect the others. If this raises an error, no step was taken.
        """
        clock = Clock(steps[0].run.device)
        totals = on_host(self._gradients(steps)).unbind()
        errors = [_apply_update(step) for step in steps]
        clock.stop()
        tokens = np.array([step.tokens for step in steps])
        shares = tokens / tokens.sum()
        return [
            error or StepResult(total, clock, float(share))
            for error, total, share in zip(errors, totals, shares, strict=True)
        ]

    def _gradients(self, steps: Sequence[Step]) -> Tensor:
        """Accumulate the gradients of each run's mean loss; return the sums of the losses."""
        totals = [torch.zeros((), device=step.run.device) for step in steps]
        parts = [[part for part in step.run.micro_batches(step.batch) if len(part)] for step in steps]
        for number in range(max(map(len, parts))):
            places = [place for place, micro_batches in enumerate(parts) if number < len(micro_batches)]
            weights = [steps[place].run.weight(steps[place].batch) for place in places]
            trunk = self._trunk(tuple(steps[place].run for place in places))
            with trunk.weights():
                own = [parts[place][number] for place in places]
                losses = _losses([steps[place] for place in places], own, number, trunk)
                scalers = [steps[place].run.optimizer.scaler for place in places]
                means = [loss / weight for loss, weight in zip(losses, weights, strict=True)]
                torch.stack([s.scale(mean) for s, mean in zip(scalers, means, strict=True)]).sum().backward()
            for place, loss in zip(places, losses, strict=True):
                totals[place] += loss.detach()
        return torch.stack(totals)

    def _trunk(self, runs: tuple[Run, ...]) -> JointTrunk:
        if runs not in self.trunks:
            self.trunks[runs] = JointTrunk([run.model for run in runs], runs[0].base, runs[0].narrow)
        return self.trunks[runs]


class UntakenError(Exception):
    """A step failed for lack of memory or an error of another run. It changed nothing and can be taken again."""


def _longest(step: Step) -> int:
    """Return the number of tokens of the longest text of a step."""
    return int(step.run.tokens.lengths[step.batch].max())


def _losses(steps: Sequence[Step], micro_batches: Sequence[np.ndarray], number: int, trunk: JointTrunk) -> list[Tensor]:
    """Return the sum of the losses of micro-batch `number` of each step."""
    batches = [step.run.collate(examples) for step, examples in zip(steps, micro_batches, strict=True)]
    inputs = [step.run.trunk_input(batch) for step, batch in zip(steps, batches, strict=True)]
    streams = [
        step.run.dropout_stream(step.number, number, examples)
        for step, examples in zip(steps, micro_batches, strict=True)
    ]
    losses = []
    with steps[0].run.autocast:
        for step, stream, batch, hidden in zip(steps, streams, batches, trunk.run(inputs, streams), strict=True):
            with stream.drawing():
                losses.append(step.run.loss(hidden, batch))
    return losses


def _apply_update(step: Step) -> Exception | None:
    """Apply a run's update; return its error, or UntakenError if memory was exhausted before any change."""
    before = step.run.update_versions()
    try:
        step.run.apply_update(step.number)
    except Exception as error:
        return UntakenError() if is_out_of_memory(error) and step.run.update_versions() == before else error
    return None
