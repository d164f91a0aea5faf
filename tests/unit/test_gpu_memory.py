"""The predicted memory of a step is what a CPU allocates for the same step, with the operations that a GPU has."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from gpt2core.config import ModelConfig, RunConfig
from gpt2core.describe import describe, with_memory
from gpt2core.memory import WORKSPACE
from gpt2core.model import GPT2
from gpt2core.run import Run
from gpt2core.tasks import TaskData
from gpt2core.testing import toys
from gpt2core.weights import load_model
from tests.benchmarks.shapes import SHAPES, random_texts

MINI = ModelConfig(vocab_size=4096, n_positions=512, n_embd=192, n_layer=4, n_head=6)
PLAIN = toys.RUN.but(precision="float32", dropout=0.0, lora_dropout=0.0, head_dropout=0.0)
LORA = PLAIN.but(adapter="lora")
DROPOUT = {"dropout": 0.1, "lora_dropout": 0.1, "head_dropout": 0.1}
RECOMPUTED = {"gradient_checkpointing": True}
NARROW = {"precision": "bfloat16"}
CLASSES = {"task": "sst"}
CASES = {
    "full": (PLAIN, [{}, DROPOUT, RECOMPUTED, NARROW]),
    "last block": (PLAIN.but(adapter="freeze", blocks="1"), [{}, RECOMPUTED | NARROW]),
    "first block": (PLAIN.but(adapter="freeze", blocks="0"), [{}, DROPOUT]),
    "LoRA of rank 1": (LORA.but(rank=1), [{}, DROPOUT | NARROW]),
    "LoRA of rank 16": (LORA.but(rank=16), [RECOMPUTED]),
    "LoRA on qkv and dense": (LORA.but(targets="qkv+dense"), [DROPOUT]),
    "LoRA on all": (LORA.but(targets="all"), [DROPOUT | RECOMPUTED, NARROW]),
    "LoRA on the last block": (LORA.but(blocks="1"), [DROPOUT]),
    "DoRA": (LORA.but(dora=True), [DROPOUT]),
    "PiSSA": (LORA.but(lora_init="pissa"), [{}]),
    "classes": (PLAIN.but(**CLASSES), [{}, DROPOUT | NARROW]),
    "classes by LoRA": (LORA.but(**CLASSES), [{}, DROPOUT, RECOMPUTED]),
    "classes by contrast": (PLAIN.but(task="paraphrase", contrastive_weight=0.5), [NARROW]),
    "classes in two passes": (PLAIN.but(**CLASSES, r_drop=0.5), [DROPOUT]),
    "last linear": (PLAIN.but(adapter="last-linear", **CLASSES), [{}]),
    "documents": (PLAIN.but(task="pretraining"), [{}, DROPOUT]),
    "teacher": (LORA.but(task="rewriting", kl_weight=0.5), [{}]),
    "preferences": (PLAIN.but(loss="dpo"), [{}, DROPOUT]),
    "accumulation": (PLAIN.but(accumulation=2), [{}, DROPOUT]),
    "logsparse": (PLAIN.but(attention="logsparse"), [{}, DROPOUT]),
    "logsparse by a mask": (PLAIN.but(attention="auto"), [{}]),
}


@pytest.fixture(autouse=True)
def _operations_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let dropout keep a mask of a byte for each element, and attention no weights."""
    attend = functional.scaled_dot_product_attention

    def attention(*args: Tensor, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        return attend(*args, **kwargs)

    def dropout(x: Tensor, p: float) -> Tensor:
        return torch.ops.aten.native_dropout(x, p, True)[0] if p else x

    monkeypatch.setattr(functional, "dropout", dropout)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    for name in ("dense", "logsparse"):  # the package has functions of these names
        monkeypatch.setattr(sys.modules[f"gpt2core.attention.{name}"], "scaled_dot_product_attention", attention)


def sizes(tensors: Sequence[Tensor]) -> int:
    """The bytes of tensors, those that share memory counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held(run: Run) -> int:
    """The bytes that a run has allocated before a step."""
    working = run.working.constants if run.working else None
    constants = [tensor for weights in working or () for tensor in weights if tensor is not None]
    moments = [value for state in run.optimizer.state.values() for value in state.values()]
    return sizes([*run.model.parameters(), *moments, *constants])


def allocated(function: Callable[[], object], path: Path) -> int:
    """The peak of bytes that PyTorch's allocator gave to a function and had not got back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    profiler.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    return int(np.cumsum([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]).max())


def check(config: RunConfig, base: GPT2, data: TaskData, path: Path) -> None:
    run = Run(config, base, data)
    run.use_cached_activations(evaluates=False)
    run.model.train()
    run.dropout_stream = lambda *_: SimpleNamespace(drawing=nullcontext)  # type: ignore[assignment,return-value]
    batch = np.argsort(-run.tokens.lengths, kind="stable")[: config.batch_size]
    run.step(0, batch)
    before = held(run)
    measured = before + allocated(lambda: run.step(1, batch), path / "trace.json")
    assert measured > before
    assert 1e9 * run.predicted_gpu_memory_gb - WORKSPACE == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config.but(**changes), id=f"{name}, {' '.join(changes)}")
        for name, (config, variants) in CASES.items()
        for changes in variants
    ],
)
def test_a_step_allocates_what_is_predicted(config: RunConfig, tmp_path: Path) -> None:
    check(config, toys.model(), toys.data(), tmp_path)


@pytest.mark.parametrize(
    "config", [PLAIN, LORA.but(**DROPOUT), LORA.but(**NARROW, **CLASSES)], ids=["full", "LoRA", "classes"]
)
@pytest.mark.parametrize(("shape", "lengths"), [(MINI, [77] * 8), (SHAPES["17.5M"], [128] * 4)], ids=["mini", "17.5M"])
def test_larger_models_allocate_what_is_predicted(
    shape: ModelConfig, lengths: list[int], config: RunConfig, tmp_path: Path
) -> None:
    config = config.but(batch_size=len(lengths))
    check(config, toys.model(shape=shape), random_texts(np.array(lengths), shape), tmp_path)


def test_a_description_predicts_what_a_run_does() -> None:
    config = PLAIN.but(model="gpt2-nano", adapter="lora", precision="auto", batch_size=64)
    base = load_model("gpt2-nano")
    described = with_memory(describe(config, "plain"), config)["chosen"]["predicted_gpu_memory_gb"]
    run = Run(config, base, random_texts(np.full(64, base.config.n_positions), base.config))
    assert described == pytest.approx(run.predicted_gpu_memory_gb, abs=0.005)
    assert described > 0.5


def test_a_model_that_does_not_train_needs_its_weights() -> None:
    config = PLAIN.but(adapter="frozen")
    run = Run(config, toys.model(), toys.data())
    weights = 4 * sum(parameter.numel() for parameter in run.model.parameters())
    assert 1e9 * run.predicted_gpu_memory_gb == pytest.approx(weights + WORKSPACE)
