"""Several runs in one forward pass over the base that they share.

Runs of LoRA change nothing of their base. So their batches go through its matrices as one, side by side, while each text keeps
its own pairs, attention, dropout and loss. A run's numbers are those that it has alone, up to how sums are rounded: nothing of
one run's texts meets another's.

Legend: `N` tokens of all runs together; of one run, `B` texts of `T` tokens with `C` channels, a run's share of the N.
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
from gpt2core.data.batches import collate
from gpt2core.memory import is_out_of_memory
from gpt2core.model import GPT2, Attention, Block, Reading
from gpt2core.steps import Done, Step

#: Of a pass on a CPU, from which on no other run joins: more are no faster there, and what they leave behind is held at once.
TOKENS = 512

Parts = list[Tensor]  # of each run: (B, T, C)


class Stream:
    """The random numbers of one run: what is drawn inside `drawing` goes on where it left off, whatever is drawn elsewhere."""

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
    """One run's part of a pass: its model, what it is to read, its random numbers."""

    model: GPT2
    reading: Reading
    stream: Stream


def read_together(members: Sequence[Member]) -> list[Tensor]:
    """What `GPT2.read` gives of each member: last hidden states (B, T, C), or (B, C) of last tokens alone.

    The models must be of one base. Where a member's reading has activations `below`, it joins in at its model's entry.
    """
    entries = [0 if member.reading.below is None else member.model.entry for member in members]
    states: dict[int, Tensor] = {}
    for number in range(len(members[0].model.blocks) + 1):
        for place, member in enumerate(members):
            if entries[place] == number:
                with member.stream.drawing():
                    states[place] = _entrance(member)
        if number < len(members[0].model.blocks) and states:
            places = sorted(states)
            found = _through([members[place] for place in places], [states[place] for place in places], number)
            states = dict(zip(places, found, strict=True))
    return [cast(Tensor, member.model.ln_f(states[place])) for place, member in enumerate(members)]


def _entrance(member: Member) -> Tensor:
    reading = member.reading
    return member.model.embed(reading.input_ids, reading.segments) if reading.below is None else reading.below


def _through(members: Sequence[Member], xs: Parts, number: int) -> Parts:
    """What comes out of block `number`."""
    blocks = [cast(Block, member.model.blocks[number]) for member in members]
    last = number + 1 == len(members[0].model.blocks)
    ends = [member.reading.lengths if last else None for member in members]
    segments = [member.reading.segments for member in members]
    for place, lengths in enumerate(ends):
        if lengths is not None:
            xs[place], segments[place] = Block.padded_left(xs[place], lengths)
    ys = _split(blocks[0].ln_1(_flat(xs)), xs)
    heads = _attended(members, [block.attention for block in blocks], ys, segments, ends)
    xs = [x if lengths is None else x[:, -1:] for x, lengths in zip(xs, ends, strict=True)]
    xs = _added(members, blocks, xs, _projected(members, [block.attention.dense for block in blocks], heads))
    ys = _split(blocks[0].ln_2(_flat(xs)), xs)
    inner = _projected(members, [block.mlp_in for block in blocks], ys)
    inner = _split(functional.gelu(_flat(inner), approximate="tanh"), inner)
    xs = _added(members, blocks, xs, _projected(members, [block.mlp_out for block in blocks], inner))
    return [x if lengths is None else x[:, 0] for x, lengths in zip(xs, ends, strict=True)]


def _attended(
    members: Sequence[Member],
    layers: Sequence[Attention],
    ys: Parts,
    segments: Sequence[Tensor | None],
    ends: Sequence[Tensor | None],
) -> Parts:
    """What the heads of each member give, side by side: the queries are all its tokens, or the last of each text."""
    askers = [y if lengths is None else y[:, -1:] for y, lengths in zip(ys, ends, strict=True)]
    queries = _projected(members, [layer.query for layer in layers], askers)
    keys = _projected(members, [layer.key for layer in layers], ys)
    values = _projected(members, [layer.value for layer in layers], ys)
    found = []
    for place, (member, layer) in enumerate(zip(members, layers, strict=True)):
        with member.stream.drawing():
            q, k, v = (layer.heads(ys[place]) for ys in (queries, keys, values))
            found.append(layer.among(q, k, v, segments[place]))
    return found


def _projected(members: Sequence[Member], layers: Sequence[nn.Module], xs: Parts) -> Parts:
    """What one projection gives: that of the base to all at once, and to each member what its own pair adds."""
    base = layers[0].base if isinstance(layers[0], LoRALinear) else layers[0]
    outs = _split(base(_flat(xs)), xs)
    for place, (member, layer) in enumerate(zip(members, layers, strict=True)):
        if isinstance(layer, LoRALinear):
            with member.stream.drawing():
                outs[place] = layer.beside(outs[place], xs[place])
    return outs


