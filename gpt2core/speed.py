"""Estimate the speed of a run by timing a few of its steps and evaluations, with its device and threads."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit

from gpt2core.builders import build_model, device
from gpt2core.config import RunConfig
from gpt2core.decoding.text_cache import bypassing_text_cache
from gpt2core.errors import UserError
from gpt2core.estimates import Range, exactly
from gpt2core.model import GPT2
from gpt2core.multitask.run import start_run
from gpt2core.tasks import TASKS, TaskData

STEPS = 6  # timed, from short batches to long ones
EXAMPLES, TOKENS = 64, 8192  # at most, of the dev split, in a timed evaluation
SHORT, LONG = 4, 20  # new tokens of two timed generations, whose difference gives the time of a token
HARMLESS = 1e-9  # learning rate with which timed steps cannot diverge


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of threads of PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _fitting(config: RunConfig) -> Iterator[None]:
    """Turn exhausted GPU memory into a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"`{config.model}` with adapter `{config.adapter}` and batches of {config.batch_size} does not fit the GPU; "
            "--set accumulation=2 halves the micro-batches"
        ) from None


def gpu_count() -> int:
    """Return the number of GPUs of this machine."""
    return torch.cuda.device_count()


def gpu_memory_gb() -> float | None:
    """Return the memory of this process's GPU in gigabytes, or None without a GPU."""
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def timed_gpu_memory_gb() -> float | None:
    """Return the peak GPU memory of this process in gigabytes, or None without a GPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def step_seconds(config: RunConfig, base: GPT2, data: TaskData, *, patience: float) -> Range:
    """Return the mean seconds of an optimizer step with a 95% interval; 0 if nothing trains.

    No step starts after `patience` seconds, but at least two are timed. Raises UserError if the GPU is too small.
    """
    with _fitting(config):
        run = start_run(config.but(lr=HARMLESS, warmup_steps=0), base, data)
        if not run.trainable:
            return exactly(0.0)
        run.model.train()
        batches = spread(sorted(run.batches(config.epochs), key=run.padded_token_count))
        batches = run.keep(batches)  # so that only their activations are computed
        run.use_cached_activations(evaluates=False)

        def step(batch: np.ndarray) -> None:
            run.step(0, batch).item()  # waits for a GPU

        step(batches[0])  # warm-up
        return mean_range(timed([partial(step, batch) for batch in batches], patience))


def step_memory_gb(config: RunConfig, base: GPT2, data: TaskData, *, patience: float) -> Range:
    """Return the predicted peak GPU memory of an optimizer step; a second for gpt2-large, whatever `patience` says."""
    return exactly(start_run(config, base, data).predicted_gpu_memory_gb)


def spread(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return STEPS of the sorted batches, evenly spaced, the middle ones first. Their mean estimates that of all batches."""
    places = [(number + 0.5) / STEPS for number in range(STEPS)]
    places.sort(key=lambda place: abs(place - 0.5))
    return [batches[int(place * len(batches))] for place in places]


class EvaluationTime(NamedTuple):
    """The seconds of an evaluation on the dev split: of what needs no generated text, and of generating texts."""

    scoring: Range
    generating: Range


def evaluation_seconds(config: RunConfig, base: GPT2, data: TaskData, *, patience: float) -> EvaluationTime:
    """Return the seconds of an evaluation, estimated from some of the examples of the dev split.

    A batch takes as long as its longest generated text. The value and the upper bound assume the greatest length, the lower
    bound that of the longest dev text. Raises UserError if the GPU is too small.
    """
    with _fitting(config), bypassing_text_cache():
        task, dev = TASKS[config.task], data.splits["dev"]
        part = data.with_dev(max(1, min(EXAMPLES, int((np.cumsum(dev.lengths) <= TOKENS).sum()))))
        model = build_model(config, base, device()).train(False)
        scale = int(dev.lengths.sum()) / max(1, int(part.splits["dev"].lengths.sum()))

        def evaluate(new_tokens: int) -> None:
            changes = {"max_new_tokens": new_tokens} if new_tokens else {"decode_seeds": 0}
            task.evaluate(model, part, config.but(**changes), "dev")

        evaluate(0)  # warm-up
        scoring = mean_range(timed([partial(evaluate, 0)] * 2, patience)) * scale
        if not task.generates or not config.decode_seeds:
            return EvaluationTime(scoring, exactly(0.0))
        short, long = (min(count, config.max_new_tokens) for count in (SHORT, LONG))
        first, last = ((timed([partial(evaluate, count)], 0.0)[0] * scale) for count in (short, long))
        token = max(0.0, last - first) / max(1, long - short)
        usual = min(config.max_new_tokens, int(dev.lengths.max()))
        few, most = (
            max(0.0, first - scoring.value) + token * max(0, length - short)
            for length in (usual, config.max_new_tokens)
        )
        return EvaluationTime(scoring, Range(value=most, low=few, high=most))


def timed(calls: Sequence[Callable[[], object]], patience: float) -> list[float]:
    """Return the seconds of each call. After `patience` seconds, no call is made except the first two."""
    seconds: list[float] = []
    for call in calls:
        if sum(seconds) > patience and len(seconds) >= 2:
            break
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def mean_range(values: Sequence[float]) -> Range:
    """Return the mean and its 95% interval by Student's t, limited to the least value and twice the largest."""
    mean, count = float(np.mean(values)), len(values)
    half = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count)) if count > 2 else np.inf
    return Range(value=mean, low=max(min(values), mean - half), high=min(2 * max(values), mean + half))
