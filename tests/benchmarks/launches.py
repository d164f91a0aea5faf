"""How many operations a training step and a generated token launch, one by one on a GPU: python -m tests.benchmarks.launches.

PyTorch's operations are counted on a CPU under autocast to bfloat16, without those that only make views or allocate. On a GPU
nearly all of them are a kernel of some 6 microseconds at least. Dropout is off, since a CPU draws masks by other operations.

In a pack, the runs differ in rank. The rest of a step are embeddings, loss and optimizer. With dropout, a GPU launches two more
operations for each dropout layer of each run, alone and in a pack, and in a pack attention for each run.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2core.config import DecodingConfig, ModelConfig, RunConfig
from gpt2core.decoding.generate import generate
from gpt2core.model import GPT2, initialise
from gpt2core.packing import Packer
from gpt2core.precision import for_generation
from gpt2core.run import Run
from gpt2core.steps import Step
from tests.benchmarks.compare import CONSOLE
from tests.benchmarks.packing import losses_of
from tests.benchmarks.shapes import random_texts
from tests.gpu_paths import HostWaits, as_on_a_gpu

VIEWS = (
    *(
        "alias",
        "as_strided",
        "chunk",
        "detach",
        "expand",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "squeeze",
        "t",
    ),
    *("split_with_sizes", "transpose", "unbind", "unsqueeze", "_reshape_alias", "_unsafe_view", "unsafe_view", "view"),
)
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "lift", "lift_fresh", "new_empty", "new_empty_strided")
NO_LAUNCH = {*VIEWS, *ALLOCATIONS, "_record_function_enter_new", "_record_function_exit"}
GENERATING = (12, 36)  # blocks of gpt2 and gpt2-large
PACKS = (1, 4, 8)  # runs
BLOCKS = 36  # as gpt2-large; how wide they are does not matter
PLAIN = RunConfig(batch_size=8, precision="bfloat16", dropout=0.0, lora_dropout=0.0)
STEPS = {
    "full": PLAIN,
    "LoRA, queries keys values": PLAIN.but(adapter="lora"),
    "LoRA, all": PLAIN.but(adapter="lora", targets="all"),
}


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode, operations arrive that consist of others
            result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        name = function._schema.name.split("::")[1]
        if name not in NO_LAUNCH:
            self.counts[name] += len(args[0]) if name == "_foreach_copy_" and _one_by_one(*args[:2]) else 1
        return function(*args, **kwargs)


def _one_by_one(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> bool:
    """Whether a GPU copies tensors one by one, because the strides of some differ."""
    return any(target.stride() != source.stride() for target, source in zip(targets, sources, strict=True))


def operations(function: Callable[[], object]) -> Counter[str]:
    """Return how often each operation is launched by a function."""
    with _Counting() as counting:
        function()
    return counting.counts


def pack(config: RunConfig, runs: int, blocks: int) -> int:
    """Return the operations of a step of several runs in one pass."""
    base = _model(blocks)
    data, batch, packer = random_texts(np.full(8, 16), base.config), np.arange(8), Packer()
    own = [Run(config.but(rank=4 * (1 + n % 4), lr=1e-4 * (1 + n)), base, data) for n in range(runs)]
    for run in own:
        run.model.train()

    def take(number: int) -> None:
        losses_of(packer.take([Step(run, number, batch, 1) for run in own]))

    take(0)
    return operations(lambda: take(1)).total()


def _model(blocks: int) -> GPT2:
    base = GPT2(ModelConfig(vocab_size=512, n_positions=64, n_embd=32, n_layer=blocks, n_head=4))
    initialise(base, 0)
    return base


def step_table() -> Table:
    """Operations of a step alone, beside those under PyTorch's autocast."""
    base, batch = _model(BLOCKS), np.arange(8)
    table = Table(title=f"Operations of a step, {BLOCKS} blocks, bfloat16")
    for column in ("step", "here", "PyTorch's autocast", "share"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, config in STEPS.items():
        run = Run(config, base, random_texts(np.full(8, 16), base.config))
        run.model.train()
        run.step(0, batch)
        here = operations(lambda run=run: run.step(1, batch)).total()
        run.working = None
        autocast = operations(lambda run=run: run.step(2, batch)).total()
        table.add_row(name, f"{here:,}", f"{autocast:,}", f"{here / autocast:.2f}")
    return table


def pack_table() -> Table:
    """Operations of a step of several runs in one pass, for each run and block, and for each run outside of the blocks."""
    table = Table(title="Operations of a packed step for each run: of a block + of the rest")
    table.add_column("step")
    for runs in PACKS:
        table.add_column(f"{runs} runs" if runs > 1 else "alone", justify="right")
    for name, config in STEPS.items():
        if config.adapter == "lora":
            pairs = [[pack(config, runs, blocks) / runs for blocks in (2, 4)] for runs in PACKS]
            table.add_row(name, *(f"{(many - few) / 2:.1f} + {2 * few - many:.0f}" for few, many in pairs))
    return table


def generation_table() -> Table:
    """Operations and host waits of a generated token, for 12 prompts of different lengths."""
    table = Table(title="Operations of a token, 12 prompts of different lengths, bfloat16")
    for column in ("strategy", *(f"{blocks} blocks" for blocks in GENERATING), "host waits"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for strategy in ("top-p", "greedy", "beam", "contrastive"):
        counts, waits = zip(*(of_a_token(strategy, blocks) for blocks in GENERATING), strict=True)
        table.add_row(strategy, *(f"{count:.0f}" for count in counts), f"{waits[0]:.2f}")
    return table


def of_a_token(strategy: str, blocks: int) -> tuple[float, float]:
    """Return the operations and host waits of a token, on the branches of a GPU, as the mean over the last 16 of 24 tokens."""
    model = for_generation(_model(blocks).requires_grad_(False), PLAIN)
    prompts = [[1 + row] * (3 + row) for row in range(12)]

    def generated(tokens: int) -> None:
        config = DecodingConfig(strategy=strategy, top_k=5, max_new_tokens=tokens)
        generate(model, prompts, config, seeds=range(12), eos=10**9)

    with as_on_a_gpu():
        launched = [operations(lambda tokens=tokens: generated(tokens)).total() for tokens in (8, 24)]
        waits = []
        for tokens in (8, 24):
            with HostWaits() as counted:
                generated(tokens)
            waits.append(counted.count)
    return (launched[1] - launched[0]) / 16, (waits[1] - waits[0]) / 16


if __name__ == "__main__":
    torch.set_num_threads(1)
    for counted in (step_table(), pack_table(), generation_table()):
        CONSOLE.print(counted)
