"""Measure on a GPU what a CPU can only count, beside the predictions made from the counts: python -m tests.benchmarks.gpu.

A step is predicted to take as long as its launches or its arithmetic, whichever is longer: LAUNCH seconds for each operation that
`launches.py` counts, and RATE floating-point operations a second. Models have random weights. All of it takes about ten minutes
on one card. Without a GPU, `--tiny` runs every measurement on a tiny model, to check this script.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from rich.table import Table
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging

from gpt2core.attention.auto import MASKED, pattern_mask
from gpt2core.attention.dense import masked
from gpt2core.attention.logsparse import logsparse
from gpt2core.builders import device
from gpt2core.config import MODELS, DecodingConfig, ModelConfig, RunConfig
from gpt2core.decoding.generate import generate
from gpt2core.model import GPT2, initialise
from gpt2core.packing import Packer
from gpt2core.run import Run
from gpt2core.steps import Step
from tests.benchmarks.compare import CONSOLE
from tests.benchmarks.generation import NEVER, by_transformers
from tests.benchmarks.launches import operations
from tests.benchmarks.shapes import random_texts
from tests.benchmarks.training import Pair, as_transformers

LAUNCH = 6e-6  # seconds to launch an operation
RATE = 350e12  # floating-point operations a second, in bfloat16: an H100
TURNS, STEPS = 3, 10  # turns of each side, and steps of a turn
#: Benchmarks of what a GPU changes beside operations, each in a process of its own.
MORE = (("checkpoints", "--model", "small", "--turns", "1"), ("warm_groups", "--turns", "1"))
TINY = ModelConfig(vocab_size=512, n_positions=512, n_embd=32, n_layer=2, n_head=2)


@dataclass(frozen=True, kw_only=True)
class Size:
    """The sizes of a measurement."""

    models: dict[str, ModelConfig]
    batch: int = 8
    tokens: int = 170  # of a sonnet
    new_tokens: int = 128
    attention: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192, 16384)
    steps: int = STEPS


FULL = Size(models={name: MODELS[name] for name in ("gpt2", "gpt2-large")})
CHECK = Size(models={"tiny": TINY}, batch=2, tokens=16, new_tokens=4, attention=(64, 128), steps=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement: seconds here, as predicted, and of a peer that does the same work; None if there is no such number."""

    what: str
    here: Sequence[float]
    predicted: float | None = None
    peer: str = ""
    beside: Sequence[float] = ()


def alternating(ways: Sequence[Callable[[], object]], steps: int) -> list[list[float]]:
    """Return the seconds of one call of each way, for each of TURNS turns; a first call of each is not counted."""
    for way in ways:
        way()
    return list(map(list, zip(*([timed(way, steps) for way in ways] for _ in range(TURNS)), strict=True)))


def timed(way: Callable[[], object], steps: int) -> float:
    """Return the mean seconds of `steps` calls."""
    synchronise()
    started = time.perf_counter()
    for _ in range(steps):
        way()
    synchronise()
    return (time.perf_counter() - started) / steps


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def predicted(way: Callable[[], object]) -> float:
    """Return the predicted seconds of a call, from its launches and its arithmetic."""
    launches = operations(way).total()
    with FlopCounterMode(display=False) as counter:
        way()
    return max(LAUNCH * launches, counter.get_total_flops() / RATE)


# -- measurements


def steps(name: str, base: GPT2, size: Size) -> Iterator[Row]:
    """Optimizer steps in bfloat16 beside transformers and peft, and of four LoRA runs in a pack beside one by one."""
    plain = RunConfig(batch_size=size.batch, precision="bfloat16")
    batch, lengths = np.arange(size.batch), np.full(size.batch, size.tokens)
    for what, config in {"full": plain, "LoRA": plain.but(adapter="lora")}.items():
        pair = Autocast(config, base, lengths)
        here, beside = alternating([partial(pair.ours, batch), partial(pair.theirs, batch)], size.steps)
        prediction = predicted(partial(pair.ours, batch))
        yield Row(
            what=f"{name}: step, {what}", here=here, predicted=prediction, peer="transformers, peft", beside=beside
        )
    runs = [Run(plain.but(adapter="lora", seed=seed), base, random_texts(lengths, base.config)) for seed in range(4)]
    for run in runs:
        run.model.train()
    requests = [Step(run, 0, batch, int(lengths.sum())) for run in runs]
    packed = partial(Packer().take, requests)
    ways = [packed, lambda: [request.take() for request in requests]]
    here, beside = alternating(ways, size.steps)
    prediction = predicted(packed)
    yield Row(what=f"{name}: 4 LoRA steps in a pack", here=here, predicted=prediction, peer="one by one", beside=beside)


