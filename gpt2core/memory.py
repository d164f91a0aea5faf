"""The GPU memory of a training step, counted by taking the step on the meta device, whose tensors have no data.

The step's own code runs, with the operations that a GPU has, and a dispatch mode sums the bytes of the tensors that are alive. So
there is no formula to keep up with models, adapters and tasks. What is counted:

- weights, cast copies of them, gradients, activations that are kept for the backward pass, temporary tensors: the step itself
- AdamW's moments: 8 bytes for each trained parameter
- the gradients' copies of DistributedDataParallel, if there are several workers: 4 bytes for each trained parameter
- the logits, which PyTorch's fused loss allocates inside: `model.LOGITS` positions at once
- the workspace of cuBLAS: a constant

CUDA's context and fragmentation are not counted; `torch.cuda.max_memory_allocated` does not count them either.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch
from gpt2core.model import GPT2, trainable_size
from gpt2core.precision import with_weights
from gpt2core.projection import WorkingWeights
from gpt2core.tasks import Task
from gpt2core.tokenizer import Tokenizer

META = torch.device("meta")
#: Bytes of a trained parameter: the parameter, AdamW's two moments, and its gradient in DistributedDataParallel's buckets.
WEIGHT, MOMENTS, BUCKET = 4, 8, 4
WORKSPACE = 32 * 2**20  # of cuBLAS, PyTorch's default on Hopper; smaller on other GPUs

#: The fused loss of `GPT2.loss`, whose arguments 1 and 8 are the weight (V, C) and the number of positions at once.
LOSS = "torch_nn::_linear_cross_entropy_batch_chunked"
#: Operations that autocast computes in 16 bits, of those that models, adapters and losses use.
NARROW = {"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention"}


def predicted_gpu_memory_gb(
    model: GPT2,
    base: GPT2,
    task: Task,
    tokenizer: Tokenizer,
    config: RunConfig,
    batches: Sequence[Batch],
    *,
    workers: int = 1,
) -> float:
    """Return the peak memory of the steps of `model` on a GPU, in gigabytes of 1e9 bytes, for each of `workers`.

    `batches` are the micro-batches of the largest step; two stand for more of their size. `base` is the model that the run
    started from. All may be on any device. If nothing trains, only the weights count. A GPU computes in 16 bits with precision
    `auto`.
    """
    trained = trainable_size(model)
    step = step_bytes(model, base, task, tokenizer, config, batches)
    return (step + MOMENTS * trained + (BUCKET * trained if workers > 1 else 0) + WORKSPACE) / 1e9


def step_bytes(
    model: GPT2, base: GPT2, task: Task, tokenizer: Tokenizer, config: RunConfig, batches: Sequence[Batch]
) -> int:
    """Return the peak bytes of all tensors in the forward and backward passes of a step, weights included."""
    model, base = (with_weights(copied, lambda weight: weight.to(META)) for copied in (model, base))
    narrow = config.precision != "float32" and model.wte.weight.dtype == torch.float32
    working = WorkingWeights(model, nn.Module(), torch.bfloat16) if narrow else None
    operations, live = _GpuOperations(narrow=narrow), _LiveBytes(model.train().parameters())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return live.peak
    for block in model.blocks:  # also when the backward pass, where no function is replaced, recomputes it
        block.forward = operations.applied(block.forward)
    for micro_batch in batches:
        with (
            operations,
            live,
            nullcontext() if working is None else working.used(),
        ):
            columns = (column if column is None else column.to(META) for column in micro_batch)
            batch = Batch(*columns)  # type: ignore[arg-type]
            _loss(model, base, task, tokenizer, config, batch).backward()
    return live.peak


def _loss(model: GPT2, base: GPT2, task: Task, tokenizer: Tokenizer, config: RunConfig, batch: Batch) -> Tensor:
    hidden = model.run_trunk(task.trunk_input(batch, tokenizer, config))
    return task.training_loss(model, base, hidden, batch, tokenizer, config)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of `tensors` and of all tensors that operations read or return, as long as they are alive."""

    def __init__(self, tensors: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.live = self.peak = 0
        self._add(tensors)

    def _add(self, tensors: Any, inside: int = 0) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.storages:
                self.storages.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live + inside)

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        inside = 0
        if function.name() == LOSS:
            weight, positions = args[1], args[8]
            inside = positions * len(weight) * weight.element_size()
        self._add(tree_leaves((args, kwargs, outputs)), inside)
        return outputs


class _GpuOperations(TorchFunctionMode):
    """Replaces PyTorch's functions by what they call on a GPU, with 16-bit arguments as under autocast if `narrow`."""

    def __init__(self, *, narrow: bool) -> None:
        super().__init__()
        self.narrow = narrow

    def applied(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that always runs in this mode."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return run

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.narrow and function.__name__ in NARROW:
            args, kwargs = [_narrow(arg) for arg in args], {key: _narrow(arg) for key, arg in kwargs.items()}
        return _ON_A_GPU.get(function, function)(*args, **kwargs)


def _narrow(arg: Any) -> Any:
    return arg.bfloat16() if isinstance(arg, Tensor) and arg.dtype == torch.float32 else arg


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Keep a mask of a byte for each element."""
    out: Tensor = torch.ops.aten.native_dropout(x, p, training)[0]
    return out


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """Keep arguments, output and a sum for each query, but no weights; a mask becomes a bias."""
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=q.dtype).expand(*q.shape[:-1], k.shape[-2])
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout_p, is_causal)[0]
    return out


_ON_A_GPU: dict[Any, Callable[..., Tensor]] = {
    functional.dropout: _dropout,
    functional.scaled_dot_product_attention: _attention,
}
