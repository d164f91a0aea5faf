"""Optimizer steps of several LoRA runs in one forward pass over the base that they share.

LoRA leaves the base as it is. So the batches of all runs go through its matrices side by side, as one batch, while each run has
its own pairs, attention, dropout and loss. A run's numbers are those that it has alone, up to rounding.

Legend: `N` tokens of all runs together; of one run, `B` texts of `T` tokens with `C` channels, its share of the N.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2core.adapters.lora import LoRALinear
from gpt2core.memory import is_out_of_memory
from gpt2core.model import GPT2, Attention, Block, TrunkInput
from gpt2core.steps import Step, StepResult

#: Tokens of a pass on a CPU, from which on no other run joins: more is no faster there, and takes memory.
TOKENS = 512

Parts = list[Tensor]  # of each run: (B, T, C)


class Stream:
    """The random numbers of one run. Drawing goes on where it left off, whatever is drawn elsewhere in between."""

    def __init__(self, seed: int, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self.generator = torch.cuda.default_generators[device.index or 0] if gpu else torch.default_generator
        self.state = self.generator.manual_seed(seed).get_state()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let PyTorch draw from this stream."""
        self.generator.set_state(self.state)
        yield
        self.state = self.generator.get_state()


@dataclass(frozen=True)
class Member:
    """One run's part of a pass: its model, its input and its random numbers."""

    model: GPT2
    inputs: TrunkInput
    stream: Stream


def run_trunks(members: Sequence[Member]) -> list[Tensor]:
    """Return the last hidden states of each member as `GPT2.run_trunk` does: (B, T, C), or (B, C) of last tokens.

    The models must have one base. A member with cached activations joins at its first trainable block.
    """
    entries = [
        0 if member.inputs.cached_activations is None else member.model.first_trainable_block for member in members
    ]
    states: dict[int, Tensor] = {}
    for number in range(len(members[0].model.blocks) + 1):
        for place, member in enumerate(members):
            if entries[place] == number:
                with member.stream.drawing():
                    states[place] = _first_states(member)
        if number < len(members[0].model.blocks) and states:
            places = sorted(states)
            outputs = _run_block([members[place] for place in places], [states[place] for place in places], number)
            states = dict(zip(places, outputs, strict=True))
    return [cast(Tensor, member.model.ln_f(states[place])) for place, member in enumerate(members)]


def _first_states(member: Member) -> Tensor:
    inputs = member.inputs
    if inputs.cached_activations is not None:
        return inputs.cached_activations
    return member.model.embed(inputs.input_ids, inputs.segments)


def _run_block(members: Sequence[Member], xs: Parts, number: int) -> Parts:
    """Return the outputs of block `number`."""
    blocks = [cast(Block, member.model.blocks[number]) for member in members]
    last = number + 1 == len(members[0].model.blocks)
    ends = [member.inputs.lengths if last else None for member in members]
    segments = [member.inputs.segments for member in members]
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
    members: Sequence[Member],
    layers: Sequence[Attention],
    ys: Parts,
    segments: Sequence[Tensor | None],
    ends: Sequence[Tensor | None],
) -> Parts:
    """Return the concatenated heads of each member; its queries are all its tokens, or the last of each text."""
    askers = [y if lengths is None else y[:, -1:] for y, lengths in zip(ys, ends, strict=True)]
    queries = _project(members, [layer.query for layer in layers], askers)
    keys = _project(members, [layer.key for layer in layers], ys)
    values = _project(members, [layer.value for layer in layers], ys)
    outputs = []
    for place, (member, layer) in enumerate(zip(members, layers, strict=True)):
        with member.stream.drawing():
            q, k, v = (layer.split_heads(ys[place]) for ys in (queries, keys, values))
            outputs.append(layer.attend(q, k, v, segments[place]))
    return outputs


def _project(members: Sequence[Member], layers: Sequence[nn.Module], xs: Parts) -> Parts:
    """Return the outputs of one projection: the base's for all members at once, with each member's own LoRA pair added."""
    base = layers[0].base if isinstance(layers[0], LoRALinear) else layers[0]
    outs = _split(base(_flat(xs)), xs)
    for place, (member, layer) in enumerate(zip(members, layers, strict=True)):
        if isinstance(layer, LoRALinear):
            with member.stream.drawing():
                outs[place] = layer.add_lora(outs[place], xs[place])
    return outs


