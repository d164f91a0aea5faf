"""What the study printed, figure by figure, and which trial of which search answers each.

The study: "Improving GPT-2 Task-Specific Performance via Impossible Distillation, Sparse Attention, and Parameter-Efficient
Fine-Tuning", a CS224N default project, 2025. Scores are on its dev splits, in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One printed figure. `search` and `task` say where it is asked again, `point` which trial it is, `metric` what of it."""

    label: str
    metric: str
    value: float
    model: str = "gpt2"
    search: str | None = None
    task: str = "sonnet"
    point: Mapping[str, Any] = field(default_factory=dict)
    why_not: str = ""  # why no search asks it


def _chrf(label: str, value: float, search: str, point: Mapping[str, Any], model: str = "gpt2") -> Figure:
    return Figure(label=label, metric="chrf_whole", value=value, search=search, point=point, model=model)


def _sentiment(task: str, adapter: str, batch_size: int, lr: float, value: float) -> Figure:
    point = {"adapter": adapter, "batch_size": batch_size, "lr": lr}
    label = f"{task.upper()}, {adapter}"
    return Figure(label=label, metric="accuracy", value=value, search="sentiment", task=task, point=point)


def _paraphrase(attention: str, value: float) -> Figure:
    point = {"attention": attention, "lr": 1e-5}
    label = f"Quora, {attention}"
    return Figure(label=label, metric="accuracy", value=value, search="attention", task="paraphrase", point=point)


def _distillation(label: str, value: float, **point: Any) -> Figure:
    point = {"pairs_examples": "all", **point}
    return Figure(label=label, metric="accuracy", value=value, search="distillation", task="paraphrase", point=point)


def _adapter(label: str, point: Mapping[str, Any], loss: float, perplexity: float, chrf: float) -> list[Figure]:
    values = {"train_loss": loss, "train_perplexity": perplexity, "chrf_whole": chrf}
    point = {"lr": 1e-5, **point}
    return [
        Figure(label=label, metric=metric, value=value, search="adapters", point=point, model="gpt2-large")
        for metric, value in values.items()
    ]


def _count(label: str, adapter: str, value: int, rank: int = 8) -> Figure:
    point = {"adapter": adapter, "rank": rank}
    return Figure(label=label, metric="parameters", value=value, search="describe", point=point, model="gpt2-large")


def _memory(label: str, adapter: str, value: float, rank: int = 8) -> Figure:
    point = {"adapter": adapter, "rank": rank}
    metric = "predicted_gpu_memory_gb"
    return Figure(label=label, metric=metric, value=value, search="describe", point=point, model="gpt2-large")


_LONGER = "40 epochs, stopped at 30: the search trains 10"

_TRIED = "a configuration, not a score: searches/learning_rate.py tries it first"

TABLES: dict[str, Sequence[Figure]] = {
    "1": [
        Figure(label=f"{data}, batch {batch_size}, {epochs} epochs", metric="lr", value=1e-5, task=task, why_not=_TRIED)
        for data, task, batch_size, epochs in (
            ("SST", "sst", 64, 10),
            ("CFIMDB", "cfimdb", 8, 10),
            ("Quora", "paraphrase", 16, 10),
            ("sonnets", "sonnet", 8, 50),
            ("poems", "poems", 4, 10),
        )
    ],
    "2": [
        _sentiment("sst", "last-linear", 64, 1e-3, 47.0),
        _sentiment("sst", "full", 64, 1e-5, 50.8),
        _sentiment("cfimdb", "last-linear", 8, 1e-3, 87.8),
        _sentiment("cfimdb", "full", 8, 1e-5, 96.7),
    ],
    "3": [
        _distillation("baseline, 10 epochs (ours: the best of 8)", 80.0, pairs_examples=0, lr=1e-5, batch_size=16),
        _distillation("approach 1, 4 epochs (ours: the best of 8)", 83.0, filters="basic", lr=1.5e-5, batch_size=8),
        _distillation("approach 2, 8 epochs", 82.0, filters="all", lr=1.5e-5, batch_size=16),
    ],
    "4": [
        _chrf(
            f"{attention}{', poems first' if first else ''}",
            value,
            "pretraining",
            {"attention": attention, "pretrain": first, "lr": 1e-5, "pretrain_lr": 1e-5},
        )
        for attention, first, value in (
            ("dense", None, 40.517),
            ("logsparse", None, 40.483),
            ("dense", "poems", 41.405),
            ("logsparse", "poems", 39.901),
        )
    ],
    "5": [
        _chrf(label, value, "decoding", {"decoder": decoder, "temperature": 1.2})
        for label, decoder, value in (
            ("greedy", "greedy", 33.276),
            ("top-k", "top-k", 41.095),
            ("top-p", "top-p", 41.430),
            ("top-k-p, the study's reading", "top-k-p-study", 40.684),
            ("beam", "beam", 26.778),
        )
    ],
    "6": [
        _count("total, with a pooler", "total", 775_669_760),
        _count("freeze first half", "freeze", 118_064_640),
        *(_count(f"LoRA r = {rank}", "lora", 92_160 * rank, rank) for rank in (4, 8, 16, 32)),
        _memory("full", "full", 12.78),
        _memory("freeze first half", "freeze", 4.77),
        *(_memory(f"LoRA r = {r}", "lora", gb, r) for r, gb in ((4, 3.34), (8, 3.35), (16, 3.36), (32, 7.55))),
    ],
    "7": [
        *_adapter("full", {"adapter": "full"}, 1.556, 4.739, 41.729),
        *_adapter("freeze", {"adapter": "freeze"}, 3.533, 34.215, 40.434),
        *_adapter("LoRA r = 4", {"adapter": "lora", "rank": 4}, 4.260, 70.834, 40.083),
        *_adapter("LoRA r = 8", {"adapter": "lora", "rank": 8}, 4.250, 70.072, 39.675),
        *_adapter("LoRA r = 16", {"adapter": "lora", "rank": 16}, 4.239, 69.347, 40.516),
        *_adapter("LoRA r = 32", {"adapter": "lora", "rank": 32}, 4.253, 70.310, 40.546),
        Figure(label="LoRA r = 16, longer", metric="chrf_whole", value=38.484, model="gpt2-large", why_not=_LONGER),
    ],
    "figure-1": [_paraphrase("dense", 89.7), _paraphrase("logsparse", 85.6)],
    "figure-2": [
        _distillation("approach 1, the highest epoch", 83.0, filters="basic", lr=1.5e-5, batch_size=8),
        _distillation("approach 2, the highest epoch", 82.0, filters="all", lr=1.5e-5, batch_size=16),
    ],
}
