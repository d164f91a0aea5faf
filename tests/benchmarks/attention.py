"""Compare LogSparse attention with PyTorch's fused dense attention in time and memory: python -m tests.benchmarks.attention.

Forward and backward pass of one layer of GPT-2 (12 heads of 64 channels, float32, no dropout). Time is CPU time of one thread;
memory is the peak of PyTorch's allocator in a step, without the inputs. Kernels and lengths alternate.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from statistics import median, quantiles

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpt2core.attention import ATTENTION, Attend
from gpt2core.attention.pattern import offsets
from gpt2core.attention.reference import reference
from tests.benchmarks.fit import Power, power

HEADS, CHANNELS = 12, 64
LENGTHS = (128, 512, 1024, 2048, 4096, 8192)
FITTED_FROM = 1024  # below, the cost of starting operations hides how time grows
SAMPLE_SECONDS = 0.5  # a sample repeats a step for so long, so that most of its runs find the caches warm
KERNELS = ("logsparse", "dense")

Step = Callable[[], Sequence[Tensor]]
Case = tuple[str, int]  # kernel, length


def tensors(length: int) -> list[Tensor]:
    """Queries, keys, values and the gradient of the output, (1, H, length, D)."""
    generator = torch.Generator().manual_seed(length)
    made = (torch.randn(1, length, HEADS, CHANNELS, generator=generator).transpose(1, 2) for _ in range(4))
    return [tensor.requires_grad_() for tensor in made]


def step(attend: Attend, length: int) -> Step:
    *inputs, grad = tensors(length)
    q, k, v = inputs
    return lambda: torch.autograd.grad(attend(q, k, v, None, 0.0), inputs, grad.detach())


def check(length: int = 64) -> None:
    """Compare both kernels with the slow reference, gradients too; raise AssertionError where they differ."""
    patterns = {"logsparse": offsets(length), "dense": None}
    for name in KERNELS:
        pattern = patterns[name]
        right = step(lambda q, k, v, segments, _: reference(q, k, v, segments, pattern), length)  # noqa: B023
        for ours, theirs in zip(step(ATTENTION[name].attend, length)(), right(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def seconds(run: Step, number: int) -> float:
    started = time.process_time()
    for _ in range(number):
        run()
    return (time.process_time() - started) / number


def alternate(steps: Mapping[Case, Step], repeats: int) -> dict[Case, list[float]]:
    numbers = {case: math.ceil(SAMPLE_SECONDS / seconds(run, 1)) for case, run in steps.items()}
    rounds = [{case: seconds(run, numbers[case]) for case, run in steps.items()} for _ in range(repeats)]
    return {case: [samples[case] for samples in rounds] for case in steps}


def peak_bytes(run: Callable[[], object]) -> int:
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = (e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]")
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def exponent(values: Mapping[int, float]) -> Power:
    """The power of the length that `values` grow with."""
    fitted = {length: value for length, value in values.items() if length >= FITTED_FROM}
    return power(list(fitted), list(fitted.values()))


def measured(lengths: Sequence[int], repeats: int) -> tuple[Table, dict[str, dict[int, float]]]:
    steps = {(name, length): step(ATTENTION[name].attend, length) for length in lengths for name in KERNELS}
    times = alternate(steps, repeats)
    found: dict[str, dict[int, float]] = {}
    for (name, length), run in steps.items():
        found.setdefault(f"{name} time", {})[length] = median(times[name, length])
        found.setdefault(f"{name} memory", {})[length] = peak_bytes(run)
    table = Table("tokens", title="One layer, forward and backward", title_justify="left")
    for heading in ("logsparse ms", "dense ms", "dense / logsparse [quartiles]", "logsparse MiB", "dense MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for length in lengths:
        pairs = zip(times["logsparse", length], times["dense", length], strict=True)
        low, ratio, high = quantiles([dense / logsparse for logsparse, dense in pairs])
        table.add_row(
            f"{length:,}",
            *(f"{1e3 * found[f'{name} time'][length]:.2f}" for name in KERNELS),
            f"{ratio:.1f} [{low:.1f}, {high:.1f}]",
            *(f"{found[f'{name} memory'][length] / 2**20:.1f}" for name in KERNELS),
        )
    return table, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="samples of each kernel at each length (default: 3)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    check()
    table, found = measured(LENGTHS, repeats)
    console = Console(highlight=False, width=110)
    console.print(f"Both agree with the reference. PyTorch {torch.__version__}, {repeats} samples of each")
    console.print(table)
    for what, values in found.items():
        console.print(f"{what}: grows as length to the power {exponent(values)} from {FITTED_FROM:,} tokens on")


if __name__ == "__main__":
    main()
