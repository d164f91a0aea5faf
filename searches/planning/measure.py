"""What a search will take, predicted from a few real steps and evaluations before it begins, and laid beside what it took."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from gpt2core.builders import epoch_sizes
from gpt2core.checkpoints import KEPT
from gpt2core.component import Decides
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.describe import count_trainable
from gpt2core.errors import DivergedError, UserError
from gpt2core.estimates import Range, exactly, predicted_gpu_memory_gb
from gpt2core.identity import identity
from gpt2core.memory import process_memory_gb
from gpt2core.pretrain_stage import first_stage
from gpt2core.speed import evaluation_seconds, gpu_memory_gb, step_seconds, threads, timed_gpu_memory_gb
from gpt2core.storage import size
from searches.deciding.comparing import judges_of
from searches.formatting import count
from searches.options import Options
from searches.pairs import pairs_seconds
from searches.planning.forecast import Outlook, TrialCost, predict, trials_of
from searches.planning.plan_table import show_prediction
from searches.question import Choice, Domain, LogUniform, Plan
from searches.running.budget import BUDGET, phase_of, spent
from searches.running.ledger import COMPLETED, Ledger, State
from searches.running.quantities import Forecast, Quantity
from searches.running.resources import local_spec
from searches.summary import Spending, Summary
from trainables.trial import TrialSpec
from trainables.worker_cache import starting_model, task_data

DRAWN = 32  # points of the space that stand for what the sampler will propose
SHARED_STAGES = 3  # first stages up to which they are taken to be made once each, and not in every trial
# Bytes of a trained parameter in checkpoints: of each epoch weight and two moments; the best weights.
EPOCH, BEST = 12, 4
IN_A_PLAN, IN_A_SEARCH = 5.0, 2.0  # seconds of timing
WORKERS_MORE = 1.5  # how much more memory than this process a trial's may hold: what a longer run leaves behind

Key = tuple[tuple[str, Any], ...]
Measure = Callable[..., Range]
T = TypeVar("T")


@dataclass(kw_only=True)
class Meter:
    """Times each kind of step and evaluation once, as long as `patience` seconds last; then the nearest kind's stands in."""

    workers: int
    pack: int = 1  # trials that take turns, or go together, which takes no less
    patience: float
    begun: float = field(default_factory=time.monotonic)
    steps: dict[Key, Range] = field(default_factory=dict)
    evaluations: dict[Key, Range] = field(default_factory=dict)
    before: float = 0.0  # gigabytes that this process held before the first step
    largest: int = 1  # batch size that was timed

    def step(self, config: RunConfig) -> Range:
        """Seconds of an optimizer step of one of the trial's workers."""
        part, known = config.but(batch_size=math.ceil(config.batch_size / self.workers)), len(self.steps)
        if not known:
            _ = starting_model(part.model, None), task_data(part)
            self.before = process_memory_gb()
        seconds = self._get(self.steps, "step", part, step_seconds)
        if len(self.steps) > known:
            self.largest = max(self.largest, part.batch_size)
        return seconds

    def process_memory_gb(self, config: RunConfig) -> Range:
        """What a trial's process holds: as much as this one does, and more where its batches are larger than any that was
        timed."""
        held, size = process_memory_gb(), math.ceil(config.batch_size / self.workers)
        value = held + max(0.0, held - self.before) * (max(1.0, size / self.largest) - 1)
        return Range(value=value, low=held / WORKERS_MORE, high=value * WORKERS_MORE)

    def evaluation(self, config: RunConfig) -> Range:
        """Seconds of an evaluation."""
        return self._get(self.evaluations, "evaluation", config, evaluation_seconds)

    def _get(self, known: dict[Key, Range], what: Decides, config: RunConfig, measure: Measure) -> Range:
        deciding, keys = identity(config), keys_that_decide(what)
        key = tuple((name, deciding[name]) for name in keys if name in deciding)
        if key in known:
            return known[key]
        task = ("task", config.task)
        of_task = [other for other in known if task in other]  # tasks differ too much to stand in for each other
        if of_task and time.monotonic() - self.begun > self.patience:
            return known[max(of_task, key=lambda other: len(set(other) & set(key)))]
        base, data = starting_model(config.model, None), task_data(config)
        known[key] = measure(config, base, data, patience=self.patience / 4) * self.pack
        return known[key]