def _add_residual(members: Sequence[Member], blocks: Sequence[Block], xs: Parts, ys: Parts) -> Parts:
    """Return x + dropout(y) of each member."""
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
    """Takes the steps of runs together where it can, as many at once as fit a GPU's memory."""

    def __init__(self) -> None:
        self.most: int | None = None  # runs of a pass, known once memory was exhausted

    def take(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        """Return the result of each step, in their order."""
        results: list[StepResult | Exception | None] = [None] * len(steps)
        groups: dict[object, list[int]] = {}
        for place, step in enumerate(steps):
            groups.setdefault(step.run.shared_pass or place, []).append(place)
        for places in groups.values():
            for place, result in zip(places, self._take_group([steps[place] for place in places]), strict=True):
                results[place] = result
        return cast(list[StepResult | Exception], results)

    def _take_group(self, steps: Sequence[Step]) -> list[StepResult | Exception]:
        results: list[StepResult | Exception] = []
        while len(results) < len(steps):
            results += self._take_pass(self._next_pass(steps[len(results) :]))
        return results

    def _next_pass(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The first steps, as many as one pass takes."""
        count, tokens = 0, 0
        for step in steps[: self.most]:
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
        except Exception as error:  # in the shared part: no step was taken
            if is_out_of_memory(error):
                self.most = len(steps) // 2
        untaken = [place for place, result in enumerate(results) if isinstance(result, UntakenError)]
        for place in untaken:
            steps[place].run.discard_gradients()
        if untaken:
            torch.cuda.empty_cache()
        if len(untaken) > (self.most or len(steps)):  # `most` has just become smaller
            return self._take_group(steps)
        for place in untaken:
            results[place] = steps[place].take()
        return results


class UntakenError(Exception):
    """A step was not taken, for lack of memory or an error elsewhere, and changed nothing: it can be taken again."""


def step_together(steps: Sequence[Step]) -> list[StepResult | Exception]:
    """Take the steps of several runs with the same `shared_pass`; return their results in the same order.

    The seconds are divided by the tokens of each. A run that diverges, or whose update fails, does not affect the others.
    Raises the errors of the shared part, in which case no step was taken.
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
    """Accumulate the gradients of each run's mean loss over its batch; return the sums of the losses."""
    totals = [torch.zeros((), device=step.run.device) for step in steps]
    parts = [[part for part in step.run.micro_batches(step.batch) if len(part)] for step in steps]
    for number in range(max(map(len, parts))):
        now = [place for place, micro_batches in enumerate(parts) if number < len(micro_batches)]
        losses = _losses([steps[place] for place in now], [parts[place][number] for place in now], number)
        weights = [steps[place].run.weight(steps[place].batch) for place in now]
        torch.stack([loss / weight for loss, weight in zip(losses, weights, strict=True)]).sum().backward()
        for place, loss in zip(now, losses, strict=True):
            totals[place] += loss.detach()
    return [total.item() for total in totals]


def _losses(steps: Sequence[Step], micro_batches: Sequence[np.ndarray], number: int) -> list[Tensor]:
    """The sums of the losses of micro-batch `number` of each step."""
    members, batches = [], []
    for step, examples in zip(steps, micro_batches, strict=True):
        run = step.run
        batches.append(run.collate(examples))
        stream = Stream(run.dropout_seed(step.number, number), run.device)
        members.append(Member(run.model, run.trunk_input(batches[-1]), stream))
    losses = []
    with steps[0].run.autocast:
        for step, member, batch, hidden in zip(steps, members, batches, run_trunks(members), strict=True):
            with member.stream.drawing():
                losses.append(step.run.loss(hidden, batch))
    return losses


def _apply_update(step: Step, loss: float) -> Exception | None:
    """Apply a run's update; return the error that it raised, UntakenError if memory was exhausted before any change."""
    try:
        before = step.run.update_counts()
        step.run.apply_update(step.number, loss / step.run.weight(step.batch))
    except Exception as error:
        return UntakenError() if is_out_of_memory(error) and step.run.update_counts() == before else error
    return None
