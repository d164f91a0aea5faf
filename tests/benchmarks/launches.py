"""How many operations a training step launches, which a GPU pays for one by one: python -m tests.benchmarks.launches.

PyTorch's operations are counted on a CPU under autocast to bfloat16, without those that only make views or allocate. On a GPU
nearly all of them are a kernel of some 6 microseconds at least. Dropout is off, since a CPU draws masks by other operations.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2core.config import ModelConfig, RunConfig
from gpt2core.model import GPT2, initialise
from gpt2core.run import Run
from tests.benchmarks.compare import CONSOLE
from tests.benchmarks.shapes import random_texts

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
        name = function._schema.name.split("::")[1]
        if name not in NO_LAUNCH:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def operations(function: Callable[[], object]) -> Counter[str]:
    """Return how often each operation is launched by a function."""
    with _Counting() as counting:
        function()
    return counting.counts


def main() -> None:
    """Print the table."""
    base = GPT2(ModelConfig(vocab_size=512, n_positions=64, n_embd=32, n_layer=BLOCKS, n_head=4))
    initialise(base, 0)
    table = Table(title=f"Operations of a step, {BLOCKS} blocks, bfloat16")
    for column in ("step", "here", "PyTorch's autocast", "share"):
        table.add_column(column, justify="left" if column == "step" else "right")
    batch = np.arange(8)
    for name, config in STEPS.items():
        run = Run(config, base, random_texts(np.full(8, 16), base.config))
        run.model.train()
        run.step(0, batch)
        here = operations(lambda run=run: run.step(1, batch)).total()
        run.working = None
        autocast = operations(lambda run=run: run.step(2, batch)).total()
        table.add_row(name, f"{here:,}", f"{autocast:,}", f"{here / autocast:.2f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
