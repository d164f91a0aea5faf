"""The training loop. `train` yields one report per epoch, so its consumer decides when to stop.

A report depends only on the configuration: batches depend on (seed, epoch), dropout on (seed, step, example). So losses stay the
same if a run is resumed or distributed over workers; on a GPU, dropout also depends on how a batch is divided.

The loop requests optimizer steps (`gpt2core.steps`), which `gpt2core.run.Run.step` takes, or `gpt2core.packing` for several runs
at once.
"""

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2core.checkpoints.best import best_epoch, load_best_on_all
from gpt2core.checkpoints.layout import ORIGINS, History
from gpt2core.checkpoints.reading import check_origins
from gpt2core.checkpoints.resuming import Resumed, resume, resume_part
from gpt2core.checkpoints.saving import Pace, Saving, rewrite_history, save, save_part
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, DataError, DivergedError, first_line
from gpt2core.loss_scaling import ScaledAdamW
from gpt2core.metrics import counts
from gpt2core.metrics.losses import perplexity
from gpt2core.metrics.metric import Metric
from gpt2core.model import GPT2
from gpt2core.multitask.run import start_run
from gpt2core.run import RECENT, Run
from gpt2core.steps import Events, Outcome, Step, StepResult, advance, take_steps
from gpt2core.tasks import TASKS, Evaluation, TaskData
from gpt2core.tasks.base import objective_of
from gpt2core.workers import ALONE, Workers, sharing


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The results of one epoch. `metrics` holds train_loss (nats per token) and the scores on the texts that choose.

    `judged` are the scores on the texts that judge, if these are scored. `origins` are digests, see `layout.ORIGINS`.
    `notes` are warnings for the user. `seconds` is the time since the last report by kind of work.
    `best`, in the last report, is the whole report of the best epoch, if `scored_at_end` left a part of it to the end.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    evaluation: Evaluation = field(default_factory=lambda: Evaluation(metrics={}))
    judged: Evaluation | None = None
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    best: "EpochReport | None" = None


@dataclass(frozen=True)
class EpochProgress:
    """The progress within an epoch: steps taken, the sum of their losses, their seconds, and the last mean losses."""

    steps: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    recent: Sequence[float] = ()


UNBEGUN = EpochProgress()


def train(
    config: RunConfig, base: GPT2, data: TaskData, *, folder: Path | None = None, workers: Workers = ALONE
) -> Iterator[EpochReport]:
    """Train for `config.epochs` epochs and yield a report after each; with `folder`, resume from its last checkpoint.

    The checkpoint of an epoch is on disk before the epoch is reported. A resumed run first reports the epochs of its history, so
    a consumer always sees each epoch once. `notes` of the first report name damaged checkpoints.

    Raises DivergedError if the loss is NaN or diverges, ConfigError for an objective that the task lacks, CheckpointError if the
    folder belongs to another configuration or a checkpoint cannot be written.
    """
    last = config.epochs if folder and scored_at_end(config) else None
    yield from take_steps(with_best(loop(config, base, data, folder=folder, workers=workers), last))


def with_best(run: Events[EpochReport], last: int | None) -> Events[EpochReport]:
    """Yield the events of a run, but the report of epoch `last` only together with the next one, of the best epoch."""
    event = advance(run, None)
    while event is not None:
        if isinstance(event, EpochReport) and event.epoch == last:
            event = joined(event, advance(run, None))
        event = advance(run, (yield event))


def joined(last: EpochReport, best: "Step | EpochReport | None") -> EpochReport:
    """Return the report of the last epoch with that of the best epoch, and the time that both took."""
    if not isinstance(best, EpochReport):
        return last
    return replace(last, best=best, seconds=dict(Counter(last.seconds) + Counter(best.seconds)))


def scored_at_end(config: RunConfig) -> bool:
    """Whether only the best epoch of a run with a folder is scored in full, at the end, when its weights are read again.

    Texts that judge choose no epoch, and neither do generated texts if the loss is the objective.
    """
    task = TASKS[config.task]
    generates = task.generates and config.decode_seeds > 0 and not objective_of(task, config).needs_texts
    return config.epochs > 1 and not config.score_every_epoch and (generates or config.judged)


