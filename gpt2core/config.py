"""The keys of a run, declared by component, the configurations that they make, and the named models.

Every value is checked before anything costs time.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.fields import FieldInfo

from gpt2core.component import (
    Config,
    Decides,
    Keys,
    OpenConfig,
    cached_until_tables_change,
    component_keys,
    decides,
    declared_keys,
    key,
)
from gpt2core.errors import ConfigError


class ModelConfig(Config):
    """Shape of a GPT-2. `n_embd` channels (C), `n_head` heads (H), `n_layer` blocks, `n_positions` tokens of context."""

    vocab_size: int = Field(50257, ge=1, le=2**24, strict=True)
    n_positions: int = Field(1024, ge=1, le=2**20, strict=True)
    n_embd: int = Field(768, ge=1, le=2**16, strict=True)
    n_layer: int = Field(12, ge=1, le=2**10, strict=True)
    n_head: int = Field(12, ge=1, le=2**16, strict=True)
    layer_norm_epsilon: float = Field(1e-5, gt=0, le=1, strict=True)

    def model_post_init(self, _: Any) -> None:
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"The value of `n_head` is {self.n_head}, but must divide `n_embd`, which is {self.n_embd}"
            )


MODELS: dict[str, ModelConfig] = {
    "gpt2-nano": ModelConfig(vocab_size=4096, n_positions=512, n_embd=192, n_layer=4, n_head=6),
    "gpt2": ModelConfig(),
    "gpt2-medium": ModelConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": ModelConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": ModelConfig(n_embd=1600, n_layer=48, n_head=25),
}


class PatternKeys(Keys):
    """Keys of attention to a pattern of earlier tokens, as `attention.pattern.offsets` has it."""

    attention_window: int = key(
        1, "logsparse, auto: how many of the last tokens are always seen", "step", "evaluation", "stage", ge=1
    )
    attention_restart: int = key(
        0,
        "logsparse, auto: after how many tokens the pattern repeats; 0 is never",
        *("step", "evaluation", "stage"),
        ge=0,
    )


class AttentionConfig(Config):
    """Which tokens a token may look at.

    `schedule` names an entry of ATTENTION, or several with commas between, which the blocks take in turn. `window` and
    `restart` are tokens, as in `attention.pattern.offsets`. The key `attention_NAME` of a kernel is here `NAME`.
    """

    model_config = ConfigDict(extra="allow")  # keys of kernels from elsewhere, which `RunConfig` has validated

    schedule: str = "dense"
    window: int = Field(1, ge=1)
    restart: int = Field(0, ge=0)

    @property
    def names(self) -> list[str]:
        """The names in `schedule`."""
        return schedule_names(self.schedule)


def schedule_names(schedule: str) -> list[str]:
    """The names of kernels in a schedule."""
    return [name.strip() for name in schedule.split(",")]


class BlocksKeys(Keys):
    """Keys of adapters that choose some of the blocks."""

    blocks: str = key(
        "default", "blocks that the adapter means: all, lower-half, upper-half, study, or numbers like 0-5,8", "step"
    )


class LoraKeys(BlocksKeys):
    """Keys of LoRA and its variants."""

    rank: int = key(8, "rank of LoRA", "result", ge=1)
    alpha: Annotated[float, Field(gt=0)] | Literal["r", "2r"] = key(
        32.0, "alpha of LoRA, whose scale is alpha / rank: a number, r or 2r", "result"
    )
    lora_dropout: float = key(0.1, "dropout before LoRA", "result", ge=0, lt=1)
    targets: Literal["qkv", "qkv+dense", "all"] = key(
        "qkv", "projections that LoRA adapts: qkv, qkv+dense or all", "step"
    )
    rslora: bool = key(False, "scale LoRA by alpha / sqrt(rank) in place of alpha / rank", "result")
    dora: bool = key(False, "train the magnitude of each output beside LoRA", "step", "evaluation")
    lora_init: Literal["default", "pissa"] = key(
        "default",
        "how LoRA's pairs start: default, or pissa (the largest singular directions of the weights)",
        "result",
    )
    lora_plus: float = key(1.0, "learning rate of LoRA's B in units of that of A", "training", ge=1)

    @property
    def lora_alpha(self) -> float:
        """LoRA's alpha as a number: `r` and `2r` keep the scale alpha / rank the same for every rank."""
        match self.alpha:
            case "r":
                return float(self.rank)
            case "2r":
                return 2.0 * self.rank
            case number:
                return float(number)


