"""Forecasts a search by timing a few real steps and evaluations, and compares the forecast with the actual cost."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from gpt2core.checkpoints.layout import KEPT
from gpt2core.component import Decides
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.data.order import epoch_sizes
from gpt2core.describe import count_trainable
from gpt2core.errors import DivergedError, UserError
from gpt2core.estimates import Range
from gpt2core.identity import identity
from gpt2core.machine import process_memory_gb
from gpt2core.pretrain_stage import first_stage
from gpt2core.speed import (
    EvaluationTime,
    evaluation_seconds,
    gpu_memory_gb,
    step_memory_gb,
    step_seconds,
    threads,
    timed_gpu_memory_gb,
)
from gpt2core.storage import size
from gpt2core.training import scored_at_end
from searches.deciding.comparing import judges_of
from searches.domains import Choice, Domain
from searches.formatting import count
from searches.options import Options
from searches.pairs import pairs_seconds
from searches.plan import Plan
from searches.planning.forecast import NOTHING, Outlook, TrialCost, predict, trials_of
from searches.planning.plan_table import show_prediction
from searches.result_files import TRIALS
from searches.running.budget import BUDGET, phase_of, spent
from searches.running.ledger import COMPLETED, Ledger, State
from searches.running.quantities import Forecast, Quantity
from searches.running.resources import local_spec
from searches.summary import Spending
from trainables.trial import TrialSpec
from trainables.worker_cache import starting_model, task_data

DRAWN = 32  # random points that stand for those that the sampler will propose
SHARED_STAGES = 3  # up to this number of first stages, each is assumed to be trained once, not in every trial
# Bytes of a trainable parameter in an epoch's checkpoint (weight and two moments), and in the best weights of an older epoch.
EPOCH, BEST = 12, 4
IN_A_PLAN, IN_A_SEARCH = 5.0, 1.0  # seconds of timing
WORKERS_MORE = 1.5  # by how much a trial's process may exceed this one's memory, since it runs longer

Key = tuple[tuple[str, Any], ...]
T = TypeVar("T")


@dataclass(kw_only=True)
class Meter:
    """Times each kind of step and evaluation once, for `patience` seconds in all; later kinds get the nearest kind's time."""

    workers: int
    pack: int = 1  # trials per process; packed trials are assumed to save nothing
    patience: float
    begun: float = field(default_factory=time.monotonic)
    steps: dict[Key, Range] = field(default_factory=dict)
    evaluations: dict[Key, EvaluationTime] = field(default_factory=dict)
    memory: dict[Key, Range] = field(default_factory=dict)  # of steps
    before: float = 0.0  # memory of this process before the first step, in GB
    largest: int = 1  # batch size timed

    def step(self, config: RunConfig) -> Range:
        """Return the seconds of an optimizer step of one of the trial's workers."""
        part, known = self._part(config), len(self.steps)
        if not known:
            _ = starting_model(part.model, None), task_data(part)
            self.before = process_memory_gb()
        seconds = self._get(self.steps, "step", part, step_seconds)
        if len(self.steps) > known:
            self.largest = max(self.largest, part.batch_size)
        return seconds * self.pack

    def gpu_memory_gb(self, config: RunConfig, seen: float) -> Range:
        """Return the predicted GPU memory of a step, with the peak that was `seen` in the timed steps as upper bound."""
        predicted = self._get(self.memory, "step", self._part(config), step_memory_gb)
        return replace(predicted, high=max(predicted.value, seen))

    def process_memory_gb(self, config: RunConfig) -> Range:
        """Return the memory of a trial's process: this process's, and more for batches larger than those timed."""
        held, size = process_memory_gb(), self._part(config).batch_size
        value = held + max(0.0, held - self.before) * (max(1.0, size / self.largest) - 1)
        return Range(value=value, low=held / WORKERS_MORE, high=value * WORKERS_MORE)

    def evaluation(self, config: RunConfig) -> EvaluationTime:
        """Return the seconds of an evaluation."""
        scoring, generating = self._get(self.evaluations, "evaluation", config, evaluation_seconds)
        return EvaluationTime(scoring * self.pack, generating * self.pack)

    def _part(self, config: RunConfig) -> RunConfig:
        """Return the run of one of the trial's workers."""
        return config.but(batch_size=math.ceil(config.batch_size / self.workers))

    def _get(self, known: dict[Key, T], what: Decides, config: RunConfig, measure: Callable[..., T]) -> T:
        deciding, keys = identity(config), keys_that_decide(what)
        key = tuple((name, deciding[name]) for name in keys if name in deciding)
        if key in known:
            return known[key]
        task = ("task", config.task)
        of_task = [other for other in known if task in other]  # times of other tasks are no estimates
        if of_task and time.monotonic() - self.begun > self.patience:
            return known[max(of_task, key=lambda other: len(set(other) & set(key)))]
        base, data = starting_model(config.model, None), task_data(config)
        known[key] = measure(config, base, data, patience=self.patience / 4)
        return known[key]


