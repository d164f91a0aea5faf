"""The published study: its figures and claims, and the search that reproduces each.

The study: "Improving GPT-2 Task-Specific Performance via Impossible Distillation, Sparse Attention, and Parameter-Efficient
Fine-Tuning", a CS224N default project, 2025. Scores are on the dev split unless a figure says test; accuracy is in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from gpt2core.naming import words

Point = Mapping[str, Any]

#: Printed sizes of the training and dev splits. The study prints 1,701 for CFIMDB, 6 fewer than its files have.
SIZES: dict[str, tuple[int, int]] = {
    "sst": (8_544, 1_101),
    "cfimdb": (1_707, 245),
    "paraphrase": (141_506, 20_215),
    "sonnet": (131, 12),
}

#: Values that all runs of the study share.
COMMON: Point = {"dropout": 0.1, "schedule": "constant", "warmup_steps": 0, "clip_norm": None}

#: How far outside the interval of our mean a reproduced value may lie; RELATIVE is a share of the value.
MARGINS = {"chrf_whole": 1.0, "accuracy": 1.0, "train_loss": 0.05}
RELATIVE = {"train_perplexity": 0.02}

#: Decimals in the study's tables; 3 for other metrics.
PRINTED_DIGITS = {"accuracy": 1, "predicted_gpu_memory_gb": 2, "parameters": 0}

METRIC_WORDS = {
    "accuracy": "accuracy in %",
    "chrf_whole": "chrF of the whole sonnet",
    "train_loss": "training loss, nats per token",
    "train_perplexity": "training perplexity",
    "parameters": "parameters",
    "predicted_gpu_memory_gb": "GPU memory, GB",
    "lr": "learning rate",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A printed figure: `metric` of the trial at `point` in `search` on `task`.

    `setup` holds the run's other printed values, `passes` the printed number of passes over the training texts. A figure on the
    test split with an empty `point` belongs to the selected setting.
    """

    label: str
    metric: str
    value: float
    model: str = "gpt2"
    search: str | None = None
    task: str = "sonnet"
    point: Point = field(default_factory=dict)
    setup: Point = field(default_factory=dict)
    passes: float | None = None
    split: Literal["dev", "test"] = "dev"
    why_not: str = ""  # why no search reproduces it

    @property
    def margin(self) -> float:
        """How far outside the interval of our mean the printed value may lie."""
        return MARGINS.get(self.metric, RELATIVE.get(self.metric, 0.0) * self.value)

    @property
    def printed(self) -> str:
        """The value as the study prints it."""
        if self.metric == "lr":
            return f"{self.value:g}".replace("e-0", "e-")
        return f"{self.value:,.{PRINTED_DIGITS.get(self.metric, 3)}f}"

    @property
    def measure(self) -> str:
        """The metric as text."""
        text = METRIC_WORDS.get(self.metric, words(self.metric))
        return f"{text}, test" if self.split == "test" else text


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One side of a comparison: its name in a sentence, and the values that identify its runs."""

    name: str
    point: Point


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What the study says of two settings: the first is better, about as good, or no better than the second."""

    first: Setting
    second: Setting
    says: Literal["better", "as good", "no better"] = "better"

    @property
    def names(self) -> tuple[str, str]:
        """The names of both settings, which identify the contrast in its search."""
        return self.first.name, self.second.name


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison that the study draws; it holds if all of its contrasts hold. `printed` has the study's numbers."""

    table: str
    words: str
    printed: str
    metric: str  # the study's
    search: str | None = None
    task: str = "sonnet"
    model: str = "gpt2"
    contrasts: Sequence[Contrast] = ()
    why_not: str = ""  # why no search tests it


# Figures

_SONNET = {"lr": 1e-5, "batch_size": 8}
_QUORA = {"lr": 1e-5, "batch_size": 16}
_POEMS = {"pretrain_lr": 1e-5, "pretrain_batch_size": 8, "pretrain_epochs": 10}