def prediction(plan: Plan, spec: TrialSpec, price: float | None, results: Path, *, patience: float) -> Forecast:
    """Time the plan's configurations for about `patience` seconds; return what the search takes by them.

    `results` is the folder that the search has, or would have.
    Raises UserError where model or data cannot be had, DivergedError where the model gives no finite loss.
    """
    known = [_config(plan, point) for point in plan.known_points()]
    random = np.random.default_rng(plan.seed)
    drawn = [_config(plan, {k: draw(d, random) for k, d in plan.space.items()}) for _ in range(DRAWN)]
    with threads(spec.cpus_per_worker):
        outlook = _outlook(known, drawn, Meter(workers=spec.workers, pack=spec.pack, patience=patience))
    if (folds := plan.comparing.folds) > 1:
        known_costs, drawn_costs = ([_in_folds(one, folds) for one in part] for part in (outlook.known, outlook.drawn))
        outlook = replace(outlook, known=known_costs, drawn=drawn_costs)
    with threads(1):
        outlook = replace(outlook, pairs=pairs_seconds(plan, spec, results, patience=patience))
    ranges = predict(
        plan, outlook, spec, price, judges_of(plan.comparing, task_data(known[0]), plan.profile.folds).cost
    )
    notes = _notes(plan, spec)
    starting_model.cache_clear()  # trials hold the weights; this process need not
    return Forecast(
        ranges=ranges,
        trials=trials_of(plan),
        replicates=plan.profile.replicates,
        gpu_gb=gpu_memory_gb(),
        notes=notes,
    )


def unless_refused(predict: Callable[[], T]) -> T | str:
    """What a prediction gives, or in one line why there is none: a search does not need it."""
    try:
        return predict()
    except (UserError, DivergedError) as error:
        return " ".join(str(error).split())


def draw(domain: Domain, random: np.random.Generator) -> Any:
    """A random value of a domain."""
    if isinstance(domain, Choice):
        return domain.values[int(random.integers(len(domain.values)))]
    if isinstance(domain, LogUniform):
        return float(np.exp(random.uniform(np.log(domain.low), np.log(domain.high))))
    return float(random.uniform(domain.low, domain.high))


def _config(plan: Plan, point: Mapping[str, Any]) -> RunConfig:
    """A point's run without folds, and without pairs that are to be generated first: they cannot be timed before they exist."""
    alone = {"folds": 1, "scored_on": "dev"} if plan.comparing.folds > 1 else {}
    return plan.config(point, **alone, **({"pairs_examples": 0} if plan.search.learns_from_pairs else {}))


def _in_folds(cost: TrialCost, folds: int) -> TrialCost:
    """What a trial takes that is scored by cross-validation: each fold is trained on all the others."""
    return replace(cost, step=cost.step * (folds - 1), evaluation=cost.evaluation * folds, disk_gb=cost.disk_gb * folds)


def _outlook(known: list[RunConfig], drawn: list[RunConfig], meter: Meter) -> Outlook:
    """What the trials of the given runs take; the reference, which comes first, is timed whatever it takes."""
    stages = list(dict.fromkeys(stage for run in (*known, *drawn) if (stage := first_stage(run))))
    shared = len(stages) <= SHARED_STAGES
    once = sum((_cost(stage, exactly(0.0), meter).seconds(stage.epochs) for stage in stages if shared), exactly(0.0))

    def cost(run: RunConfig) -> TrialCost:
        stage = None if shared else first_stage(run)
        before = _cost(stage, exactly(0.0), meter).seconds(stage.epochs) if stage else exactly(0.0)
        return _cost(run, before, meter)

    costs = [cost(run) for run in (*known, *drawn)]
    return Outlook(known=costs[: len(known)], drawn=costs[len(known) :], once=once)


def _cost(run: RunConfig, before: Range, meter: Meter) -> TrialCost:
    rows = len(task_data(run).splits["train"])
    examples = min(rows, run.train_examples or rows)
    trainable = count_trainable(run)
    step, evaluation, seen = meter.step(run), meter.evaluation(run), timed_gpu_memory_gb()
    return TrialCost(
        steps=tuple(math.ceil(size / run.batch_size) if trainable else 0 for size in epoch_sizes(run, examples)),
        step=step,
        evaluation=evaluation,
        before=before,
        memory_gb=meter.process_memory_gb(run) if seen is None else _gpu_memory(run, trainable, seen),
        disk_gb=(EPOCH * min(KEPT, run.epochs) + BEST) * trainable / 1e9,
    )