def prediction(plan: Plan, spec: TrialSpec, price: float | None, results: Path, *, patience: float) -> Forecast:
    """Time the plan's configurations for about `patience` seconds; return the forecast. `results` is the search's folder.

    Raises UserError if model or data cannot be read, DivergedError if the model's loss is not finite.
    """
    whole = {"folds": 1, "scored_on": "dev"} if plan.comparing.folds > 1 else {}
    unknown = {"pairs_examples": 0} if plan.search.learns_from_pairs else {}  # pairs do not exist yet
    known, drawn = ([run.but(**whole, **unknown) for run in runs] for runs in configurations(plan))
    with threads(spec.cpus_per_worker):
        outlook = _outlook(known, drawn, Meter(workers=spec.workers, pack=spec.pack, patience=patience))
    if (folds := plan.comparing.folds) > 1:
        known_costs, drawn_costs = (
            [_in_folds(cost, folds) for cost in part] for part in (outlook.known, outlook.drawn)
        )
        outlook = replace(outlook, known=known_costs, drawn=drawn_costs)
    with threads(1):
        outlook = replace(outlook, pairs=pairs_seconds(plan, spec, results, patience=patience))
    judges = judges_of(plan.comparing, task_data(known[0]), plan.profile.folds, known[0].dev_examples)
    again_cost = judges.cost(known[0].train_examples)
    ranges, notes = predict(plan, outlook, spec, price, again_cost), _notes(plan, spec)
    starting_model.cache_clear()  # trials hold the weights, so this process need not
    trials, replicates = trials_of(plan), plan.profile.replicates
    return Forecast(ranges=ranges, trials=trials, replicates=replicates, gpu_gb=gpu_memory_gb(), notes=notes)


def configurations(plan: Plan) -> tuple[list[RunConfig], list[RunConfig]]:
    """Return the runs of the plan's known points, and of random points that stand for those that the sampler will propose."""
    random = np.random.default_rng(plan.seed)
    drawn = [{k: draw(d, random) for k, d in plan.space.items()} for _ in range(DRAWN)]
    known, others = ([plan.config(point) for point in points] for points in (plan.known_points(), drawn))
    return known, others


def unless_refused(predict: Callable[[], T]) -> T | str:
    """Return a prediction, or one line that says why there is none; a search can do without."""
    try:
        return predict()
    except (UserError, DivergedError) as error:
        return " ".join(str(error).split())


def draw(domain: Domain, random: np.random.Generator) -> Any:
    """Draw a random value of a domain."""
    if isinstance(domain, Choice):
        return domain.values[int(random.integers(len(domain.values)))]
    return domain.at(float(random.uniform()))


def _in_folds(cost: TrialCost, folds: int) -> TrialCost:
    """Return the cost of a cross-validated trial: each fold trains on all the others."""
    return replace(cost, step=cost.step * (folds - 1), evaluation=cost.evaluation * folds, disk_gb=cost.disk_gb * folds)


def _outlook(known: list[RunConfig], drawn: list[RunConfig], meter: Meter) -> Outlook:
    """Return the costs of runs; the reference comes first, so it is always timed."""
    stages = list(dict.fromkeys(stage for run in (*known, *drawn) if (stage := first_stage(run))))
    shared = len(stages) <= SHARED_STAGES
    once = sum((_cost(stage, NOTHING, meter).seconds(stage.epochs) for stage in stages if shared), NOTHING)

    def cost(run: RunConfig) -> TrialCost:
        stage = None if shared else first_stage(run)
        before = _cost(stage, NOTHING, meter).seconds(stage.epochs) if stage else NOTHING
        return _cost(run, before, meter)

    costs = [cost(run) for run in (*known, *drawn)]
    return Outlook(known=costs[: len(known)], drawn=costs[len(known) :], once=once)