def loop(
    config: RunConfig,
    base: GPT2,
    data: TaskData,
    *,
    folder: Path | None,
    workers: Workers = ALONE,
    preempted: Callable[[], bool] = lambda: False,
    until: int | None = None,
    pace: Pace | None = None,
    joint_best: Callable[[], int] | None = None,
) -> Events[EpochReport]:
    """Yield reports as `train`, but request the steps. For rounds of cross-validation, see `gpt2core.folds`.

    With a `folder`, a run that is `scored_at_end` reports its best epoch again after the last one. In a round, that is the epoch
    that `joint_best` returns, whose weights the round keeps.

    The loop ends after epoch `until`, whose checkpoint has optimizer state, so that another run can continue from it. `pace`
    chooses the other epochs that have (default: all). A resumed run trains the epochs after the last one that has again, but does
    not evaluate them, since their reports are on record.

    If `preempted` returns True after a step, because the machine is about to be taken away, the unfinished epoch is saved.
    The checkpoint of an epoch is written while the epoch is evaluated.
    """
    started = time.perf_counter()
    if config.is_round:
        raise ValueError("a round of cross-validation needs `gpt2core.folds`")
    run = start_run(config, base, data, workers)
    run.use_cached_activations()
    notes: list[str] = []
    resumed = _resume(run, folder, notes.append) if folder else Resumed([], 0)
    seconds = defaultdict(float, data=time.perf_counter() - started)
    for past in resumed.history:
        yield replace(_report_of(past, folder), notes=notes)
        notes = []
    history, recorded = resumed.history, len(resumed.history)
    writable = folder if workers.rank == 0 else None  # one worker writes for all
    at_end = bool(folder) and scored_at_end(config)
    last = until or config.epochs
    if recorded >= last:  # only the best weights may have to be trained again
        last = resumed.lost
    first, progress = _resume_epoch(run, folder, resumed, last)
    pace = pace or Pace()
    for epoch in range(first, last + 1):
        trained = yield from train_epoch(run, epoch, progress, writable, preempted)
        progress = UNBEGUN
        optimizer = run.optimizer if pace.chooses(epoch) or epoch == until else None
        if epoch <= recorded:  # its report was yielded above
            seconds["train"] += trained.get("train_seconds", 0.0)
            if writable and (optimizer or epoch == resumed.lost):
                save(writable, config, run.model, optimizer, history[:epoch], best=epoch == resumed.lost)
            continue
        report = _evaluate_and_save(
            run, epoch, trained, history, writable, optimizer, at_end=at_end, keeps=not joint_best
        )
        for kind, spent in report.seconds.items():
            seconds[kind] += spent
        yield replace(report, notes=notes, seconds=dict(seconds))
        notes, seconds = [], defaultdict(float)
    best = joint_best() if joint_best else best_epoch(history)
    if at_end and folder and best and len(history) == config.epochs:
        yield _score_best(run, folder, history, best, trained=max(first - 1, last))


def _resume(run: Run, folder: Path, say: Callable[[str], None]) -> Resumed:
    """Load the last checkpoint in `folder` into the run. Raises CheckpointError if it does not belong to the run."""
    resumed = resume(folder, run.config, run.model, run.optimizer, say=say, writes=run.workers.rank == 0)
    check_origins(resumed.history, run.origins, folder)
    epochs, most = len(resumed.history), run.config.epochs
    if epochs > most:
        raise CheckpointError(
            f"{folder}: has {epochs} epochs, more than `epochs`, which is {most}; set `epochs` to as many, or choose another "
            "folder or --name"
        )
    return resumed


def _resume_epoch(run: Run, folder: Path | None, resumed: Resumed, last: int) -> tuple[int, EpochProgress]:
    """Return the first epoch to train, and its progress if it was saved unfinished and is loaded now."""
    first = resumed.epoch + 1
    if folder and first <= last:
        # No later epoch: the lost best epoch, or else the first one without a report, must be finished first.
        wanted = range(first, (resumed.lost or len(resumed.history) + 1) + 1)
        if part := resume_part(folder, run.config, run.model, run.optimizer, wanted):
            epoch, progress = part
            return epoch, EpochProgress(**progress)
    return first, UNBEGUN


def _evaluate_and_save(
    run: Run,
    epoch: int,
    trained: dict[str, float],
    history: History,
    folder: Path | None,
    optimizer: ScaledAdamW | None,
    *,
    at_end: bool,
    keeps: bool,
) -> EpochReport:
    """Evaluate an epoch while its checkpoint is written to `folder`; add it to `history`; return its report.

    With `at_end`, only what chooses the best epoch is scored. With `keeps`, the weights of the best epoch are kept.
    """
    started = time.perf_counter()
    saving: AbstractContextManager[Saving | None] = nullcontext()
    if folder:
        saving = Saving(folder, run.config, run.model, optimizer, epoch)
    with saving as checkpoint:
        waited = time.perf_counter() - started
        report = evaluate_epoch(run, epoch, trained, at_end=at_end)
        started = time.perf_counter()
        best = is_best(history, report.metrics, run.objective)
        history.append(_record(report) | {"best": best})
        if checkpoint:
            checkpoint.finish(history, best=best and keeps)
    waited += time.perf_counter() - started
    return replace(report, seconds=report.seconds | {"checkpoint": waited})