class ClassificationKeys(Keys):
    """Keys of tasks that classify."""

    head_dropout: float = key(0.3, "dropout before the head of a classification", "training", ge=0, lt=1)
    contrastive_weight: float = key(
        0.0,
        "weight of the contrastive loss of classes; the rest is cross-entropy",
        *("step", "training"),
        ge=0,
        le=1,
    )


class Thresholds(Keys):
    """Which scored pairs are accepted. They are applied to stored scores: changing one generates nothing again."""

    tau: float = key(
        0.75, "least entailment of a pair, in each direction and by the critic", "data", "stage", ge=0, le=1
    )
    max_rouge: float = key(0.75, "highest ROUGE-L of the two sentences of a pair", "data", "stage", ge=0, le=1)
    min_length_ratio: float = key(
        0.8, "least length of the second sentence in units of the first", "data", "stage", gt=0
    )
    max_length_ratio: float = key(
        1.5, "greatest length of the second sentence in units of the first", "data", "stage", gt=0
    )
    filters: Literal["basic", "all"] = key(
        "all", "which filters accept pairs: all, or basic (length, entailment both ways and critic)", "data", "stage"
    )


class PairKeys(Thresholds):
    """Keys of tasks that learn from generated pairs, made by `python -m trainables.candidates`."""

    pairs: str | None = key(
        None,
        "folder of generated pairs, or one with a folder `temperature-T` for each generation temperature",
        *("data", "stage", "place"),
    )
    pairs_temperature: Annotated[float, Field(gt=0)] | None = key(
        None, "generation temperature of the pairs", "data", "stage"
    )
    pairs_round: Annotated[int, Field(ge=1)] | None = key(
        None, "round of the pairs; none is all of them", "data", "stage"
    )
    pairs_examples: Annotated[int, Field(ge=0)] | Literal["all"] = key(
        "all", "how many of the accepted pairs are learnt from, the first ones", "data", "stage"
    )

    @property
    def learns_from_pairs(self) -> bool:
        """Whether there are any."""
        return self.pairs is not None and self.pairs_examples != 0

    @property
    def thresholds(self) -> Thresholds:
        """The part that says which pairs are accepted."""
        return Thresholds(**{name: getattr(self, name) for name in Thresholds.model_fields})


class DetectionPairKeys(PairKeys):
    """Keys of paraphrase detection that learns from generated pairs."""

    negatives: float = key(
        0.5, "hard negatives of detection for each accepted pair, where there are any", "data", "stage", ge=0
    )
    clean_text: bool = key(
        False, "detection reads all texts with quotes, white space and Unicode made alike", "data", "stage"
    )


class ParaphraseKeys(ClassificationKeys, DetectionPairKeys):
    """Keys of paraphrase detection."""

    paraphrase_head: Literal["binary", "cloze"] = key(
        "binary",
        "what answers whether two questions are paraphrases: binary (a head of classes), or cloze (the tied head's yes and no)",
        *("step", "evaluation", "score"),
    )


class RewritingKeys(PairKeys):
    """Keys of rewriting."""

    kl_weight: float = key(
        0.1, "rewriting: weight of the divergence from the model as it was (lambda)", "training", "stage", ge=0
    )


class TextKeys(Keys):
    """Keys of all decoders."""

    max_new_tokens: int = key(200, "at most so many new tokens", "texts", "evaluation", ge=1)
    repetition_penalty: float = key(
        1.0, "what the logits of tokens of the text are divided by; 1 is off", "texts", ge=0.01, le=100
    )
    no_repeat_ngram: int = key(
        0, "no n-gram of so many tokens comes twice; 0, the default, is off", "texts", "evaluation", ge=0
    )


class TemperatureKeys(TextKeys):
    """Keys of decoders that divide logits."""

    temperature: float = key(
        1.0, "what logits are divided by; 0, or below 1e-5, is greedy whatever the decoder", "texts", ge=0
    )


class TopKKeys(TemperatureKeys):
    """Keys of top-k (Fan et al. 2018)."""

    top_k: int = key(
        50,
        "how many of the likeliest tokens may be drawn; contrastive weighs so many, 4 to 10 as a rule",
        "texts",
        ge=1,
    )


class TopPKeys(TemperatureKeys):
    """Keys of top-p (Holtzman et al. 2020)."""

    top_p: float = key(0.9, "mass of the likeliest tokens that may be drawn", "texts", gt=0, le=1)


class TopKPKeys(TopKKeys, TopPKeys):
    """Keys of top-k and top-p together."""


