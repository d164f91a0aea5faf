"""What the study printed: its figures, the comparisons that it draws, and which search asks each of them again.

The study: "Improving GPT-2 Task-Specific Performance via Impossible Distillation, Sparse Attention, and Parameter-Efficient
Fine-Tuning", a CS224N default project, 2025. Scores are on its dev splits unless a figure says test, accuracy in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Point = Mapping[str, Any]

#: Texts of the training and the dev split of each task, as printed. Of CFIMDB, the study's own 1,701 is 6 short of the files.
SIZES: dict[str, tuple[int, int]] = {
    "sst": (8_544, 1_101),
    "cfimdb": (1_707, 245),
    "paraphrase": (141_506, 20_215),
    "sonnet": (131, 12),
}

#: Values that all runs of the study share.
COMMON: Point = {"dropout": 0.1, "schedule": "constant", "warmup_steps": 0, "clip_norm": None}

#: How far beyond the interval of our mean a printed value may lie and still count as reproduced; RELATIVE is a share of it.
MARGINS = {"chrf_whole": 1.0, "accuracy": 1.0, "train_loss": 0.05}
RELATIVE = {"train_perplexity": 0.02}

#: Digits behind the point with which the study prints a metric.
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
    """One printed figure. `search` and `task` say where it is asked again, `point` which trial it is, `metric` what of it.

    `setup` holds the other values of the run that are printed, `passes` the printed number of passes over the training texts.
    A figure on the test split is one of the chosen settings where `point` is empty.
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
    why_not: str = ""  # why no search asks it

    @property
    def margin(self) -> float:
        """How far from the interval of our mean the printed value may lie."""
        return MARGINS.get(self.metric, RELATIVE.get(self.metric, 0.0) * self.value)

    @property
    def printed(self) -> str:
        """The value with the study's digits."""
        if self.metric == "lr":
            return f"{self.value:g}".replace("e-0", "e-")
        return f"{self.value:,.{PRINTED_DIGITS.get(self.metric, 3)}f}"

    @property
    def measure(self) -> str:
        """What the value is, in words."""
        words = METRIC_WORDS.get(self.metric, self.metric.replace("_", " "))
        return f"{words}, test" if self.split == "test" else words


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One side of a comparison: its name in a sentence, and the values by which its runs are found."""

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
        """By which it is known among the contrasts of a search."""
        return self.first.name, self.second.name


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison that the study draws; it holds where all of its contrasts hold. `printed` are the study's numbers."""

    table: str
    words: str
    printed: str
    metric: str  # the study's
    search: str | None = None
    task: str = "sonnet"
    model: str = "gpt2"
    contrasts: Sequence[Contrast] = ()
    why_not: str = ""  # why no search asks it


# Figures

_SONNET = {"lr": 1e-5, "batch_size": 8}
_QUORA = {"lr": 1e-5, "batch_size": 16}


def _table_4(attention: str, first: str | None, value: float) -> Figure:
    setup: dict[str, Any] = {"adapter": "full", **_SONNET}
    if first:
        setup |= {"pretrain_lr": 1e-5, "pretrain_batch_size": 4, "pretrain_epochs": 10, "pretrain_examples": None}
    return Figure(
        label=f"{attention}{', poems first' if first else ''}",
        metric="chrf_whole",
        value=value,
        search="pretraining",
        point={"attention": attention, "pretrain": first},
        setup=setup,
        passes=50,
    )


def _decoder(label: str, decoder: str, value: float) -> Figure:
    reads = {"top-k": ("top_k",), "top-p": ("top_p",), "top-k-p-study": ("top_k", "top_p"), "beam": ("num_beams",)}
    values = {"top_k": 50, "top_p": 0.9, "num_beams": 5}
    setup: dict[str, Any] = {"pretrain_lr": 1e-5, "pretrain_batch_size": 8, "pretrain_epochs": 10}
    setup |= {"repetition_penalty": 1.0, **{key: values[key] for key in reads.get(decoder, ())}}
    setup |= {} if decoder == "greedy" else {"temperature": 1.2}
    point = {"decoder": decoder}
    return Figure(label=label, metric="chrf_whole", value=value, search="decoding", point=point, setup=setup)


def _sentiment(task: str, adapter: str, batch_size: int, lr: float, value: float, test: bool = False) -> Figure:
    return Figure(
        label=f"{task.upper()}, {adapter}",
        metric="accuracy",
        value=value,
        search="sentiment",
        task=task,
        point={"adapter": adapter},
        setup={"lr": lr, "batch_size": batch_size, "head_dropout": 0.3},
        passes=10,
        split="test" if test else "dev",
    )


