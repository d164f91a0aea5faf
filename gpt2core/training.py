"""THE training loop. A run is a generator of one report per epoch: whoever consumes it decides when to stop.

The loop itself asks for each optimizer step. `train` takes them one after the other; `gpt2core.packing` takes those of several
runs together.

What a run gives depends on its configuration alone: batches follow from (seed, epoch), dropout from (seed, step,
micro-batch). So a run that was resumed, or that is spread over several workers, has the same losses.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt2core import checkpoints
from gpt2core.activations import Frozen
from gpt2core.adapters import adapt
from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch, collate, epoch_batches
from gpt2core.data.tokens import Tokens
from gpt2core.errors import CheckpointError, DataError, DivergedError, first_line
from gpt2core.lookup import lookup
from gpt2core.memory import predicted_gpu_memory_gb
from gpt2core.metrics import counts
from gpt2core.metrics.losses import perplexity
from gpt2core.metrics.metric import Metric
from gpt2core.model import GPT2, without_weights
from gpt2core.precision import in_bfloat16
from gpt2core.steps import Answer, Done, Events, Step, alone
from gpt2core.tasks import TASKS, Evaluation, Task, TaskData
from gpt2core.tasks.base import objective_of
from gpt2core.timing import spent
from gpt2core.weights import origin

RECENT = 10  # steps whose mean loss is watched
LARGE = 10**9  # parameters from which on activations are computed twice: gpt2-xl has 1.6
EXPLODED = 2  # times the loss of a guess, from which on a run is given up


@dataclass(frozen=True)
class Workers:
    """The data-parallel group that this process belongs to; alone by default."""

    rank: int = 0
    size: int = 1


ALONE = Workers()


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch gave. `metrics` holds train_loss (nats per token) and all that was measured on the texts that choose."""

    epoch: int
    step: int
    metrics: dict[str, float]
    evaluation: Evaluation = field(default_factory=lambda: Evaluation(metrics={}))
    judged: Evaluation | None = None  # of the texts that chose nothing, where they are scored
    origins: dict[str, str] = field(
        default_factory=dict
    )  # digests of what the run is made from, see `checkpoints.ORIGINS`
    notes: list[str] = field(default_factory=list)  # what happened before it that a person should know
    seconds: dict[str, float] = field(default_factory=dict)  # by part of the work, since the report before


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(config: RunConfig, base: GPT2, device: torch.device) -> GPT2:
    """Return a model of `config` on `device` that starts at `base`'s weights.

    Parameters that do not train share memory with `base` where it is on the same device; those that train are copies, and so
    are those that the adapter changed. A frozen model is `base` itself. Raises ConfigError where the adapter cannot be applied.
    """
    has_head = bool(lookup(TASKS, config.task, "task").classes(config))
    if config.adapter == "frozen" and not has_head and base.attention == config.attention_config:
        return adapt(base.to(device), config)
    model = without_weights(base.config, attention=config.attention_config, dropout=config.dropout)
    model.load_state_dict({k: v.to(device) for k, v in base.state_dict().items()}, assign=True)
    torch.manual_seed(config.seed)
    add_head(model, config)
    adapt(model.to(device), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
    return model


def add_head(model: GPT2, config: RunConfig) -> None:
    """Give `model` the head of the task's classes, if it has any: no bias, N(0, 0.02) by torch's global generator."""
    classes = lookup(TASKS, config.task, "task").classes(config)
    if classes:
        model.head = nn.Linear(model.config.n_embd, classes, bias=False, dtype=model.wte.weight.dtype)
        nn.init.normal_(model.head.weight, std=0.02)


def train(
    config: RunConfig, base: GPT2, data: TaskData, *, folder: Path | None = None, workers: Workers = ALONE
) -> Iterator[EpochReport]:
    """Train for `config.epochs` epochs, yielding a report after each; with `folder`, go on from its last checkpoint.

    A checkpoint is on disk before its epoch is reported. Epochs that the checkpoint holds are reported again, from its
    record, so that a consumer sees each epoch once whatever happened before; `notes` of the first one tell of damaged
    checkpoints. Raises DivergedError where the loss is not finite, ConfigError for an objective that the task does not have,
    CheckpointError where the folder belongs to another configuration or a checkpoint cannot be written.
    """
    yield from alone(loop(config, base, data, folder=folder, workers=workers))


def loop(
    config: RunConfig,
    base: GPT2,
    data: TaskData,
    *,
    folder: Path | None,
    workers: Workers = ALONE,
    leaving: Callable[[], bool] = lambda: False,
) -> Events[EpochReport]:
    """The run that `train` describes, step by step; raise as it does. A round of cross-validation is `gpt2core.folds`'s.

    Where `leaving` says after a step that the machine is about to be taken away, what is trained of the epoch is saved.
    """
    started = time.perf_counter()
    if config.is_round:
        raise ValueError("a round of cross-validation is no single run")
    run = Run(config, base, data, workers)
    run.start_above()
    notes: list[str] = []
    history: list[dict[str, Any]] = []
    if folder:
        writes = workers.rank == 0
        history = checkpoints.resume(folder, config, run.model, run.optimizer, say=notes.append, writes=writes)
        checkpoints.check_origins(history, run.origins, folder)
        if len(history) > config.epochs:
            raise CheckpointError(
                f"{folder}: has {len(history)} epochs, more than the {config.epochs} of `epochs`; ask for as many, or choose "
                "another folder or --name"
            )
    seconds = {"data": time.perf_counter() - started}
    for past in history:
        yield replace(_reported_again(past, folder), notes=notes)
        notes = []
    for epoch in range(len(history) + 1, config.epochs + 1):
        trained = yield from run.epoch(epoch, folder, leaving)
        report = replace(run.report(epoch, trained), notes=notes)
        seconds |= report.seconds
        if folder and workers.rank == 0:
            started = time.perf_counter()
            best = is_best(history, report.metrics, run.objective)
            history.append(_record(report) | {"best": best})
            checkpoints.save(folder, config, run.model, run.optimizer, history, best=best)
            seconds["checkpoint"] = time.perf_counter() - started
        yield replace(report, seconds=seconds)
        notes, seconds = [], {}


def _record(report: EpochReport) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "step": report.step,
        "metrics": report.metrics,
        **_scores(report.evaluation),
        "judged": report.judged and {"metrics": report.judged.metrics, **_scores(report.judged)},
        **report.origins,
    }


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    statistics = counts.to_json(evaluation.statistics)
    return {"statistics": statistics, "samples": evaluation.samples, "tables": evaluation.tables}