def _cost(run: RunConfig, before: Range, meter: Meter) -> TrialCost:
    rows = len(task_data(run).splits["train"])
    examples = min(rows, run.train_examples or rows)
    trainable = count_trainable(run)
    step, (scoring, generating), seen = meter.step(run), meter.evaluation(run), timed_gpu_memory_gb()
    whole, at_end = scoring + generating, scored_at_end(run)
    return TrialCost(
        steps=tuple(math.ceil(size / run.batch_size) if trainable else 0 for size in epoch_sizes(run, examples)),
        step=step,
        evaluation=scoring if at_end else whole,
        at_end=whole if at_end else NOTHING,
        before=before,
        memory_gb=meter.process_memory_gb(run) if seen is None else meter.gpu_memory_gb(run, seen),
        disk_gb=(EPOCH * min(KEPT, run.epochs) + BEST * (run.epochs > KEPT)) * trainable / 1e9,
    )


def _notes(plan: Plan, spec: TrialSpec) -> list[str]:
    """Return the assumptions of a forecast."""
    base = starting_model(plan.config(plan.search.reference).model, None)
    parameters = sum(tensor.numel() for tensor in base.parameters())
    each = "each" if spec.pack == 1 else f"every {spec.pack} of them"
    cpus, gpus = count(spec.workers * spec.cpus_per_worker, "CPU"), spec.workers * spec.gpus_per_worker
    notes = [
        f"{count(spec.concurrent, 'trial')} at once, {each} with {cpus} and {f'{gpus:g} GPUs' if gpus else 'no GPU'}"
    ]
    if not gpus:
        notes.append("without GPUs, GPU-hours and money are 0, and memory is that of a process")
    if spec.workers > 1:
        notes.append("communication between a trial's workers is not included")
    if plan.search.learns_from_pairs:
        notes.append("epochs do not include the generated pairs, whose number is not known yet")
    return [*notes, f"the exported model takes {4 * parameters / 1e9:.2g} GB more"]


def forecast_locally(options: Options, folder: Path) -> Forecast | str:
    """Return the forecast for this machine, without Ray, or one line that says why there is none."""
    plan, price = options.plan, options.budget.usd_per_gpu_hour
    if plan.program is not None:
        return "a program is not timed before it runs"
    predicted = unless_refused(lambda: prediction(plan, local_spec(options, folder), price, folder, patience=IN_A_PLAN))
    if not isinstance(predicted, str) and (cluster := os.environ.get("RAY_ADDRESS")):
        notes = [*predicted.notes, f"timed on this machine: the cluster at {cluster} will differ"]
        return predicted.model_copy(update={"notes": notes})
    return predicted


def record_forecast(options: Options, ledger: Ledger, spec: TrialSpec, console: Console) -> None:
    """Forecast a search and record it, once, and again after a request for more trials. It takes seconds.

    A GPU is timed where the trials will run, by a Ray task that releases it.
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


def actual_costs(options: Options, state: State, folder: Path) -> dict[Quantity, float | None]:
    """Return the actual value of each quantity of a forecast; None if unknown. `folder` is the results folder."""
    used = spent(options.budget, state)
    whole = [state.clock.trials.get(trial.name, 0.0) for trial in state.trials.values() if trial.status == COMPLETED]
    memory = "gpu_memory_gb" if state.clock.gpus else "process_memory_gb"
    held = [r.metrics[memory] for t in state.trials.values() for r in t.reports.values() if memory in r.metrics]
    return {
        "trials": len(state.trials),
        "epochs": sum(len(trial.reports) for trial in state.trials.values()),
        "trial_seconds": sum(whole) / len(whole) if whole else None,
        "hours": used.hours,
        "gpu_hours": used.gpu_hours,
        "cpu_hours": used.cpu_hours,
        "usd": used.usd,
        "memory_gb": max(held, default=None),
        "disk_gb": size(folder / TRIALS) / 1e9,
    }


def spending(options: Options, state: State) -> Spending:
    """Return the limits of the budget, what is spent, and whether the budget ended the search."""
    budget, plan = options.budget, options.plan
    cut_short = len(state.searched) < trials_of(plan) and phase_of(budget, plan, state) != "search"
    ended = cut_short or any(trial.reason == BUDGET for trial in state.trials.values())
    used = asdict(spent(budget, state))
    return Spending(limits=budget.limits, usd_per_gpu_hour=budget.usd_per_gpu_hour, spent=used, ended=ended)