class MinPKeys(TemperatureKeys):
    """Keys of min-p (Nguyen et al. 2024)."""

    min_p: float = key(
        0.1, "least probability of a token that may be drawn, in units of that of the likeliest", "texts", gt=0, le=1
    )


class TypicalKeys(TemperatureKeys):
    """Keys of locally typical sampling (Meister et al. 2023)."""

    typical_p: float = key(0.95, "mass of the most typical tokens that may be drawn", "texts", gt=0, le=1)


class EtaKeys(TemperatureKeys):
    """Keys of eta sampling (Hewitt et al. 2022)."""

    epsilon: float = key(
        0.002, "threshold of eta: least probability where the distribution is narrow", "texts", gt=0, lt=1
    )


class MirostatKeys(TemperatureKeys):
    """Keys of mirostat (Basu et al. 2021)."""

    mirostat_tau: float = key(5.0, "surprise that mirostat aims at, in bits a token", "texts", gt=0, le=100)
    mirostat_eta: float = key(0.1, "how fast mirostat adapts", "texts", gt=0, le=100)


class ContrastiveKeys(TopKKeys):
    """Keys of contrastive search (Su et al. 2022)."""

    penalty_alpha: float = key(
        0.6, "weight of contrastive search's penalty for resembling the text so far", "texts", ge=0, le=1
    )


class BeamKeys(TemperatureKeys):
    """Keys of beam search."""

    num_beams: int = key(5, "hypotheses that beam search follows; 1 is greedy", "texts", "evaluation", ge=1)
    length_penalty: float = key(
        1.0,
        "beam search divides log-probabilities by the length to this power; above 0 favours long texts",
        "texts",
        ge=-10,
        le=10,
    )
    beam_early_stopping: bool = key(False, "end a beam search as soon as `num_beams` hypotheses have ended", "texts")


class DecodingKeys(TopKPKeys, MinPKeys, TypicalKeys, EtaKeys, MirostatKeys, ContrastiveKeys, BeamKeys):
    """Keys of all decoders of this project. Defaults are published ones."""


class DecodingConfig(DecodingKeys, OpenConfig):
    """How text is generated. `strategy` names an entry of DECODERS."""

    kinds = ("decoder",)

    strategy: str = "top-p"

    @property
    def components(self) -> dict[str, list[str]]:
        """Its strategy."""
        return {"decoder": [self.strategy]}


class FirstStageKeys(Keys):
    """Keys of what a run is trained on first: it starts from the best epoch of that."""

    pretrain: str | None = key(None, "a task to train on first; none is no first stage", "result")
    pretrain_lr: float = key(1e-5, "learning rate of the first stage", "result", gt=0)
    pretrain_batch_size: int = key(4, "batch size of the first stage", "result", ge=1)
    pretrain_epochs: int = key(10, "epochs of the first stage", "result", ge=1)
    pretrain_examples: Annotated[int, Field(ge=1)] | None = key(
        None, "a sample of so many examples that the first stage trains on; none is all", "result"
    )
    pretrain_seed: int = key(11711, "seed of the first stage", "result", ge=0, lt=2**63)


class TrainingKeys(Keys):
    """Keys of how weights are trained: AdamW with betas (0.9, 0.999), as in the study."""

    lr: float = key(1e-5, "learning rate", "training", gt=0)
    batch_size: int = key(8, "examples of an optimizer step", "step", "training", ge=1)
    accumulation: int = key(1, "parts of a batch whose gradients are added up", "step", ge=1)
    epochs: int = key(10, "epochs", "result", ge=1)
    weight_decay: float = key(0.0, "weight decay of AdamW", "training", ge=0)
    schedule: Literal["constant", "cosine"] = key(
        "constant", "learning rate after the warm-up: constant or cosine", "result"
    )
    warmup_steps: int = key(0, "steps over which the learning rate rises to `lr`", "result", ge=0)
    clip_norm: Annotated[float, Field(gt=0)] | None = key(
        None, "norm that gradients are clipped to; none is no clipping", "training"
    )
    dropout: float = key(0.1, "dropout of the blocks and the embeddings", "training", "stage", ge=0, lt=1)
    train_examples: Annotated[int, Field(ge=1)] | None = key(
        None, "a sample of so many examples of the train split; none is all", "step"
    )
    growth: float = key(
        1.0,
        "each epoch trains on so many times the examples of the one before; the last on all",
        "result",
        ge=1,
    )
    cross_documents: bool = key(
        False, "a packed block lets tokens see the texts before their own", "reading", "step", "stage"
    )
    precision: Literal["auto", "float32", "bfloat16"] = key(
        "auto", "precision of training and of written texts; auto is bfloat16 on GPUs that have it", "step", "stage"
    )
    gradient_checkpointing: bool | Literal["auto"] = key(
        "auto", "compute blocks twice and keep less in memory; auto: for models like gpt2-xl", "nothing"
    )


