"""Optimizer steps of several LoRA runs in one forward pass over their shared base.

LoRA does not change the base, so the batches of all runs pass through its matrices as one batch, while each run has its own LoRA
pairs, attention, dropout and loss. Up to rounding, a run has the same numbers as on its own.

Legend: `N` tokens of all runs; `B` texts of `T` tokens with `C` channels of one run.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2core.adapters.lora import LoRALinear
from gpt2core.dropout import Stream
from gpt2core.machine import is_out_of_memory
from gpt2core.model import GPT2, Attention, Block, TrunkInput
from gpt2core.steps import Step, StepResult

#: Tokens after which no further run joins a pass on a CPU, where larger passes are no faster and take memory.
TOKENS = 512

Parts = list[Tensor]  # (B, T, C) of each run
OptionalParts = list[Tensor | None]


@dataclass(frozen=True)
class Member:
    """One run of a pass: its model, input and random numbers."""

    model: GPT2
    inputs: TrunkInput
    stream: Stream


def run_trunks(members: Sequence[Member]) -> list[Tensor]:
    """Return the last hidden states of each member as `GPT2.run_trunk` does: (B, T, C), or (B, C) of last tokens.

    The models must share a base. A member with cached activations joins at its first trainable block.
    """
    n_layer = len(members[0].model.blocks)
    firsts = [0 if m.inputs.cached_activations is None else m.model.first_trainable_block for m in members]
    states: dict[int, Tensor] = {}
    for number in range(n_layer + 1):
        for place, member in enumerate(members):
            if firsts[place] == number:
                inputs, cached = member.inputs, member.inputs.cached_activations
                with member.stream.drawing():
                    states[place] = member.model.embed(inputs.input_ids, inputs.segments) if cached is None else cached
        if number < n_layer and states:
            places = sorted(states)
            outputs = _run_block([members[place] for place in places], [states[place] for place in places], number)
            states = dict(zip(places, outputs, strict=True))
    for member in members:
        member.stream.start_block(n_layer)
    return [cast(Tensor, member.model.ln_f(states[place])) for place, member in enumerate(members)]


def _run_block(members: Sequence[Member], xs: Parts, number: int) -> Parts:
    blocks = [cast(Block, member.model.blocks[number]) for member in members]
    is_final = number + 1 == len(members[0].model.blocks)
    ends = [member.inputs.lengths if is_final else None for member in members]
    segments = [member.inputs.segments for member in members]
    for member, lengths in zip(members, ends, strict=True):
        member.stream.start_block(number, from_end=lengths is not None)
    for place, lengths in enumerate(ends):
        if lengths is not None:
            xs[place], segments[place] = Block.pad_left(xs[place], lengths)
    ys = _split(blocks[0].ln_1(_flat(xs)), xs)
    heads = _attend(members, [block.attention for block in blocks], ys, segments, ends)
    xs = [x if lengths is None else x[:, -1:] for x, lengths in zip(xs, ends, strict=True)]
    xs = _add_residual(members, blocks, xs, _project(members, [block.attention.dense for block in blocks], heads))
    ys = _split(blocks[0].ln_2(_flat(xs)), xs)
    inner = _project(members, [block.mlp_in for block in blocks], ys)
    inner = _split(functional.gelu(_flat(inner), approximate="tanh"), inner)
    xs = _add_residual(members, blocks, xs, _project(members, [block.mlp_out for block in blocks], inner))
    return [x if lengths is None else x[:, 0] for x, lengths in zip(xs, ends, strict=True)]


def _attend(
    members: Sequence[Member], layers: Sequence[Attention], ys: Parts, segments: OptionalParts, ends: OptionalParts
) -> Parts:
    """Return the concatenated heads of each member for all its tokens or, with `ends`, for the last token of each text."""
    queried = [y if lengths is None else y[:, -1:] for y, lengths in zip(ys, ends, strict=True)]
    queries = _project(members, [layer.query for layer in layers], queried)
    keys = _project(members, [layer.key for layer in layers], ys)
    values = _project(members, [layer.value for layer in layers], ys)
    outputs = []
    for place, (member, layer) in enumerate(zip(members, layers, strict=True)):
        with member.stream.drawing():
            q, k, v = (layer.split_heads(ys[place]) for ys in (queries, keys, values))
            outputs.append(layer.attend(q, k, v, segments[place]))
    return outputs


def _project(members: Sequence[Member], layers: Sequence[nn.Module], xs: Parts) -> Parts:
    """Return the outputs of a projection: the base layer runs once for all members, then each adds its own LoRA pair."""
    base = layers[0].base if isinstance(layers[0], LoRALinear) else layers[0]
    outs = _split(base(_flat(xs)), xs)
    for place, (member, layer) in enumerate(zip(members, layers, strict=True)):
        if isinstance(layer, LoRALinear):
            with member.stream.drawing():
                outs[place] = layer.adapt(outs[place], xs[place])
    return outs


def _add_residual(members: Sequence[Member], blocks: Sequence[Block], xs: Parts, ys: Parts) -> Parts:
    sums = []
    for member, block, x, y in zip(members, blocks, xs, ys, strict=True):
        with member.stream.drawing():
            sums.append(x + block.drop(y))
    return sums


def _flat(xs: Parts) -> Tensor:
    return torch.cat([x.flatten(0, 1) for x in xs])  # (N, C)


def _split(flat: Tensor, like: Parts) -> Parts:
    sizes = [x.shape[0] * x.shape[1] for x in like]
    return [y.view(*x.shape[:2], -1) for x, y in zip(like, flat.split(sizes), strict=True)]


# -- steps


class Packer:
    """Takes the steps of several runs in shared passes, each with as many runs as fit into GPU memory."""

    def __init__(self) -> None:
        self.max_runs: int | None = None  # of a pass; known once memory was exhausted

    def take(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        """Return the result of each step, in the same order."""
        results: dict[int, StepResult | Exception] = {}
        groups: dict[object, list[int]] = {}
        for place, step in enumerate(steps):
            groups.setdefault(step.run.shared_pass or place, []).append(place)
        for places in groups.values():
            results |= zip(places, self._take_group([steps[place] for place in places]), strict=True)
        return [results[place] for place in range(len(steps))]

    def _take_group(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        results: list[StepResult | Exception] = []
        while len(results) < len(steps):
            results += self._take_pass(self._next_pass(steps[len(results) :]))
        return results

    def _next_pass(self, steps: Sequence[Step]) -> Sequence[Step]:
        count, tokens = 0, 0
        for step in steps[: self.max_runs]:
            if tokens >= TOKENS and step.run.device.type == "cpu":
                break
            count, tokens = count + 1, tokens + step.tokens
        return steps[:count]

    def _take_pass(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        if len(steps) == 1:
            return [steps[0].take()]
        results: list[StepResult | Exception] = [UntakenError()] * len(steps)
        try:
            results = step_together(steps)
        except Exception as error:  # in the shared part, so no step was taken
            if is_out_of_memory(error):
                self.max_runs = len(steps) // 2
        untaken = [place for place, result in enumerate(results) if isinstance(result, UntakenError)]
        for place in untaken:
            steps[place].run.discard_gradients()
        if untaken:
            torch.cuda.empty_cache()
        if len(untaken) > (self.max_runs or len(steps)):  # `max_runs` was just reduced
            return self._take_group(steps)
        for place in untaken:
            results[place] = steps[place].take()
        return results


class UntakenError(Exception):
    """A step failed for lack of memory or an error of another run. It changed nothing and can be taken again."""


def step_together(steps: Sequence[Step]) -> list[StepResult | Exception]:
    """Take the steps of several runs with the same `shared_pass`; return their results in the same order.

    A run that diverges, or whose update fails, does not affect the others. If this raises an error, no step was taken.
    """
    started = time.perf_counter()
    totals = _gradients(steps)
    errors = [_apply_update(step, total) for step, total in zip(steps, totals, strict=True)]
    tokens = np.array([step.tokens for step in steps])
    shares = (time.perf_counter() - started) * tokens / tokens.sum()
    return [
        error or StepResult(total, float(share)) for error, total, share in zip(errors, totals, shares, strict=True)
    ]


def _gradients(steps: Sequence[Step]) -> list[float]:
    """Accumulate the gradients of each run's mean loss; return the sums of the losses."""
    totals = [torch.zeros((), device=step.run.device) for step in steps]
    parts = [[part for part in step.run.micro_batches(step.batch) if len(part)] for step in steps]
    for number in range(max(map(len, parts))):
        places = [place for place, micro_batches in enumerate(parts) if number < len(micro_batches)]
        weights = [steps[place].run.weight(steps[place].batch) for place in places]
        with ExitStack() as working:
            for place in places:
                working.enter_context(steps[place].run.working_weights())
            losses = _losses([steps[place] for place in places], [parts[place][number] for place in places], number)
            scalers = [steps[place].run.optimizer.scaler for place in places]
            means = [loss / weight for loss, weight in zip(losses, weights, strict=True)]
            torch.stack([s.scale(mean) for s, mean in zip(scalers, means, strict=True)]).sum().backward()
        for place, loss in zip(places, losses, strict=True):
            totals[place] += loss.detach()
    return [total.item() for total in totals]


def _losses(steps: Sequence[Step], micro_batches: Sequence[np.ndarray], number: int) -> list[Tensor]:
    """Return the sum of the losses of micro-batch `number` of each step."""
    members, batches = [], []
    for step, examples in zip(steps, micro_batches, strict=True):
        run = step.run
        batches.append(run.collate(examples))
        stream = run.dropout_stream(step.number, number, examples)
        members.append(Member(run.model, run.trunk_input(batches[-1]), stream))
    losses = []
    with steps[0].run.autocast:
        for step, member, batch, hidden in zip(steps, members, batches, run_trunks(members), strict=True):
            with member.stream.drawing():
                losses.append(step.run.loss(hidden, batch))
    return losses


def _apply_update(step: Step, loss: float) -> Exception | None:
    """Apply a run's update; return its error, or UntakenError if memory was exhausted before any change."""
    try:
        before = step.run.update_counts()
        step.run.apply_update(step.number, loss / step.run.weight(step.batch))
    except Exception as error:
        return UntakenError() if is_out_of_memory(error) and step.run.update_counts() == before else error
    return None
