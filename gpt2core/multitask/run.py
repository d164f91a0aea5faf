"""A run of several tasks: its parts are runs of single tasks, whose models share parameters, and it takes their steps together.

Every combination sees the same number of examples. An epoch has as many batches of each task as the largest task has; a smaller
task repeats its examples in another order. With `sampling`, an epoch has as many batches in all, and each is a step.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gpt2core.config import RunConfig
from gpt2core.data.batches import epoch_batches
from gpt2core.memory import MOMENTS, WEIGHT
from gpt2core.model import GPT2, trainable_parameters, trainable_size
from gpt2core.multitask.combining import COMBINATIONS, MultiKeys, famo_logits, shares_of_tasks
from gpt2core.multitask.models import LOGITS, models_of
from gpt2core.run import Run
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import JointData
from gpt2core.workers import ALONE, Workers

Gradients = list[Tensor | None]  # of all trained parameters


class MultiRun(Run):
    """Several tasks in one run. A batch has the example numbers of all parts; those of a part start at its `offset`.

    The loss of a step is the sum of its tasks' mean losses, and the weight of its batch is their number.
    """

    def load_examples(self, data: TaskData) -> list[int]:
        """Build the parts; return the number of steps of each epoch."""
        assert isinstance(data, JointData)
        self.keys = self.config.part(MultiKeys)
        self.combination = COMBINATIONS[self.keys.combination]
        parts, models = self.task.parts(self.config), models_of(self.model)
        self.parts = [
            Run(part.config, self.base, data.parts[name], self.workers, models[name]) for name, part in parts.items()
        ]
        sizes = [len(part.tokens) for part in self.parts]
        self.offsets = np.cumsum([0, *sizes])
        self.longest = math.ceil(max(sizes) / self.config.batch_size)  # batches of the largest task
        self.shares = shares_of_tasks(sizes, self.keys.sampling_temperature)
        return [len(self._order(1))] * self.config.epochs

    # -- an optimizer step

    def step(self, number: int, batch: np.ndarray) -> Tensor:
        """Take optimizer step `number` on the combined losses of the tasks in a batch; return the sum of their mean losses."""
        batches = self._by_part(batch)
        losses, gradients = [], []
        for part, examples in batches:
            losses.append(part.losses(number, examples, self.optimizer.scaler) / part.weight(examples))
            if self.combination.by_task:
                gradients.append(self._taken_gradients())
        before = torch.stack(losses)
        if self.combination.by_task:
            self._combine(number, before, gradients)
        elif self.workers.size > 1:
            _average([parameter.grad for parameter in self._parameters], self.workers.size)
        self.apply_update(number)
        if self.combination.weigh is not None:
            self._update_logits(number, batches, before)
        return before.sum()

    def _taken_gradients(self) -> Gradients:
        """Return the gradients of all workers, and clear them."""
        gradients = [parameter.grad for parameter in self._parameters]
        if self.workers.size > 1:
            _average(gradients, self.workers.size)
        for parameter in self._parameters:
            parameter.grad = None
        return gradients

    def _combine(self, number: int, losses: Tensor, gradients: list[Gradients]) -> None:
        """Set the joint gradients of step `number`. Only parameters that tasks share are projected."""
        if self.combination.weigh is not None:
            weights = self.combination.weigh(losses, self._logits.detach())
            gradients = [[None if g is None else w * g for g in own] for w, own in zip(weights, gradients, strict=True)]
        for parameter, own in zip(self._parameters, zip(*gradients, strict=True), strict=True):
            known = [gradient for gradient in own if gradient is not None]
            parameter.grad = torch.stack(known).sum(dim=0) if known else None
        if self.combination.project is not None:
            places = [
                place for place, own in enumerate(zip(*gradients, strict=True)) if sum(g is not None for g in own) > 1
            ]
            shared = [self._parameters[place] for place in places]
            rows = [torch.cat([_flat(own[place], self._parameters[place]) for place in places]) for own in gradients]
            joint = self.combination.project(torch.stack(rows), np.random.default_rng((self.config.seed, number)))
            for parameter, part in zip(shared, joint.split([p.numel() for p in shared]), strict=True):
                parameter.grad = part.view_as(parameter)

    @torch.no_grad()
    def _update_logits(self, number: int, batches: list[tuple[Run, np.ndarray]], before: Tensor) -> None:
        """Update FAMO's task logits after an update, from the losses on the same batches with the same dropout."""
        after = torch.stack([part.losses(number, examples, None) / part.weight(examples) for part, examples in batches])
        self._logits.copy_(famo_logits(self._logits, before, after, self.keys.famo_lr, self.keys.famo_decay))

    @property
    def _logits(self) -> nn.Parameter:
        return self.model.get_parameter(LOGITS)

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return list(trainable_parameters(self.model).values())

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each separate model, or all that tasks train together."""
        if self.combination.shares:
            return super().clipped_together()
        return [list(trainable_parameters(part.model).values()) for part in self.parts]

    @property
    def guess(self) -> float:
        return max(part.guess for part in self.parts)

    # -- examples

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch, counted from 1; each depends only on the seed and its place in the run."""
        used = [
            sum(step.count(part) for e in range(1, epoch) for step in self._order(e)) for part in range(len(self.parts))
        ]
        streams = [islice(self._stream(part), start, None) for part, start in enumerate(used)]
        return [np.concatenate([next(streams[part]) for part in step]) for step in self._order(epoch)]

    def _order(self, epoch: int) -> list[list[int]]:
        """Return the numbers of the parts in each step of an epoch."""
        everyone = list(range(len(self.parts)))
        if not self.combination.samples:
            return [everyone] * self.longest
        random = np.random.default_rng((self.config.seed, epoch))
        drawn = random.choice(len(self.parts), size=len(self.parts) * self.longest, p=self.shares)
        return [[int(part)] for part in drawn]

    def _stream(self, number: int) -> Iterator[np.ndarray]:
        """Yield the batches of a part without end, each pass in another order."""
        lengths, config = self.parts[number].tokens.lengths, self.config
        for turn in count(1):
            for batch in epoch_batches(lengths, config.batch_size, config.seed, turn):
                yield self.offsets[number] + batch

    def _by_part(self, batch: np.ndarray) -> list[tuple[Run, np.ndarray]]:
        """Return the parts that a batch has examples of, with their own numbers of these."""
        owners = np.searchsorted(self.offsets, batch, side="right") - 1
        return [(self.parts[part], batch[owners == part] - self.offsets[part]) for part in np.unique(owners)]

    def weight(self, batch: np.ndarray) -> int:
        """Return the number of tasks in a batch."""
        return len(self._by_part(batch))

    def token_count(self, batch: np.ndarray) -> int:
        """Return the number of tokens of a batch, without padding."""
        return sum(part.token_count(examples) for part, examples in self._by_part(batch))

    def padded_token_count(self, batch: np.ndarray) -> int:
        """Return the number of tokens of a batch, each task padded to its longest example."""
        return sum(part.padded_token_count(examples) for part, examples in self._by_part(batch))

    # -- what speeds up single tasks only

    @property
    def shared_pass(self) -> None:
        """None: it shares no passes with other runs."""
        return None

    def keep(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the batches as they are."""
        return list(batches)

    def use_cached_activations(self, *, evaluates: bool = True) -> None:
        """Cache nothing."""

    @property
    def predicted_gpu_memory_gb(self) -> float:
        """The largest peak of a part, with the parameters of all others and, if these are kept, the gradients of each task."""
        own = max(part.predicted_gpu_memory_gb for part in self.parts)
        others = self.trainable - min(trainable_size(part.model) for part in self.parts)
        kept = len(self.parts) * self.trainable if self.combination.by_task else 0
        return own + ((WEIGHT + MOMENTS) * others + WEIGHT * kept) / 1e9


def start_run(config: RunConfig, base: GPT2, data: TaskData, workers: Workers = ALONE) -> Run:
    """Return a run of one task or of several, ready to take its first step; raise ConfigError, DataError."""
    kind = MultiRun if TASKS[config.task].parts(config) else Run
    return kind(config, base, data, workers)


def _flat(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()


def _average(gradients: Gradients, workers: int) -> None:
    """Replace gradients by their mean over the workers, by one all-reduce of them all."""
    known = [gradient for gradient in gradients if gradient is not None]
    joint = torch.cat([gradient.flatten() for gradient in known])
    dist.all_reduce(joint)
    for gradient, mean in zip(known, (joint / workers).split([gradient.numel() for gradient in known]), strict=True):
        gradient.copy_(mean.view_as(gradient))