class ChoosingKeys(Keys):
    """Keys of which texts choose the best epoch and the best run, and which judge them."""

    objective: str | None = key(None, "metric by which the best epoch is chosen; none is the task's own", "if set")
    dev_examples: Annotated[int, Field(ge=1)] | None = key(
        None, "a sample of so many examples of the dev split is scored; none is all", "data", "division"
    )
    dev_part: Literal["all", "search"] = key(
        "all", "search: half of dev alone is scored, the rest is for judging", "division", "if set"
    )
    folds: int = key(1, "cross-validation: a sub-run for each fold of the training texts", "division", "if set", ge=1)
    fold: Annotated[int, Field(ge=1)] | None = key(
        None, "of a sub-run: the fold that it does not train on", "division", "if set"
    )
    scored_on: Literal["dev", "folds"] = key(
        "dev", "what chooses, dev or the folds; with folds, the other one judges", "division", "if set"
    )
    judged: bool = key(False, "whether the texts that chose nothing are scored as well", "if set")


class RunKeys(Keys):
    """Keys of every run: the components that it is made of, model, data and seed."""

    task: str = key(
        "sonnet",
        "what is learnt: sst, cfimdb, paraphrase, rewriting, sonnet, pretraining or poems",
        *("data", "step", "evaluation", "score"),
    )
    model: str = key(
        "gpt2-nano",
        "gpt2-nano, gpt2, gpt2-medium, -large, -xl, a folder, or owner/name of the hub",
        *("data", "step", "evaluation", "stage"),
    )
    data_dir: str | None = key(
        None,
        "folder with the course's files (default: what the installed packages hold)",
        *("data", "stage", "score", "place"),
    )
    attention: str = key(
        "dense",
        "attention of the blocks: dense, logsparse, auto, or several in turn, as in dense,logsparse",
        *("step", "evaluation", "stage"),
    )
    adapter: str = key(
        "full",
        "which parameters train: full, freeze, last-linear (the task's own head alone), lora or frozen (none)",
        *("step", "evaluation"),
    )
    decoder: str = key(
        "top-p",
        "how tokens are chosen: greedy, top-k, top-p, top-k-p (top-p of what top-k left), top-k-p-study (what is in both "
        "sets), min-p, typical, eta, mirostat, contrastive or beam",
        *("texts", "evaluation"),
    )
    decode_seeds: int = key(
        3, "texts that are written from each prompt; 0: only losses are measured", "texts", "evaluation", ge=0
    )
    seed: int = key(11711, "seed of everything", "texts", ge=0, lt=2**63)