def train_epoch(
    run: Run,
    epoch: int,
    progress: EpochProgress = UNBEGUN,
    folder: Path | None = None,
    preempted: Callable[[], bool] = lambda: False,
) -> Generator[Step, Outcome, dict[str, float]]:
    """Request the remaining steps of an epoch; return its metrics. `train_loss` is in nats per token or example.

    With `folder`, the unfinished epoch is saved there after a step if `preempted` returns True.

    Losses are checked in order, on a GPU some steps behind. So a run that diverges takes a few more steps, but these are neither
    evaluated nor saved.
    """
    if not run.trainable:
        return {"trainable_parameters": 0}
    run.model.train()
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    unread: deque[tuple[Step, StepResult]] = deque()
    batches, first_step = run.batches(epoch), int(run.first_steps[epoch - 1])
    for number, batch in islice(enumerate(batches), progress.steps, None):
        step = Step(run, first_step + number, batch, run.token_count(batch))
        result = yield step
        if not isinstance(result, StepResult):
            raise result or RuntimeError("the step was not taken")
        unread.append((step, result))
        while len(unread) > behind(run.device):
            progress = _read(run, progress, *unread.popleft())
        if folder and preempted():
            with suppress(DivergedError):  # all workers raise it after the same step
                part = reduce(lambda before, pair: _read(run, before, *pair), unread, progress)
                save_part(folder, run.config, run.model, run.optimizer, epoch, asdict(part))
    for pair in unread:
        progress = _read(run, progress, *pair)
    return _training_metrics(run, batches, progress)


def _training_metrics(run: Run, batches: Sequence[np.ndarray], progress: EpochProgress) -> dict[str, float]:
    """Return the metrics of an epoch, the steps on whose batches have all been taken."""
    gpu = run.device.type == "cuda"
    return {
        "train_loss": progress.losses / sum(map(run.weight, batches)),
        "train_examples": sum(map(len, batches)),
        "train_seconds": progress.seconds,
        "tokens_per_second": sum(map(run.token_count, batches)) / progress.seconds,
        "trainable_parameters": run.trainable,
        **({} if run.kept is None else {"kept_parameters": run.kept}),
        "predicted_gpu_memory_gb": run.predicted_gpu_memory_gb,
        **({"gpu_memory_gb": torch.cuda.max_memory_allocated(run.device) / 1e9} if gpu else {}),
    }


def behind(device: torch.device) -> int:
    """Return how many steps a device may be given before their losses are read, so that a GPU does not wait for this process."""
    return 2 if device.type == "cuda" else 0


def _read(run: Run, progress: EpochProgress, step: Step, result: StepResult) -> EpochProgress:
    """Return the progress after a step, whose result is waited for; raise DivergedError."""
    recent = [*progress.recent, result.loss / run.weight(step.batch)][-RECENT:]
    run.check_losses(step.number, recent)
    return EpochProgress(progress.steps + 1, progress.losses + result.loss, progress.seconds + result.seconds, recent)


def evaluate_epoch(run: Run, epoch: int, trained: dict[str, float], *, at_end: bool = False) -> EpochReport:
    """Evaluate the model and return the report of an epoch, given the metrics of its training; raise DivergedError.

    With `at_end`, only what chooses the best epoch is scored.
    """
    started = time.perf_counter()
    run.model.train(False)
    step = int(run.first_steps[epoch])
    with _scoring(run, step):
        evaluation = _choosing_scores(run, generates=not at_end)
        judged = None if at_end else _judging_scores(run)
    elapsed = time.perf_counter() - started
    metrics = {**trained, "eval_seconds": elapsed, **evaluation.metrics}
    if "train_loss" in metrics and "dev_perplexity" in metrics and run.config.loss == "likelihood":
        metrics["train_perplexity"] = perplexity(metrics["train_loss"])
    return EpochReport(
        epoch=epoch,
        step=step,
        metrics=metrics,
        evaluation=evaluation,
        judged=judged,
        origins=run.origins,
        seconds={"train": trained.get("train_seconds", 0.0), **_seconds(elapsed, evaluation, judged)},
    )