def _added(members: Sequence[Member], blocks: Sequence[Block], xs: Parts, ys: Parts) -> Parts:
    """The residual sum, each member with its dropout."""
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
    """Takes the steps of runs together where that can be, and so many at once as the memory of a GPU allows."""

    def __init__(self) -> None:
        self.most: int | None = None  # runs of a pass; known once there was no memory for more

    def take(self, steps: Sequence[Step]) -> list[Done | Exception]:
        """Return what came of each step, in their order."""
        answers: list[Done | Exception | None] = [None] * len(steps)
        groups: dict[object, list[int]] = {}
        for place, step in enumerate(steps):
            run = step.run
            packed = run.config.packs and not run.model.recompute
            key = (id(run.base), run.config.precision) if packed else place
            groups.setdefault(key, []).append(place)
        for places in groups.values():
            found = self._together([steps[place] for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return cast(list[Done | Exception], answers)

    def _together(self, steps: Sequence[Step]) -> list[Done | Exception]:
        answers: list[Done | Exception] = []
        while len(answers) < len(steps):
            answers += self._pass(self._fitting(steps[len(answers) :]))
        return answers

    def _fitting(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The first steps, as many as one pass is to take."""
        count, tokens = 0, 0
        for step in steps[: self.most]:
            if tokens >= TOKENS and step.run.device.type == "cpu":
                break
            count, tokens = count + 1, tokens + step.tokens
        return steps[:count]

    def _pass(self, steps: Sequence[Step]) -> list[Done | Exception]:
        if len(steps) == 1:
            return [steps[0].alone()]
        answers: list[Done | Exception] = [UntakenError()] * len(steps)
        try:
            answers = step_together(steps)
        except Exception as error:  # in what they share: nobody has taken a step
            if is_out_of_memory(error):
                self.most = len(steps) // 2
        again = [place for place, answer in enumerate(answers) if isinstance(answer, UntakenError)]
        for place in again:
            steps[place].run.optimizer.zero_grad()  # of a pass that was broken off
        if again:
            torch.cuda.empty_cache()
        if len(again) > (self.most or len(steps)):  # it has just become smaller
            return self._together(steps)
        for place in again:
            answers[place] = steps[place].alone()
        return answers


class UntakenError(Exception):
    """A step was not taken, for want of memory or for an error elsewhere, and nothing has changed: it can be taken again."""


def step_together(steps: Sequence[Step]) -> list[Done | Exception]:
    """Take the steps of several runs of one base, whose configurations say `packs`; return what came of each, in their order.

    The seconds are shared out by the tokens of each. A run that diverges, or whose update fails, takes nothing from the
    others. What is raised is an error of the pass that they share: then nobody has taken a step.
    """
    started = time.perf_counter()
    totals = _gradients(steps)
    errors = [_updated(step, total) for step, total in zip(steps, totals, strict=True)]
    tokens = np.array([step.tokens for step in steps])
    shares = (time.perf_counter() - started) * tokens / tokens.sum()
    return [error or Done(total, float(share)) for error, total, share in zip(errors, totals, shares, strict=True)]


def _gradients(steps: Sequence[Step]) -> list[float]:
    """Add up the gradients of each run's mean loss over its batch; return the sums of the losses."""
    totals = [torch.zeros((), device=step.run.device) for step in steps]
    parts = [[micro for micro in step.run.micros(step.batch) if len(micro)] for step in steps]
    for number in range(max(map(len, parts))):
        now = [place for place, micros in enumerate(parts) if number < len(micros)]
        losses = _losses([steps[place] for place in now], [parts[place][number] for place in now], number)
        weights = [steps[place].run.weight(steps[place].batch) for place in now]
        torch.stack([loss / weight for loss, weight in zip(losses, weights, strict=True)]).sum().backward()
        for place, loss in zip(now, losses, strict=True):
            totals[place] += loss.detach()
    return [total.item() for total in totals]


def _losses(steps: Sequence[Step], micros: Sequence[np.ndarray], number: int) -> list[Tensor]:
    """The sums of the losses of part `number` of each step's batch."""
    members, batches = [], []
    for step, micro in zip(steps, micros, strict=True):
        run = step.run
        batch = collate(run.tokens, micro, run.device)
        stream = Stream(run.dropout_seed(step.number, number), run.device)
        members.append(Member(run.model, run.task.reading(batch, run.data.tokenizer, run.config), stream))
        batches.append(batch)
    losses = []
    with steps[0].run.autocast:
        hidden = read_together(members)
        for step, member, batch, states in zip(steps, members, batches, hidden, strict=True):
            run = step.run
            with member.stream.drawing():
                losses.append(
                    run.task.training_loss(run.model, run.base, states, batch, run.data.tokenizer, run.config)
                )
    return losses


def _updated(step: Step, loss: float) -> Exception | None:
    """Update a run by its gradients; return the error that this ends with, UntakenError where memory failed before a change."""
    try:
        before = step.run.updates()
        step.run.update(step.number, loss / step.run.weight(step.batch))
    except Exception as error:
        return UntakenError() if is_out_of_memory(error) and step.run.updates() == before else error
    return None