class RunConfig(
    ChoosingKeys,
    DecodingKeys,
    RewritingKeys,
    ParaphraseKeys,
    TrainingKeys,
    LoraKeys,
    FirstStageKeys,
    PatternKeys,
    RunKeys,
    OpenConfig,
):
    """Everything that decides the result of one training run. Flat, so that each key can be searched or `--set`."""

    kinds = ("task", "adapter", "attention", "decoder")

    @property
    def components(self) -> dict[str, list[str]]:
        """The entries of TASKS, the first stage's too, of ADAPTERS, ATTENTION and DECODERS."""
        return {
            "task": [self.task, *([self.first_task] if self.first_task else [])],
            "adapter": [self.adapter],
            "attention": schedule_names(self.attention),
            "decoder": [self.decoder],
        }

    def model_post_init(self, _: Any) -> None:
        """Raise ConfigError where keys of choosing and judging contradict each other, or one is of no component."""
        super().model_post_init(_)
        if self.fold is not None and (self.folds == 1 or self.fold > self.folds):
            raise ConfigError(
                f"The value of `fold` is {self.fold}, but must be one of {self.folds} `folds`, of two or more"
            )
        if self.folds == 1 and self.scored_on == "folds":
            raise ConfigError("The value of `scored_on` is 'folds', but must be 'dev' where `folds` is 1")
        if self.dev_part == "search" and self.scored_on == "folds":
            raise ConfigError(
                "The value of `dev_part` is 'search', but must be 'all' where `scored_on` is 'folds': all of dev judges then"
            )
        if self.judged and self.folds == 1 and self.dev_part == "all":
            raise ConfigError(
                "The value of `judged` is True, but no text is left to judge: set `dev_part` to 'search', or `folds` to 2 or more"
            )
        if self.folds > 1 and self.reads_pairs:
            raise ConfigError(
                f"The value of `folds` is {self.folds}, but must be 1 with generated `pairs`: they are made of texts of all folds"
            )

    @property
    def reads_pairs(self) -> bool:
        """Whether there are generated pairs that the run learns from, or its first stage; known once TASKS is imported."""
        return self.learns_from_pairs and any(issubclass(task.keys, PairKeys) for task in self.entries("task"))

    @property
    def sub_runs(self) -> list["RunConfig"]:
        """The runs that this one consists of: one for each fold in a round of cross-validation, else itself."""
        if self.folds == 1 or self.fold is not None:
            return [self]
        return [self.but(fold=fold) for fold in range(1, self.folds + 1)]

    @property
    def is_round(self) -> bool:
        """Whether this is a round of cross-validation, and no single run."""
        return self.folds > 1 and self.fold is None

    @property
    def choosing(self) -> str:
        """The part of a single run's data that chooses its best epoch."""
        return "fold" if self.scored_on == "folds" else "dev"

    @property
    def judging(self) -> str | None:
        """The part of a single run's data that judges it and chose nothing; None where none is to be scored."""
        if not self.judged:
            return None
        if self.folds == 1:
            return "confirmation"
        return "dev" if self.scored_on == "folds" else "fold"

    @property
    def packs(self) -> bool:
        """Whether the run can share forward passes with other runs of its base; known once ADAPTERS is imported."""
        return any(adapter.shares_base(self) for adapter in self.entries("adapter"))

    @property
    def trains(self) -> bool:
        """Whether the adapter trains anything; known once ADAPTERS is imported."""
        return all(adapter.trains for adapter in self.entries("adapter"))

    @property
    def attention_config(self) -> AttentionConfig:
        """The attention part of this run."""
        values = self.values_of({**PatternKeys.model_fields, **declared_keys("attention")})
        return AttentionConfig(
            schedule=self.attention, **{name.removeprefix("attention_"): value for name, value in values.items()}
        )

    @property
    def first_task(self) -> str | None:
        """The task of the first stage: `pretrain`, but nothing is learnt from no pairs."""
        return None if self.pretrain == "rewriting" and not self.learns_from_pairs else self.pretrain

    @property
    def decoding(self) -> DecodingConfig:
        """The decoding part of this run."""
        values = self.values_of({**DecodingKeys.model_fields, **declared_keys("decoder")})
        return DecodingConfig(strategy=self.decoder, **values)


def meaning(name: str, keys: type[Config] = RunConfig) -> str:
    """What a key means, in a few words."""
    return str(keys.model_fields[name].description)


@cached_until_tables_change
def known_keys() -> Mapping[str, FieldInfo]:
    """All keys that a run may have: those of RunConfig, and those that components of imported tables declare elsewhere."""
    elsewhere = {name: keys.model_fields[name] for name, keys in component_keys(RunConfig).items()}
    return {**RunConfig.model_fields, **elsewhere}


@cached_until_tables_change
def keys_that_decide(what: Decides) -> Mapping[str, FieldInfo]:
    """The keys of runs that decide `what`."""
    return {name: field for name, field in known_keys().items() if what in decides(field)}


def parse_blocks(spec: str, n_layer: int) -> list[int]:
    """Return the sorted block numbers that `spec` names.

    `spec` is `all`, `lower-half`, `upper-half`, or numbers and ranges such as `0-5,8`.
    Raises ConfigError where it names no block, or one that a model of `n_layer` blocks does not have.
    """
    half = n_layer // 2
    named = {
        "all": range(n_layer),
        "lower-half": range(half),
        "upper-half": range(half, n_layer),
    }
    chosen: set[int] = set(named.get(spec, ()))
    for part in () if spec in named else spec.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            words = ", ".join(named)
            raise ConfigError(f"The value of `blocks` is {spec!r}, but must be one of {words}, or numbers like 0-5,8")
        end = int(last or first)
        chosen.update(range(int(first), end + 1) if end < n_layer else [end])  # a long range is refused, not built
    if not chosen or max(chosen) >= n_layer:
        raise ConfigError(f"The value of `blocks` is {spec!r}, but must name blocks 0 to {n_layer - 1} of this model")
    return sorted(chosen)