def _score_best(run: Run, folder: Path, history: History, epoch: int, *, trained: int) -> EpochReport:
    """Score the best epoch in full, unless that is on record; return its report. The model has the weights of epoch `trained`."""
    past = _report_of(history[epoch - 1], folder)
    if history[epoch - 1].get("scored_at_end"):
        return past
    started = time.perf_counter()
    if trained != epoch:
        load_best_on_all(folder, run.model, epoch, run.workers)
    run.model.train(False)
    evaluation = past.evaluation
    with _scoring(run, past.step):
        if not run.objective.needs_texts and run.task.generates and not _repeats(run.config):
            evaluation = _choosing_scores(run, generates=True)
        judged = _judging_scores(run)
    elapsed = time.perf_counter() - started
    metrics = {**past.metrics, **evaluation.metrics, "eval_seconds": past.metrics["eval_seconds"] + elapsed}
    seconds = _seconds(elapsed, evaluation, judged)
    report = replace(past, metrics=metrics, evaluation=evaluation, judged=judged, seconds=seconds)
    history[epoch - 1] = {**history[epoch - 1], **_record(report), "scored_at_end": True}
    if run.workers.rank == 0:
        rewrite_history(folder, run.config, history)
    return report


def _seconds(elapsed: float, evaluation: Evaluation, judged: Evaluation | None) -> dict[str, float]:
    """Return the time of evaluations by kind of work."""
    generated = evaluation.generate_seconds + (judged.generate_seconds if judged else 0.0)
    return {"evaluate": elapsed - generated, "generate": generated}


@contextmanager
def _scoring(run: Run, step: int) -> Iterator[None]:
    """Let the workers share the work of scoring, after which all have the scores; raise DivergedError in all workers.

    Scores are computed in float32, so that they do not depend on the GPU: in bfloat16, the dev loss of gpt2-nano on sonnets is
    0.0003 nats higher.
    """
    try:
        with sharing(run.workers):
            yield
    except DivergedError:
        raise DivergedError(f"The dev loss is not finite after step {step} with lr {run.config.lr:g}") from None


def _choosing_scores(run: Run, *, generates: bool) -> Evaluation:
    """Score the texts that choose. If the loss is the objective, texts are generated only on request."""
    return _scores_on(run, run.config.choosing, generates=generates and not _repeats(run.config))


def _repeats(config: RunConfig) -> bool:
    """Whether another sub-run continues the same texts. Generation takes long, so where the loss decides, only the first does."""
    return (config.fold or 1) > 1 and config.choosing == "dev"


def _judging_scores(run: Run) -> Evaluation | None:
    """Score the texts that judge, if there are any. No text is generated for them if the loss is the objective."""
    judging = run.config.judging
    if not judging or not len(run.data.splits[judging]):
        return None
    return _scores_on(run, judging, generates=False)


def _scores_on(run: Run, split: str, *, generates: bool) -> Evaluation:
    """Score a split; where the loss is the objective, without generated texts unless it `generates`."""
    silent = not run.objective.needs_texts and not generates
    config = run.config.but(decode_seeds=0) if silent else run.config
    return run.task.evaluate(run.model, run.data.scored_on(split), config, "dev")


# -- the history that checkpoints keep


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


def _report_of(past: dict[str, Any], folder: Path | None) -> EpochReport:
    judged = past.get("judged")
    try:
        return EpochReport(
            epoch=past["epoch"],
            step=past["step"],
            metrics=past["metrics"],
            evaluation=_evaluation(past),
            judged=judged and _evaluation(judged),
            origins={key: past[key] for key in ORIGINS if key in past},
        )
    except (KeyError, DataError) as error:
        raise CheckpointError(
            f"{folder}: the record of epoch {past['epoch']} is damaged ({first_line(error)}); remove the folder to start over"
        ) from None


def _evaluation(past: dict[str, Any]) -> Evaluation:
    values = {key: past[key] for key in ("metrics", "samples", "tables")}
    return Evaluation(**values, statistics=counts.from_json(past["statistics"]))


def is_best(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], objective: Metric) -> bool:
    """Return whether an epoch is better than all earlier ones; a value that is not finite never is."""
    value = metrics.get(objective.name, math.nan)
    before = [past["metrics"].get(objective.name, math.nan) for past in history]
    return math.isfinite(value) and all(objective.direction.better(value, b) for b in before if math.isfinite(b))