def _reported_again(past: dict[str, Any], folder: Path | None) -> EpochReport:
    judged = past.get("judged")
    try:
        return EpochReport(
            epoch=past["epoch"],
            step=past["step"],
            metrics=past["metrics"],
            evaluation=_evaluation(past),
            judged=judged and _evaluation(judged),
            origins={key: past[key] for key in checkpoints.ORIGINS if key in past},
        )
    except (KeyError, DataError) as error:
        raise CheckpointError(
            f"{folder}: the record of epoch {past['epoch']} is damaged ({first_line(error)}); remove the folder to start again"
        ) from None


def _evaluation(past: dict[str, Any]) -> Evaluation:
    return Evaluation(
        metrics=past["metrics"],
        statistics=counts.from_json(past["statistics"]),
        samples=past["samples"],
        tables=past["tables"],
    )


def is_best(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], objective: Metric) -> bool:
    """Whether an epoch is better than all before it; never by a metric that is not finite."""
    value = metrics.get(objective.name, math.nan)
    before = [past["metrics"].get(objective.name, math.nan) for past in history]
    return math.isfinite(value) and all(objective.better(value, b) for b in before if math.isfinite(b))


@dataclass(frozen=True)
class Begun:
    """How far an epoch is: steps that are taken, the sum of their losses, what they cost, and the last mean losses."""

    steps: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    recent: Sequence[float] = ()