def _pretrained(attention: str, first: str | None, value: float) -> Figure:
    label = f"{attention}{', poems first' if first else ''}"
    setup: dict[str, Any] = {"adapter": "full", **_SONNET}
    if first:
        setup |= {**_POEMS, "pretrain_batch_size": 4, "pretrain_examples": None}
    point = {"attention": attention, "pretrain": first}
    return Figure(
        label=label, metric="chrf_whole", value=value, search="pretraining", point=point, setup=setup, passes=50
    )


def _decoder(label: str, decoder: str, value: float, **values: Any) -> Figure:
    setup = {**_POEMS, "repetition_penalty": 1.0, **values}
    point = {"decoder": decoder}
    return Figure(label=label, metric="chrf_whole", value=value, search="decoding", point=point, setup=setup)


def _sentiment(task: str, adapter: str, value: float, split: Literal["dev", "test"] = "dev") -> Figure:
    return Figure(
        label=f"{task.upper()}, {adapter}",
        metric="accuracy",
        value=value,
        search="sentiment",
        task=task,
        point={"adapter": adapter},
        setup={
            "lr": 1e-5 if adapter == "full" else 1e-3,
            "batch_size": {"sst": 64, "cfimdb": 8}[task],
            "head_dropout": 0.3,
        },
        passes=10,
        split=split,
    )


_paraphrase = partial(
    Figure, metric="accuracy", search="attention", task="paraphrase", setup={"adapter": "full", **_QUORA}, passes=10
)


def _distillation(label: str, value: float, passes: int, lr: float, batch_size: int, **point: Any) -> Figure:
    return Figure(
        label=f"{label} {passes} epochs",
        metric="accuracy",
        value=value,
        search="distillation",
        task="paraphrase",
        point={"added_pairs": "generated", **point},
        setup={"adapter": "full", "lr": lr, "batch_size": batch_size},
        passes=passes,
    )


def _adapter(label: str, loss: float, perplexity: float, chrf: float, **point: Any) -> list[Figure]:
    setups: dict[str, Point] = {
        "lora": {"alpha": 32.0, "lora_dropout": 0.1, "targets": "qkv", "blocks": "0-11"},
        "freeze": {"blocks": "6-11"},
    }
    setup = {**_SONNET, **setups.get(point["adapter"], {})}
    figure = partial(Figure, label=label, search="adapters", point=point, setup=setup, passes=10, model="gpt2-large")
    values = {"train_loss": loss, "train_perplexity": perplexity, "chrf_whole": chrf}
    return [figure(metric=metric, value=value) for metric, value in values.items()]


def _described(metric: str, label: str, adapter: str, value: float, rank: int = 8) -> Figure:
    point = {"adapter": adapter, "rank": rank}
    return Figure(label=label, metric=metric, value=value, search="describe", point=point, model="gpt2-large")


_count, _memory = partial(_described, "parameters"), partial(_described, "predicted_gpu_memory_gb")