def _paraphrase(label: str, point: Point, value: float, split: Literal["dev", "test"] = "dev") -> Figure:
    return Figure(
        label=label,
        metric="accuracy",
        value=value,
        search="attention",
        task="paraphrase",
        point=point,
        setup={"adapter": "full", **_QUORA},
        passes=10,
        split=split,
    )


def _distillation(label: str, value: float, passes: int, lr: float, batch_size: int, **point: Any) -> Figure:
    return Figure(
        label=f"{label} {passes} epochs",
        metric="accuracy",
        value=value,
        search="distillation",
        task="paraphrase",
        point={"pairs_examples": "all", **point},
        setup={"adapter": "full", "lr": lr, "batch_size": batch_size},
        passes=passes,
    )


def _adapter(label: str, point: Point, loss: float, perplexity: float, chrf: float) -> list[Figure]:
    setup: dict[str, Any] = {**_SONNET}
    if point["adapter"] == "lora":
        setup |= {"alpha": 32.0, "lora_dropout": 0.1, "targets": "qkv", "blocks": "0-11"}
    elif point["adapter"] == "freeze":
        setup |= {"blocks": "6-11"}
    values = {"train_loss": loss, "train_perplexity": perplexity, "chrf_whole": chrf}
    return [
        Figure(
            label=label,
            metric=metric,
            value=value,
            search="adapters",
            point=point,
            setup=setup,
            passes=10,
            model="gpt2-large",
        )
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
        _sentiment("sst", "last-linear", 64, 1e-3, 46.6, test=True),
        _sentiment("sst", "full", 64, 1e-5, 50.8),
        _sentiment("sst", "full", 64, 1e-5, 54.8, test=True),
        _sentiment("cfimdb", "last-linear", 8, 1e-3, 87.8),
        _sentiment("cfimdb", "full", 8, 1e-5, 96.7),
    ],
    "3": [
        _distillation("baseline,", 80.0, 10, 1e-5, 16, pairs_examples=0),
        _distillation("approach 1,", 83.0, 4, 1.5e-5, 8, filters="basic"),
        _distillation("approach 2,", 82.0, 8, 1.5e-5, 16, filters="all"),
    ],
    "4": [
        _table_4("dense", None, 40.517),
        _table_4("logsparse", None, 40.483),
        _table_4("dense", "poems", 41.405),
        _table_4("logsparse", "poems", 39.901),
    ],
    "5": [
        _decoder("greedy", "greedy", 33.276),
        _decoder("top-k", "top-k", 41.095),
        _decoder("top-p", "top-p", 41.430),
        _decoder("top-k-p, the study's reading", "top-k-p-study", 40.684),
        _decoder("beam", "beam", 26.778),
        Figure(
            label="sonnets, best on test",
            metric="chrf_whole",
            value=41.822,
            search="decoding",
            setup={"pretrain_lr": 1e-5, "pretrain_batch_size": 8, "pretrain_epochs": 10},
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
        *_adapter("full", {"adapter": "full"}, 1.556, 4.739, 41.729),
        *_adapter("freeze", {"adapter": "freeze"}, 3.533, 34.215, 40.434),
        *_adapter("LoRA r = 4", {"adapter": "lora", "rank": 4}, 4.260, 70.834, 40.083),
        *_adapter("LoRA r = 8", {"adapter": "lora", "rank": 8}, 4.250, 70.072, 39.675),
        *_adapter("LoRA r = 16", {"adapter": "lora", "rank": 16}, 4.239, 69.347, 40.516),
        *_adapter("LoRA r = 32", {"adapter": "lora", "rank": 32}, 4.253, 70.310, 40.546),
        Figure(label="LoRA r = 16, longer", metric="chrf_whole", value=38.484, model="gpt2-large", why_not=_LONGER),
    ],
    "figure-1": [
        _paraphrase("Quora, dense", {"attention": "dense"}, 89.7),
        _paraphrase("Quora, logsparse", {"attention": "logsparse"}, 85.6),
        _paraphrase("Quora, best on test", {}, 87.2, "test"),
    ],
    "figure-2": [
        _distillation("approach 1, highest of", 83.0, 4, 1.5e-5, 8, filters="basic"),
        _distillation("approach 2, highest of", 82.0, 8, 1.5e-5, 16, filters="all"),
    ],
}


# Claims