class _LossSum(nn.Module):
    """The sum of losses as a module, so that DDP can wrap it."""

    def __init__(self, model: GPT2, base: GPT2, task: Task, data: TaskData, config: RunConfig) -> None:
        super().__init__()
        self.model, self.task, self.data, self.config = model, task, data, config
        self.base = [base]  # in a list, so that it is no part of this module

    def forward(self, *batch: Tensor) -> Tensor:
        task, tokenizer, read = self.task, self.data.tokenizer, Batch(*batch)
        hidden = self.model.read(task.reading(read, tokenizer, self.config))
        return task.training_loss(self.model, self.base[0], hidden, read, tokenizer, self.config)


class Run:
    """Model, optimizer and batches of one run."""

    def __init__(self, config: RunConfig, base: GPT2, data: TaskData, workers: Workers = ALONE) -> None:
        self.config, self.base, self.data, self.workers = config, base, data.divided(config), workers
        self.origins = {"data": data.corpus.digest, "tokenizer": data.tokenizer.digest, "base": origin(base)}
        self.task = lookup(TASKS, config.task, "task")
        self.objective = objective_of(self.task, config)
        self.tokens: Tokens = self.data.splits["train"].sample(config.train_examples)
        self.weights = self.task.weights(self.tokens, data.tokenizer, config)
        self.device = device()
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16(config, self.device))
        self.model = build(config, base, self.device)
        self.total = sum(parameter.numel() for parameter in self.model.parameters())
        wanted = config.gradient_checkpointing
        self.model.recompute = self.total >= LARGE if wanted == "auto" else wanted
        self.sizes = epoch_sizes(config, len(self.tokens))
        steps = [math.ceil(size / config.batch_size) for size in self.sizes]
        self.first_steps = np.cumsum([0, *steps])  # of each epoch; the last is how many there are in all
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config),
            lr=config.lr,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.loss_sum: nn.Module = _LossSum(self.model, base, self.task, data, config)
        self.guess = math.log(self.task.classes(config) or base.config.vocab_size)
        # A contrastive loss, where there is one, is that of a choice among the batch.
        self.limit = EXPLODED * self.guess + config.contrastive_weight * math.log(config.batch_size)
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.trainable = sum(parameter.numel() for parameter in checkpoints.trained(self.model).values())
        if workers.size > 1 and self.trainable:
            self.loss_sum = DistributedDataParallel(self.loss_sum)

    def start_above(self, *, evaluates: bool = True) -> None:
        """Leave out what lies below the first block that trains: take what it makes of the texts from the cache."""
        part = Frozen(self.model, self.base, self.task, self.data.tokenizer, self.config)
        self.tokens = part.read(self.tokens, self.autocast)
        if evaluates and self.workers.rank == 0:
            exact = torch.autocast(self.device.type, enabled=False)  # as evaluations are
            scored = filter(None, (self.config.choosing, self.config.judging))
            read = {name: part.read(self.data.splits[name], exact) for name in scored}
            self.data = replace(self.data, splits={**self.data.splits, **read})

    def epoch(
        self, epoch: int, folder: Path | None = None, leaving: Callable[[], bool] = lambda: False
    ) -> Generator[Step, Answer, dict[str, float]]:
        """Train one epoch, or the rest of it; return its mean loss in nats, per token or example as the task has it, and what
        it cost."""
        if not self.trainable:
            return {"trainable_parameters": 0}
        config = self.config
        self.model.train()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        size, begun = self.sizes[epoch - 1], Begun()
        if folder:
            found = checkpoints.resume_part(folder, config, self.model, self.optimizer, epoch)
            begun = Begun(**found) if found else begun
        self.recent.clear()  # a run that goes on from here sees what an uninterrupted one sees
        self.recent.extend(begun.recent)
        losses, seconds = begun.losses, begun.seconds
        lengths, first_step = self.tokens.lengths[:size], int(self.first_steps[epoch - 1])
        batches = enumerate(epoch_batches(lengths, config.batch_size, config.seed, epoch))
        for number, batch in islice(batches, begun.steps, None):
            done = yield self.asked(first_step + number, batch)
            if not isinstance(done, Done):
                raise done or RuntimeError("nobody took the step")
            losses, seconds = losses + done.loss, seconds + done.seconds
            if folder and self.workers.rank == 0 and leaving():
                begun = Begun(number + 1, losses, seconds, tuple(self.recent))
                checkpoints.save_part(folder, config, self.model, self.optimizer, epoch, asdict(begun))
        return {
            "train_loss": losses / int(self.weights[:size].sum()),
            "train_examples": size,
            "train_seconds": seconds,
            "tokens_per_second": int(lengths.sum()) / seconds,
            "trainable_parameters": self.trainable,
            "predicted_gpu_memory_gb": predicted_gpu_memory_gb(self.total, self.trainable),
            **self._peak_memory(),
        }

    def _peak_memory(self) -> dict[str, float]:
        """Measured GPU memory that the tensors of the last epoch's training took at most; nothing without a GPU."""
        if self.device.type != "cuda":
            return {}
        return {"gpu_memory_gb": torch.cuda.max_memory_allocated(self.device) / 1e9}

    def report(self, epoch: int, trained: dict[str, float]) -> EpochReport:
        """The report of an epoch that gave `trained`; raise DivergedError."""
        started, generated = time.perf_counter(), spent("generate")
        self.model.train(False)  # scores are without dropout
        step = int(self.first_steps[epoch])
        evaluation, judged = self.evaluate(step=step)
        evaluated, generated = time.perf_counter() - started, spent("generate") - generated
        metrics = {**trained, "eval_seconds": evaluated, **evaluation.metrics}
        if "train_loss" in metrics and "dev_perplexity" in metrics:
            metrics["train_perplexity"] = perplexity(metrics["train_loss"])
        parts = {"train": trained.get("train_seconds", 0.0), "evaluate": evaluated - generated, "generate": generated}
        return EpochReport(
            epoch=epoch,
            step=step,
            metrics=metrics,
            evaluation=evaluation,
            judged=judged,
            origins=self.origins,
            seconds=parts,
        )

    def evaluate(self, *, step: int) -> tuple[Evaluation, Evaluation | None]:
        """Let worker 0 score the texts that choose, and those that judge where they are wanted and there are any.

        If the model has diverged, all workers raise, so that none waits.
        """
        evaluation, judged = Evaluation(metrics={}), None
        diverged = torch.zeros((), device=self.device)
        if self.workers.rank == 0:
            choosing, judging = self.config.choosing, self.config.judging
            try:
                evaluation = self._scored(choosing, self.config)
                judged = self._scored(judging, self._judge()) if judging and len(self.data.splits[judging]) else None
            except DivergedError:
                diverged += 1
        if self.workers.size > 1:
            dist.broadcast(diverged, src=0)
        if diverged:
            raise DivergedError(f"The dev loss is not finite after step {step} with lr {self.config.lr:g}")
        return evaluation, judged

    def _scored(self, part: str, config: RunConfig) -> Evaluation:
        """Scores on a part of the data, called as those of the dev split are."""
        return self.task.evaluate(self.model, self.data.scored_on(part), config, "dev")

    def _judge(self) -> RunConfig:
        """How texts are scored that judge: where the loss decides, nothing is written, which would take most of the time."""
        return self.config.but(decode_seeds=0) if self.objective.counts == "loss" else self.config

    def step(self, step: int, batch: np.ndarray) -> float:
        """One optimizer step on the mean loss of the whole batch; return the loss's sum."""
        workers, weight, micros = self.workers, self.weight(batch), self.micros(batch)
        mine = range(workers.rank, len(micros), workers.size)
        total = torch.zeros((), device=self.device)
        for micro in mine:
            with self._no_sync(last=micro == mine[-1]):
                loss = self._micro_loss(micros[micro], step, micro)
                # DDP averages gradients over workers; the mean over the batch wants their sum.
                (loss * (workers.size / weight)).backward()
            total += loss.detach()
        if workers.size > 1:
            dist.all_reduce(total)
        self.update(step, total.item() / weight)
        return total.item()

    def asked(self, number: int, batch: np.ndarray) -> Step:
        """The step that is to be taken on a batch."""
        return Step(self, number, batch, int(self.tokens.lengths[batch].sum()))

    def weight(self, batch: np.ndarray) -> int:
        """What the mean loss of a batch is a mean over."""
        return int(self.weights[batch].sum())

    def micros(self, batch: np.ndarray) -> list[np.ndarray]:
        """The parts of a batch whose gradients are added up, by turns those of each worker."""
        return np.array_split(batch, self.config.accumulation * self.workers.size)

    def update(self, step: int, loss: float) -> None:
        """Change what trains by the gradients that are there, and forget these; raise DivergedError for a bad mean loss."""
        self._check(loss, step)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(checkpoints.trained(self.model).values(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.config, step, int(self.first_steps[-1]))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.recent.append(loss)

    def updates(self) -> list[float]:
        """How many times each group of what trains was changed."""
        firsts = [self.optimizer.state.get(one) for group in self.optimizer.param_groups for one in group["params"][:1]]
        return [float(first["step"]) if first else 0.0 for first in firsts]

    def _check(self, loss: float, step: int) -> None:
        """Raise DivergedError for a loss of a step that is not finite, or for RECENT of them that are high above a guess's."""
        at = f"at step {step + 1} with lr {self.config.lr:g}"
        if not math.isfinite(loss):
            raise DivergedError(f"The training loss is {loss} {at}")
        recent = [*self.recent, loss][-RECENT:]
        mean = sum(recent) / len(recent)
        if len(recent) == RECENT and mean > self.limit:
            raise DivergedError(
                f"The training loss has exploded: {mean:.2f} nats over {RECENT} steps, and a guess has {self.guess:.2f}, {at}"
            )

    def _micro_loss(self, micro: np.ndarray, step: int, number: int) -> Tensor:
        torch.manual_seed(self.dropout_seed(step, number))
        # A worker left without a row still takes part in DDP's exchange, with a loss that weighs nothing.
        with self.autocast:
            loss: Tensor = self.loss_sum(*collate(self.tokens, micro if len(micro) else [0], self.device))
        return loss if len(micro) else loss * 0.0

    def dropout_seed(self, step: int, micro: int) -> int:
        """Of all that is drawn in a part of a step."""
        seed = np.random.SeedSequence((self.config.seed, step, micro)).generate_state(1, np.uint64)[0]
        return int(seed) & 0x7FFF_FFFF_FFFF_FFFF

    def _no_sync(self, *, last: bool) -> Any:
        if isinstance(self.loss_sum, DistributedDataParallel) and not last:
            return self.loss_sum.no_sync()
        return nullcontext()


def parameter_groups(model: GPT2, config: RunConfig) -> list[dict[str, Any]]:
    """What trains, in the optimizer's groups; the learning rate of each is its `factor` times `learning_rate`.

    With LoRA+ (Hayou et al. 2024, arXiv 2402.12354), B of each pair learns `lora_plus` times as fast as A.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in checkpoints.trained(model).items():
        groups.setdefault(config.lora_plus if ".lora_B." in name else 1.0, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in (groups or {1.0: []}).items()]


def epoch_sizes(config: RunConfig, examples: int) -> list[int]:
    """How many examples each epoch trains on, the first ones: all in the last, and before it always `growth` times fewer.

    With growth above 1, the size of the training set is what a scheduler that stops trials early has measured them on.
    """
    least = min(examples, config.batch_size)
    return [
        max(least, math.ceil(examples / config.growth ** (config.epochs - epoch)))
        for epoch in range(1, config.epochs + 1)
    ]


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then constant, or cosine down to a tenth (Loshchilov & Hutter 2017)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