_LONGER = "40 epochs, stopped at 30: the search trains for 10"
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
        _sentiment("sst", "last-linear", 47.0),
        _sentiment("sst", "last-linear", 46.6, "test"),
        _sentiment("sst", "full", 50.8),
        _sentiment("sst", "full", 54.8, "test"),
        _sentiment("cfimdb", "last-linear", 87.8),
        _sentiment("cfimdb", "full", 96.7),
    ],
    "3": [
        _distillation("baseline,", 80.0, 10, 1e-5, 16, added_pairs=None),
        _distillation("approach 1,", 83.0, 4, 1.5e-5, 8, filters="basic"),
        _distillation("approach 2,", 82.0, 8, 1.5e-5, 16, filters="all"),
    ],
    "4": [
        _pretrained("dense", None, 40.517),
        _pretrained("logsparse", None, 40.483),
        _pretrained("dense", "poems", 41.405),
        _pretrained("logsparse", "poems", 39.901),
    ],
    "5": [
        _decoder("greedy", "greedy", 33.276),
        _decoder("top-k", "top-k", 41.095, top_k=50, temperature=1.2),
        _decoder("top-p", "top-p", 41.430, top_p=0.9, temperature=1.2),
        _decoder("top-k-p, the study's reading", "top-k-p-study", 40.684, top_k=50, top_p=0.9, temperature=1.2),
        _decoder("beam", "beam", 26.778, num_beams=5, temperature=1.2),
        Figure(
            label="sonnets, best on test",
            metric="chrf_whole",
            value=41.822,
            search="decoding",
            setup=_POEMS,
            split="test",
        ),
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
        *_adapter("full", 1.556, 4.739, 41.729, adapter="full"),
        *_adapter("freeze", 3.533, 34.215, 40.434, adapter="freeze"),
        *_adapter("LoRA r = 4", 4.260, 70.834, 40.083, adapter="lora", rank=4),
        *_adapter("LoRA r = 8", 4.250, 70.072, 39.675, adapter="lora", rank=8),
        *_adapter("LoRA r = 16", 4.239, 69.347, 40.516, adapter="lora", rank=16),
        *_adapter("LoRA r = 32", 4.253, 70.310, 40.546, adapter="lora", rank=32),
        Figure(label="LoRA r = 16, longer", metric="chrf_whole", value=38.484, model="gpt2-large", why_not=_LONGER),
    ],
    "figure-1": [
        _paraphrase(label="Quora, dense", value=89.7, point={"attention": "dense"}),
        _paraphrase(label="Quora, logsparse", value=85.6, point={"attention": "logsparse"}),
        _paraphrase(label="Quora, best on test", value=87.2, split="test"),
    ],
    "figure-2": [
        _distillation("approach 1, highest of", 83.0, 4, 1.5e-5, 8, filters="basic"),
        _distillation("approach 2, highest of", 82.0, 8, 1.5e-5, 16, filters="all"),
    ],
}


# Claims

_LAST_LINEAR, _FULL = (Setting(name=name, point={"adapter": name}) for name in ("last-linear", "full"))
_NO_PAIRS = Setting(name="no pairs", point={"added_pairs": None})
_PAIRS = Setting(name="generated pairs", point={"added_pairs": "generated"})
_APPROACH_1 = Setting(name="approach 1", point={"added_pairs": "generated", "filters": "basic"})
_APPROACH_2 = Setting(name="approach 2", point={"added_pairs": "generated", "filters": "all"})
_DENSE, _SPARSE = (Setting(name=name, point={"attention": name}) for name in ("dense", "logsparse"))
_DENSE_ALONE, _SPARSE_ALONE, _DENSE_POEMS, _SPARSE_POEMS = (
    Setting(name=f"{attention} {words}", point={"attention": attention, "pretrain": first})
    for first, words in ((None, "without poems"), ("poems", "after poems"))
    for attention in ("dense", "logsparse")
)
_GREEDY, _TOP_K, _TOP_P, _TOP_K_P, _BEAM = (
    Setting(name=name.removesuffix("-study"), point={"decoder": name})
    for name in ("greedy", "top-k", "top-p", "top-k-p-study", "beam")
)
_FREEZE = Setting(name="freeze", point={"adapter": "freeze"})
_RANKS = {rank: Setting(name=f"LoRA r = {rank}", point={"adapter": "lora", "rank": rank}) for rank in (4, 8, 16, 32)}


def _over(first: Setting, *others: Setting) -> list[Contrast]:
    return [Contrast(first=first, second=other) for other in others]


def _under(second: Setting, *others: Setting) -> list[Contrast]:
    return [Contrast(first=other, second=second) for other in others]


_table_3 = partial(Claim, table="3", metric="accuracy", search="distillation", task="paraphrase")
_table_4 = partial(Claim, table="4", metric="chrf_whole", search="pretraining")
_table_5 = partial(Claim, table="5", metric="chrf_whole", search="decoding")
_table_7 = partial(Claim, table="7", search="adapters", model="gpt2-large")