def _gpu_memory(run: RunConfig, trainable: int, seen: float) -> Range:
    """By the formula, and at most what a step was seen to take."""
    total = sum(tensor.numel() for tensor in starting_model(run.model, None).parameters())
    predicted = predicted_gpu_memory_gb(total, trainable)
    return Range(value=predicted, low=predicted, high=max(predicted, seen))


def _notes(plan: Plan, spec: TrialSpec) -> list[str]:
    """What a reader of the numbers must know."""
    parameters = sum(
        tensor.numel() for tensor in starting_model(plan.config(plan.search.reference).model, None).parameters()
    )
    notes = [
        f"{count(spec.concurrent, 'trial')} at once, {'each' if spec.pack == 1 else f'every {spec.pack} of them'} with "
        f"{count(spec.workers * spec.cpus_per_worker, 'CPU')}"
    ]
    notes[0] += f" and {spec.workers * spec.gpus_per_worker:g} GPUs" if spec.gpus_per_worker else " and no GPU"
    if not spec.gpus_per_worker:
        notes.append("without GPUs, GPU-hours and money are 0, and memory is that of a process")
    if spec.workers > 1:
        notes.append("what the workers of a trial exchange is not in these numbers")
    if plan.search.learns_from_pairs:
        notes.append(
            "the pairs that trials learn from are not in their epochs: nobody knows yet how many there will be"
        )
    return [*notes, f"the exported model takes {4 * parameters / 1e9:.2g} GB more"]


def forecast_locally(options: Options, folder: Path) -> Forecast | str:
    """What a search would take on this machine, without Ray; or in one line why that cannot be said."""
    price = options.budget.usd_per_gpu_hour
    found = unless_refused(
        lambda: prediction(options.plan, local_spec(options, folder), price, folder, patience=IN_A_PLAN)
    )
    if not isinstance(found, str) and os.environ.get("RAY_ADDRESS"):
        differs = f"timed on this machine: the cluster at {os.environ['RAY_ADDRESS']} will differ"
        return found.model_copy(update={"notes": [*found.notes, differs]})
    return found


def record_forecast(options: Options, ledger: Ledger, spec: TrialSpec, console: Console) -> None:
    """Predict what a search takes and note it once, and again where more trials are asked for since; it costs seconds.

    A GPU is timed where the trials will run, by a task that gives it back.
    """
    plan, noted = options.plan, ledger.state.forecast
    if noted.ranges and (noted.trials, noted.replicates) == (trials_of(plan), plan.profile.replicates):
        return
    price = options.budget.usd_per_gpu_hour
    ask = partial(unless_refused, partial(prediction, plan, spec, price, options.results_folder, patience=IN_A_SEARCH))
    if spec.gpus_per_worker:
        import ray

        task = ray.remote(num_gpus=spec.gpus_per_worker, num_cpus=spec.cpus_per_worker, max_calls=1)(ask.func)
        predicted = ray.get(task.remote(*ask.args))
    else:
        predicted = ask()
    if isinstance(predicted, str):
        show_prediction(predicted, console)
    else:
        ledger.record({"event": "plan", "plan": predicted.model_dump()})


def with_costs(summary: Summary, options: Options, state: State, folder: Path) -> Summary:
    """A summary with what was predicted beside what it came to, and the budget."""
    budget = options.budget
    used = spent(budget, state)
    whole = [state.clock.trials.get(trial.name, 0.0) for trial in state.trials.values() if trial.status == COMPLETED]
    memory = "gpu_memory_gb" if state.clock.gpus else "process_memory_gb"
    held = [r.metrics[memory] for t in state.trials.values() for r in t.reports.values() if memory in r.metrics]
    actual: dict[Quantity, float | None] = {
        "trials": len(state.trials),
        "epochs": sum(len(trial.reports) for trial in state.trials.values()),
        "trial_seconds": sum(whole) / len(whole) if whole else None,
        "hours": used.hours,
        "gpu_hours": used.gpu_hours,
        "cpu_hours": used.cpu_hours,
        "usd": used.usd,
        "memory_gb": max(held, default=None),
        "disk_gb": size(folder / "trials") / 1e9,
    }
    ended = any(trial.reason == BUDGET for trial in state.trials.values()) or (
        len(state.searched) < trials_of(options.plan) and phase_of(budget, options.plan, state) != "search"
    )
    spending = Spending(limits=budget.limits, usd_per_gpu_hour=budget.usd_per_gpu_hour, spent=asdict(used), ended=ended)
    return summary.model_copy(update={"forecast": state.forecast.rows(actual), "budget": spending})
