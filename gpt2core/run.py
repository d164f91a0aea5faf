"""One training run: its model, optimizer and examples, and the optimizer step that updates the weights.

Dropout depends only on (seed, step, example), so losses stay the same if a run is resumed or distributed over workers; on a GPU,
it also depends on how a batch is divided.

Legend: `B` examples of a batch, `T` tokens, `C` channels.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from gpt2core.activations import FrozenBlocks
from gpt2core.adapters import ADAPTERS
from gpt2core.builders import build_model, build_optimizer, device, learning_rate
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.data.batches import Batch, collate, epoch_batches
from gpt2core.data.tokens import Tokens
from gpt2core.dropout import Stream
from gpt2core.errors import ConfigError, DivergedError
from gpt2core.memory import META, predicted_gpu_memory_gb
from gpt2core.model import GPT2, TrunkInput, trainable_parameters, trainable_size
from gpt2core.precision import autocast, narrow_type
from gpt2core.projection import WorkingWeights
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import objective_of
from gpt2core.weights import origin
from gpt2core.workers import ALONE, Workers

RECENT = 10  # steps over which the mean loss is compared with that of guessing
PASS = 2**40  # added to the number of an example in each further pass, for other dropout
EXPLODED = 2  # a run has diverged if its mean loss is so many times the loss of guessing


class Run:
    """Model, optimizer and training examples of one configuration. A batch is an array (B,) of example numbers."""

    def __init__(
        self,
        config: RunConfig,
        base: GPT2,
        data: TaskData,
        workers: Workers = ALONE,
        model: GPT2 | None = None,
    ) -> None:
        """Build the model, unless it is given: then the run is a part of one of several tasks, which takes the steps."""
        self.config, self.base, self.workers, self.device = config, base, workers, device()
        if self.device.type == "mps" and workers.size > 1:
            raise ConfigError(
                f"A run has {workers.size} workers, but must have one on Apple's GPUs, which share no gradients"
            )
        self.origins = {"data": data.corpus.digest, "tokenizer": data.tokenizer.digest, "base": origin(base)}
        self.task, self.adapter = TASKS[config.task], ADAPTERS[config.adapter]
        self.objective = objective_of(self.task, config)
        self.data = data.divided(config)
        self.model = build_model(config, base, self.device) if model is None else model
        self.first_steps = np.cumsum([0, *self.load_examples(data)])  # of each epoch, and at the end the total
        self.trainable = trainable_size(self.model)
        self.optimizer = build_optimizer(self.model, config, self.device)
        self.narrow = narrow_type(config, self.device)
        self.working = None if self.narrow is None else WorkingWeights(self.model, base, self.narrow)
        self.autocast = autocast(self.device, self.narrow)
        distributed = workers.size > 1 and self.trainable and model is None
        self.replica = DistributedDataParallel(_Forward(self)) if distributed else None

    def load_examples(self, data: TaskData) -> list[int]:
        """Load the training examples of `data`; return the number of steps of each epoch."""
        texts, self.sizes = self.data.training_examples(self.config)
        self.tokens: Tokens = self.task.training_examples(texts, self.base, data.tokenizer, self.config)
        self.weights = self.task.weights(self.tokens, data.tokenizer, self.config)
        return [math.ceil(size / self.config.batch_size) for size in self.sizes]

    # -- an optimizer step

    def step(self, number: int, batch: np.ndarray) -> Tensor:
        """Take optimizer step `number`, counted from 0, on the mean loss of a batch; return the sum of its losses in nats.

        Nothing waits for a GPU: the caller reads the loss later, and passes it to `check_losses`.
        """
        if self.adapter.before_step is not None:
            self.adapter.before_step(self.model, self.config, number)
        total = self.losses(number, batch, self.optimizer.scaler)
        self.apply_update(number)
        return total

    def losses(self, number: int, batch: np.ndarray, scaler: GradScaler | None) -> Tensor:
        """Return the sum of a batch's losses in nats; with a `scaler`, add the scaled gradients of their mean to the parameters'.

        The batch is divided into micro-batches, which are distributed over the workers. Without a replica, each worker has its
        own gradients, of which the mean is wanted.
        """
        workers, weight, micro_batches = self.workers, self.weight(batch), self.micro_batches(batch)
        own = range(workers.rank, len(micro_batches), workers.size)
        total = torch.zeros((), device=self.device)
        for index in own:
            empty = not len(micro_batches[index])
            examples = np.array([0]) if empty else micro_batches[index]
            # DDP averages gradients over workers, but only with the last micro-batch.
            sync = nullcontext() if self.replica is None or index == own[-1] else self.replica.no_sync()
            with sync, self.working_weights(), self.dropout_stream(number, index, examples).drawing():
                with self.autocast:
                    inputs = self.collate(examples)
                    loss = self.forward(inputs) if self.replica is None else self.replica(*inputs)
                    # DDP's all-reduce needs every worker, so one without examples contributes a zero-weighted loss.
                    loss = loss * 0.0 if empty else loss
                if scaler is not None:
                    # The mean over the batch needs the sum of the workers' gradients, not their average.
                    scaler.scale(loss * (workers.size / weight)).backward()
            total += loss.detach()
        if workers.size > 1:
            dist.all_reduce(total)
        return total

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of the training losses of a batch, in nats."""
        return self.loss(self.model.run_trunk(self.trunk_input(batch)), batch)

    def apply_update(self, number: int) -> None:
        """Update the weights with the gradients of step `number`, and clear the gradients."""
        if self.adapter.penalty is not None:  # whose gradient is the same in all workers
            self.optimizer.scaler.scale(self.adapter.penalty(self.model, self.config)).backward()
        if self.config.clip_norm is not None:
            most = self.config.clip_norm * self.optimizer.scaler.get_scale()
            for parameters in self.clipped_together():
                nn.utils.clip_grad_norm_(parameters, most)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.config, number, int(self.first_steps[-1]))
        self.optimizer.scaler.step(self.optimizer)  # unless a scaled gradient is not finite
        self.optimizer.scaler.update()
        if self.adapter.after_update is not None:
            self.adapter.after_update(self.model, self.optimizer, self.config, number, int(self.first_steps[1]))
        self.optimizer.zero_grad()

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Return the groups of parameters whose joint gradient norm is clipped."""
        return [list(trainable_parameters(self.model).values())]

    @property
    def guess(self) -> float:
        """The loss of guessing, in nats."""
        return math.log(self.task.classes(self.config) or self.base.config.vocab_size)

    def check_losses(self, number: int, recent: Sequence[float]) -> None:
        """Raise DivergedError if the last of the mean losses up to step `number` is not finite, or RECENT are above guessing."""
        at = f"at step {number + 1} with lr {self.config.lr:g}"
        if not math.isfinite(recent[-1]):
            raise DivergedError(f"The training loss is {recent[-1]} {at}")
        mean, guess = sum(recent) / len(recent), self.guess
        # The contrastive loss is that of choosing one example of the batch; a divergence is at most about that of guessing.
        limit = EXPLODED * guess + self.config.contrastive_weight * math.log(self.config.batch_size)
        limit += self.config.r_drop * guess
        if len(recent) == RECENT and mean > limit:
            raise DivergedError(
                f"The training loss has exploded: {mean:.2f} nats over {RECENT} steps, while guessing has {guess:.2f}, {at}"
            )

    def working_weights(self) -> AbstractContextManager[None]:
        """Within, passes read the weights in the precision of the run."""
        return nullcontext() if self.working is None else self.working.used()

    # -- parts of a step, which `gpt2core.packing` runs for several runs at once

    @property
    def shared_pass(self) -> object | None:
        """A key that is equal for runs whose steps can share a forward pass; None if this run cannot share one.

        Their inputs have the same fields, and they run the same blocks with the same attention.
        """
        if not self.config.packs or self.model.gradient_checkpointing:
            return None
        config, reading = self.config, self.config.values_of(keys_that_decide("reading"))
        first = 0 if self.tokens.activations is None else self.model.first_trainable_block
        return id(self.base), config.precision, config.task, *reading.values(), self.model.attention, config.dora, first

    def micro_batches(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the micro-batches of a batch, assigned to the workers in turn; some may be empty."""
        return np.array_split(batch, self.config.accumulation * self.workers.size)

    def collate(self, examples: np.ndarray) -> Batch:
        """Return examples as padded tensors on the device, repeated for each pass of the task."""
        return self._collated(examples, self.device)

    def _collated(self, examples: np.ndarray, device: torch.device) -> Batch:
        return collate(self.tokens, np.tile(examples, self.task.passes(self.config)), device)

    def trunk_input(self, batch: Batch) -> TrunkInput:
        """Return the input of the model's trunk for a batch."""
        return self.task.trunk_input(batch, self.data.tokenizer, self.config)

    def loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the sum of the training losses of a batch, in nats, from its last hidden states (B, T, C) or (B, C)."""
        return self.task.training_loss(self.model, self.base, hidden, batch, self.data.tokenizer, self.config)

    def dropout_stream(self, step: int, micro_batch: int, examples: np.ndarray) -> Stream:
        """Return the random numbers of dropout for a micro-batch, other ones for each pass of the task."""
        passes = [examples + number * PASS for number in range(self.task.passes(self.config))]
        return Stream(self.config.seed, step, micro_batch, np.concatenate(passes), self.device)

    def discard_gradients(self) -> None:
        """Clear the gradients of an unfinished step."""
        self.optimizer.zero_grad()

    def update_versions(self) -> list[int]:
        """Return a number for each parameter group that changes with its updates; no GPU is waited for."""
        states = [self.optimizer.state.get(p) for group in self.optimizer.param_groups for p in group["params"][:1]]
        return [state["step"]._version if state else 0 for state in states]

    @property
    def kept(self) -> int | None:
        """The number of parameters that are left after training, with the task's own head; None if the adapter prunes none."""
        if self.adapter.keeps is None:
            return None
        head = 0 if self.model.head is None else self.model.head.weight.numel()
        return self.adapter.keeps(self.base, self.config) + head

    @cached_property
    def predicted_gpu_memory_gb(self) -> float:
        """The peak memory on a GPU of a step with the longest examples, for each worker."""
        longest = np.argsort(-self.tokens.lengths, kind="stable")[: self.config.batch_size]
        own = self.micro_batches(longest)[:: self.workers.size][:2]
        batches = [self._collated(examples, META) for examples in own if len(examples)]
        parts = (self.model, self.base, self.task, self.data.tokenizer, self.config)
        return predicted_gpu_memory_gb(*parts, batches, workers=self.workers.size)

    # -- examples

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch, counted from 1."""
        lengths = self.tokens.lengths[: self.sizes[epoch - 1]]
        return epoch_batches(lengths, self.config.batch_size, self.config.seed, epoch)

    def weight(self, batch: np.ndarray) -> int:
        """Return the denominator of the mean loss of a batch: its number of predicted tokens, or of examples."""
        return int(self.weights[batch].sum())

    def token_count(self, batch: np.ndarray) -> int:
        """Return the number of tokens of a batch, without padding."""
        return int(self.tokens.lengths[batch].sum())

    def padded_token_count(self, batch: np.ndarray) -> int:
        """Return the number of tokens of a batch that is padded to its longest example."""
        return len(batch) * int(self.tokens.lengths[batch].max())

    def keep(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Keep only the training examples of some batches; return the batches with the new numbers of their examples."""
        examples = np.concatenate(batches)
        self.tokens, self.weights = self.tokens.take(examples), self.weights[examples]
        ends = np.cumsum([len(batch) for batch in batches])
        return np.split(np.arange(ends[-1]), ends[:-1])

    def use_cached_activations(self, *, evaluates: bool = True) -> None:
        """Cache the output of the frozen blocks for the training examples and, if the run evaluates, for the scored splits."""
        blocks = FrozenBlocks(self.model, self.base, self.task, self.data.tokenizer, self.config)
        self.tokens = blocks.with_activations(self.tokens, self.narrow)
        if evaluates:
            scored = filter(None, (self.config.choosing, self.config.judging))
            # Evaluations use float32.
            splits = {name: blocks.with_activations(self.data.splits[name], None) for name in scored}
            self.data = replace(self.data, splits={**self.data.splits, **splits})


class _Forward(nn.Module):
    """`Run.forward` as a module, for DDP."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.model, self.run = run.model, run

    def forward(self, *batch: Tensor) -> Tensor:
        return self.run.forward(Batch(*batch))