CLAIMS: Sequence[Claim] = [
    *(
        Claim(
            table="2",
            words=f"Full tuning classifies {task.upper()} better than the last linear layer alone.",
            printed=f"{full} against {last} % accuracy",
            metric="accuracy",
            search="sentiment",
            task=task,
            contrasts=_over(_FULL, _LAST_LINEAR),
        )
        for task, full, last in (("sst", "50.8", "47.0"), ("cfimdb", "96.7", "87.8"))
    ),
    _table_3(
        words="Generated pairs help to detect paraphrases.",
        printed="83.0 (approach 1) and 82.0 (approach 2) against 80.0 % accuracy",
        contrasts=_over(_PAIRS, _NO_PAIRS),
    ),
    _table_3(
        words="Approach 1 is better than approach 2.",
        printed="83.0 against 82.0 % accuracy",
        contrasts=_over(_APPROACH_1, _APPROACH_2),
    ),
    _table_4(
        words="Training on poems first improves sonnets with dense attention.",
        printed="41.405 against 40.517 chrF",
        contrasts=_over(_DENSE_POEMS, _DENSE_ALONE),
    ),
    _table_4(
        words="Training on poems first makes sonnets worse with LogSparse attention.",
        printed="39.901 against 40.483 chrF",
        contrasts=_under(_SPARSE_POEMS, _SPARSE_ALONE),
    ),
    _table_4(
        words="Without poems, LogSparse attention is about as good as dense attention.",
        printed="40.483 against 40.517 chrF",
        contrasts=[Contrast(first=_SPARSE_ALONE, second=_DENSE_ALONE, says="as good")],
    ),
    _table_4(
        words="With poems first, LogSparse attention is worse than dense attention.",
        printed="39.901 against 41.405 chrF",
        contrasts=_under(_SPARSE_POEMS, _DENSE_POEMS),
    ),
    _table_5(
        words="Top-p sampling is the best of the five decoders.",
        printed="41.430 against 41.095 (top-k), 40.684 (top-k-p), 33.276 (greedy) and 26.778 (beam) chrF",
        contrasts=_over(_TOP_P, _TOP_K, _TOP_K_P, _GREEDY, _BEAM),
    ),
    _table_5(
        words="Greedy decoding is worse than sampling.",
        printed="33.276 against 40.684 to 41.430 chrF",
        contrasts=_under(_GREEDY, _TOP_P, _TOP_K, _TOP_K_P),
    ),
    _table_5(
        words="Beam search is worse than all other decoders.",
        printed="26.778 against 33.276 to 41.430 chrF",
        contrasts=_under(_BEAM, _TOP_P, _TOP_K, _TOP_K_P, _GREEDY),
    ),
    _table_7(
        words="Full tuning is better than LoRA of any rank.",
        printed="41.729 against 39.675 to 40.546 chrF",
        metric="chrf_whole",
        contrasts=_over(_FULL, *_RANKS.values()),
    ),
    _table_7(
        words="Freezing the first half lies between full tuning and LoRA.",
        printed="34.215 against 4.739 (full) and 69.347 to 70.834 (LoRA) training perplexity",
        metric="train_perplexity",
        contrasts=[*_over(_FULL, _FREEZE), *_over(_FREEZE, *_RANKS.values())],
    ),
    _table_7(
        words="Rank 16 is the best of LoRA's ranks.",
        printed="69.347 against 70.072 to 70.834 training perplexity (by chrF, rank 32 is ahead: 40.546 against 40.516)",
        metric="train_perplexity",
        contrasts=_over(_RANKS[16], _RANKS[4], _RANKS[8], _RANKS[32]),
    ),
    _table_7(
        words="LoRA of rank 32 is no better than of rank 16.",
        printed="70.310 against 69.347 training perplexity",
        metric="train_perplexity",
        contrasts=[Contrast(first=_RANKS[32], second=_RANKS[16], says="no better")],
    ),
    Claim(
        table="7",
        words="Training LoRA of rank 16 for 30 epochs in place of 10 lowers the loss and makes sonnets worse.",
        printed="perplexity 51.822 against 69.347; 38.484 against 40.516 chrF",
        metric="chrf_whole",
        model="gpt2-large",
        why_not="no search compares the numbers of epochs",
    ),
    Claim(
        table="figure-1",
        words="LogSparse attention detects paraphrases worse than dense attention.",
        printed="85.6 against 89.7 % accuracy",
        metric="accuracy",
        search="attention",
        task="paraphrase",
        contrasts=_under(_SPARSE, _DENSE),
    ),
]