_LAST_LINEAR, _FULL = (Setting(name=name, point={"adapter": name}) for name in ("last-linear", "full"))
_NO_PAIRS = Setting(name="no pairs", point={"pairs_examples": 0})
_PAIRS = Setting(name="generated pairs", point={"pairs_examples": "all"})
_APPROACH_1 = Setting(name="approach 1", point={"pairs_examples": "all", "filters": "basic"})
_APPROACH_2 = Setting(name="approach 2", point={"pairs_examples": "all", "filters": "all"})
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


def _table_7(words: str, printed: str, metric: str, *contrasts: Contrast) -> Claim:
    return Claim(
        table="7",
        words=words,
        printed=printed,
        metric=metric,
        search="adapters",
        model="gpt2-large",
        contrasts=contrasts,
    )


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
    Claim(
        table="3",
        words="Generated pairs help to detect paraphrases.",
        printed="83.0 (approach 1) and 82.0 (approach 2) against 80.0 % accuracy",
        metric="accuracy",
        search="distillation",
        task="paraphrase",
        contrasts=_over(_PAIRS, _NO_PAIRS),
    ),
    Claim(
        table="3",
        words="Approach 1 is better than approach 2.",
        printed="83.0 against 82.0 % accuracy",
        metric="accuracy",
        search="distillation",
        task="paraphrase",
        contrasts=_over(_APPROACH_1, _APPROACH_2),
    ),
    *(
        Claim(
            table="4",
            words=words,
            printed=f"{printed} chrF",
            metric="chrf_whole",
            search="pretraining",
            contrasts=contrasts,
        )
        for words, printed, contrasts in (
            (
                "Training on poems first improves sonnets with dense attention.",
                "41.405 against 40.517",
                _over(_DENSE_POEMS, _DENSE_ALONE),
            ),
            (
                "Training on poems first makes sonnets worse with LogSparse attention.",
                "39.901 against 40.483",
                _under(_SPARSE_POEMS, _SPARSE_ALONE),
            ),
            (
                "Without poems, LogSparse attention is about as good as dense attention.",
                "40.483 against 40.517",
                [Contrast(first=_SPARSE_ALONE, second=_DENSE_ALONE, says="as good")],
            ),
            (
                "With poems first, LogSparse attention is worse than dense attention.",
                "39.901 against 41.405",
                _under(_SPARSE_POEMS, _DENSE_POEMS),
            ),
        )
    ),
    *(
        Claim(
            table="5",
            words=words,
            printed=f"{printed} chrF",
            metric="chrf_whole",
            search="decoding",
            contrasts=contrasts,
        )
        for words, printed, contrasts in (
            (
                "Top-p sampling is the best of the five decoders.",
                "41.430 against 41.095 (top-k), 40.684 (top-k-p), 33.276 (greedy) and 26.778 (beam)",
                _over(_TOP_P, _TOP_K, _TOP_K_P, _GREEDY, _BEAM),
            ),
            (
                "Greedy decoding is worse than sampling.",
                "33.276 against 40.684 to 41.430",
                _under(_GREEDY, _TOP_P, _TOP_K, _TOP_K_P),
            ),
            (
                "Beam search is worse than all other decoders.",
                "26.778 against 33.276 to 41.430",
                _under(_BEAM, _TOP_P, _TOP_K, _TOP_K_P, _GREEDY),
            ),
        )
    ),
    _table_7(
        "Full tuning is better than LoRA of any rank.",
        "41.729 against 39.675 to 40.546 chrF",
        "chrf_whole",
        *_over(_FULL, *_RANKS.values()),
    ),
    _table_7(
        "Freezing the first half lies between full tuning and LoRA.",
        "34.215 against 4.739 (full) and 69.347 to 70.834 (LoRA) training perplexity",
        "train_perplexity",
        *_over(_FULL, _FREEZE),
        *_over(_FREEZE, *_RANKS.values()),
    ),
    _table_7(
        "Rank 16 is the best of LoRA's ranks.",
        "69.347 against 70.072 to 70.834 training perplexity (by chrF, rank 32 is ahead: 40.546 against 40.516)",
        "train_perplexity",
        *_over(_RANKS[16], _RANKS[4], _RANKS[8], _RANKS[32]),
    ),
    _table_7(
        "LoRA of rank 32 is no better than of rank 16.",
        "70.310 against 69.347 training perplexity",
        "train_perplexity",
        Contrast(first=_RANKS[32], second=_RANKS[16], says="no better"),
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