class Autocast(Pair):
    """A run in bfloat16, and a loop around transformers under autocast, on this process's device."""

    def __init__(self, config: RunConfig, base: GPT2, lengths: np.ndarray) -> None:
        super().__init__(config, base, lengths)
        self.run = Run(config, base, random_texts(lengths, base.config))
        self.run.model.train()
        self.peer.to(self.run.device)

    def their_loss(self, batch: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(np.stack([self.tokens[i] for i in batch]).astype(np.int64)).to(self.run.device)
        with torch.autocast(self.run.device.type, torch.bfloat16):
            return self.peer(input_ids=ids, labels=ids, use_cache=False).loss  # type: ignore[no-any-return]


def memory(base: GPT2, size: Size) -> Table:
    """Return the peak memory of steps in gigabytes, measured if there is a GPU, and predicted."""
    plain = RunConfig(batch_size=size.batch, precision="bfloat16")
    kinds = {"full": plain, "LoRA": plain.but(adapter="lora"), "classes": plain.but(task="sst")}
    kinds |= {
        "full, recomputed": plain.but(gradient_checkpointing=True),
        "full, float32": plain.but(precision="float32"),
    }
    batch, lengths = np.arange(size.batch), np.full(size.batch, size.tokens)
    shown = Table("step", "here, GB", "predicted", title="Peak memory")
    for what, config in kinds.items():
        base.cpu()
        gc.collect()
        run = Run(config, base, random_texts(lengths, base.config))
        run.model.train()
        run.step(0, batch)
        measured = ""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            run.step(1, batch)
            measured = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
        shown.add_row(what, measured, f"{run.predicted_gpu_memory_gb:.2f}")
        del run
    return shown


def generation(name: str, base: GPT2, size: Size) -> Iterator[Row]:
    """Seconds of a token of 12 prompts of different lengths, in bfloat16."""
    here = base.bfloat16().train(False).to(device())
    peer = as_transformers(base.cpu(), RunConfig(dropout=0.0)).bfloat16().train(False).to(device())
    here.to(device())
    random = np.random.default_rng(0)
    prompts = [random.integers(0, base.config.vocab_size - 1, 20 + n).tolist() for n in range(12)]

    def ours(tokens: int) -> object:
        return generate(here, prompts, DecodingConfig(max_new_tokens=tokens), seeds=range(12), eos=NEVER)

    def theirs() -> object:
        return by_transformers(peer, prompts, size.new_tokens, do_sample=True, top_p=0.9, top_k=0)

    mine, others = alternating([lambda: ours(size.new_tokens), theirs], 1)
    long, short = (predicted(lambda tokens=tokens: ours(tokens)) for tokens in (4, 2))
    yield Row(
        what=f"{name}: a token of 12 prompts, top-p",
        here=[seconds / size.new_tokens for seconds in mine],
        predicted=(long - short) / 2,
        peer="transformers.generate",
        beside=[seconds / size.new_tokens for seconds in others],
    )


def attention(size: Size) -> Iterator[Row]:
    """LogSparse attention of one layer of GPT-2 small, forward and backward, by a mask and by slices, beside dense."""
    for tokens in size.attention:
        q, k, v = (torch.randn(1, 12, tokens, 64, device=device(), requires_grad=True) for _ in range(3))

        mask = pattern_mask(tokens, tokens, 1, 0, q.device)
        forwards = {
            "mask": partial(masked, q, k, v, mask, 0.0),
            "slices": partial(logsparse, q, k, v, None, 0.0),
            "dense": partial(scaled_dot_product_attention, q, k, v, is_causal=True),
        }
        ways = [partial(both_passes, forward, (q, k, v)) for forward in forwards.values()]
        by_mask, slices, dense = alternating(ways, size.steps)
        yield Row(what=f"LogSparse of {tokens:,} tokens by a mask", here=by_mask, peer="by slices", beside=slices)
        yield Row(what=f"LogSparse of {tokens:,} tokens by slices", here=slices, peer="dense", beside=dense)


def both_passes(forward: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Run a forward and a backward pass."""
    out = forward()
    torch.autograd.grad(out, inputs, torch.ones_like(out))


# -- output


def table(title: str, rows: Sequence[Row]) -> Table:
    """Return measurements as a table, in milliseconds."""
    shown = Table(title=title)
    for heading in ("what", "here, ms", "predicted", "beside", "its ms", r"ratio \[least, most]"):
        shown.add_column(heading, justify="left" if heading in ("what", "beside") else "right")
    for row in rows:
        ratios = sorted(b / h for h, b in zip(row.here, row.beside, strict=True)) if row.beside else []
        shown.add_row(
            row.what,
            f"{1e3 * statistics.median(row.here):.3g}",
            "" if row.predicted is None else f"{1e3 * row.predicted:.3g}",
            row.peer,
            f"{1e3 * statistics.median(row.beside):.3g}" if row.beside else "",
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]" if ratios else "",
        )
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="check this script on a tiny model, with or without a GPU")
    chosen = parser.parse_args(argv)
    if not chosen.tiny and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU here; --tiny checks the script without one")
    logging.disable_progress_bar(), logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
        measure(CHECK if chosen.tiny else FULL)
    for module, *flags in () if chosen.tiny else MORE:
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}", *flags], check=True)


def measure(size: Size) -> None:
    """Print all tables of this script."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    for name, shape in size.models.items():
        base = GPT2(shape)
        initialise(base, 0)
        CONSOLE.print(table(f"{name} on {where}, {size.batch} x {size.tokens} tokens", list(steps(name, base, size))))
        CONSOLE.print(memory(base, size))
        CONSOLE.print(table(f"{name} on {where}", list(generation(name, base, size))))
    CONSOLE.print(table(f"One layer on {where}", list(attention(size))))
    CONSOLE.print(f"`auto` uses a mask up to {MASKED:,} tokens")


if __name__ == "__main__":
    main()
