"""Frozen, validated configurations and the named models. Every value is checked before anything costs time."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpt2core.errors import ConfigError, shown
from gpt2core.registry import nearest

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of all configurations: immutable, no unknown keys, errors in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; raise ConfigError naming the key, the value, the rule and the nearest valid name."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = dict.fromkeys(_explain(cls, one) for one in error.errors(include_url=False))
            raise ConfigError("; ".join(list(lines)[:4])) from None

    def but(self, **changes: Any) -> Self:
        """Return a validated copy with some values changed."""
        return type(self).of(self.model_dump() | changes)


def _explain(cls: type[Config], error: Any) -> str:
    key = str(error["loc"][0]) if error["loc"] else "configuration"
    if error["type"] == "extra_forbidden":
        return f"Unknown key `{key}`: {nearest(key, cls.model_fields)}"
    rule = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"The value of `{key}` is {shown(error['input'])}, but must be {rule}"


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


#: Entries of ATTENTION that look at the pattern of `window` and `restart` alone.
PATTERNED = frozenset({"auto", "logsparse"})


class AttentionConfig(Config):
    """Which tokens a token may look at.

    `schedule` names an entry of ATTENTION, or several with commas between, which the blocks take in turn. `window` and
    `restart` are tokens, as in `attention.pattern.offsets`.
    """

    schedule: str = "dense"
    window: int = Field(1, ge=1)
    restart: int = Field(0, ge=0)

    @property
    def names(self) -> list[str]:
        """The names in `schedule`."""
        return [name.strip() for name in self.schedule.split(",")]


LORA_KEYS = ("rank", "alpha", "lora_dropout", "targets", "rslora", "dora", "lora_init", "lora_plus")

#: The keys of classification that a task does not read; one that is not named here reads all of them.
CLASSIFICATION_UNREAD: dict[str, tuple[str, ...]] = {
    "sst": ("paraphrase_head",),
    "cfimdb": ("paraphrase_head",),
    **dict.fromkeys(
        ("sonnet", "pretraining", "poems", "rewriting"), ("head_dropout", "paraphrase_head", "contrastive_weight")
    ),
}

#: The tasks that learn from generated pairs.
PAIRED = frozenset({"paraphrase", "rewriting"})

#: Keys that name folders of a machine. What is in them decides a run, not where they are.
PLACES = ("data_dir", "pairs")
#: Keys that an identity has only where they are set: it is that of a version without them.
LEFT_OUT = ("objective", "dev_part", "folds", "fold", "scored_on", "judged")

COLDEST = 1e-5  # below this temperature, logits leave float32's range: it is greedy decoding

#: The keys that a strategy reads, beside ALWAYS_READ; one that is not named here reads all of them.
DECODER_READS: dict[str, tuple[str, ...]] = {
    "greedy": (),
    "top-k": ("temperature", "top_k"),
    "top-p": ("temperature", "top_p"),
    "top-k-p": ("temperature", "top_k", "top_p"),
    "top-k-p-study": ("temperature", "top_k", "top_p"),
    "min-p": ("temperature", "min_p"),
    "typical": ("temperature", "typical_p"),
    "eta": ("temperature", "epsilon"),
    "mirostat": ("temperature", "mirostat_tau", "mirostat_eta"),
    "contrastive": ("temperature", "top_k", "penalty_alpha"),
    "beam": ("temperature", "num_beams", "length_penalty", "beam_early_stopping"),
}
ALWAYS_READ = ("max_new_tokens", "repetition_penalty", "no_repeat_ngram")


class DecodingKeys(Config):
    """Parameters of the decoding strategies, each read by some of them (DECODER_READS). Defaults are published ones."""

    temperature: float = Field(1.0, ge=0)  # 0 is greedy decoding
    top_k: int = Field(50, ge=1)
    top_p: float = Field(0.9, gt=0, le=1)
    min_p: float = Field(0.1, gt=0, le=1)
    typical_p: float = Field(0.95, gt=0, le=1)
    epsilon: float = Field(0.002, gt=0, lt=1)
    mirostat_tau: float = Field(5.0, gt=0, le=100)  # bits
    mirostat_eta: float = Field(0.1, gt=0, le=100)
    penalty_alpha: float = Field(0.6, ge=0, le=1)
    num_beams: int = Field(5, ge=1)
    length_penalty: float = Field(1.0, ge=-10, le=10)
    beam_early_stopping: bool = False
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)  # 1 is off
    no_repeat_ngram: int = Field(0, ge=0)  # 0 is off
    max_new_tokens: int = Field(160, ge=1)


class DecodingConfig(DecodingKeys):
    """How text is generated. `strategy` names an entry of DECODERS; temperature 0 is greedy decoding."""

    strategy: str = "top-p"

    def resolved(self) -> "DecodingConfig":
        """The same decoding with its name: whatever is very cold, or a beam search of one beam, is greedy."""
        if self.temperature < COLDEST or (self.strategy == "beam" and self.num_beams == 1):
            return self.model_copy(update={"strategy": "greedy", "temperature": 1.0})
        return self

    def identity(self) -> dict[str, Any]:
        """The strategy and the keys that it reads: two configurations with the same identity write the same texts."""
        found = self.resolved()
        read = DECODER_READS.get(found.strategy, tuple(DecodingKeys.model_fields))
        return found.model_dump(include={"strategy", *read, *ALWAYS_READ})


class Thresholds(Config):
    """Which scored pairs are accepted. They are applied on stored scores: changing one generates nothing again."""

    tau: Annotated[float, Field(ge=0, le=1)] = 0.75  # entailment in each direction, and the critic
    max_rouge: Annotated[float, Field(ge=0, le=1)] = 0.75  # ROUGE-L of the two: diversity
    min_length_ratio: Annotated[float, Field(gt=0)] = 0.8  # characters of y in units of those of x
    max_length_ratio: Annotated[float, Field(gt=0)] = 1.5
    filters: Literal["basic", "all"] = "all"  # `basic` is length, entailment both ways and critic


class PairKeys(Thresholds):
    """The generated pairs that a run learns from, made by `python -m trainables.candidates`."""

    pairs: str | None = None  # their folder, or one with a folder `temperature-T` for each generation temperature
    pairs_temperature: Annotated[float, Field(gt=0)] | None = None
    pairs_round: Annotated[int, Field(ge=1)] | None = None  # None is all rounds
    pairs_examples: Annotated[int, Field(ge=0)] | Literal["all"] = "all"  # the first so many accepted ones
    negatives: Annotated[float, Field(ge=0)] = (
        0.5  # hard negatives of detection for each accepted pair, where there are any
    )
    clean_text: bool = False  # whether detection reads all texts with quotes, white space and Unicode made alike

    @property
    def learns_from_pairs(self) -> bool:
        """Whether there are any."""
        return self.pairs is not None and self.pairs_examples != 0

    @property
    def thresholds(self) -> Thresholds:
        """The part that says which pairs are accepted."""
        return Thresholds(**{key: getattr(self, key) for key in Thresholds.model_fields})


#: Blocks of each adapter that takes some: to the letter of the study, and what its words plainly mean.
PRESETS: dict[str, dict[str, str]] = {
    "study": {"lora": "0-11", "freeze": "6-11"},
    "plain": {"lora": "all", "freeze": "upper-half"},
}


class RunConfig(DecodingKeys, PairKeys):
    """Everything that decides the result of one training run. Flat, so that each key can be searched or `--set`."""

    # what is tuned
    task: str = "sonnet"
    model: str = "gpt2-nano"
    data_dir: str | None = None
    attention: str = "dense"
    attention_window: Annotated[int, Field(ge=1)] = 1  # the last so many tokens are seen whatever the pattern
    attention_restart: Annotated[int, Field(ge=0)] = 0  # tokens after which the pattern repeats; 0 is never
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 11711

    # what it is trained on first: the run starts from the best epoch of that
    pretrain: str | None = None  # a task
    pretrain_lr: Annotated[float, Field(gt=0)] = 1e-5
    pretrain_batch_size: Annotated[int, Field(ge=1)] = 4
    pretrain_epochs: Annotated[int, Field(ge=1)] = 10
    pretrain_examples: Annotated[int, Field(ge=1)] | None = None  # a sample of so many; None is all
    pretrain_seed: Annotated[int, Field(ge=0, lt=2**63)] = 11711

    # which parameters train
    adapter: str = "full"
    blocks: str = "default"  # for `parse_blocks`, or `study`
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] | Literal["r", "2r"] = 32.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    targets: Literal["qkv", "qkv+dense", "all"] = "qkv"
    rslora: bool = False  # scale alpha / sqrt(rank) in place of alpha / rank
    dora: bool = False  # whether each output's magnitude trains beside its direction
    lora_init: Literal["default", "pissa"] = "default"  # pissa: the pairs start as the largest singular directions
    lora_plus: Annotated[float, Field(ge=1)] = 1.0  # learning rate of B in units of that of A

    # how they train: AdamW, betas (0.9, 0.999), as in the study
    lr: Annotated[float, Field(gt=0)] = 1e-5
    batch_size: Annotated[int, Field(ge=1)] = 8
    accumulation: Annotated[int, Field(ge=1)] = 1
    epochs: Annotated[int, Field(ge=1)] = 10
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3  # before the head of a classification
    paraphrase_head: Literal["binary", "cloze"] = "binary"  # a head of classes, or the tied head's `yes` and `no`
    contrastive_weight: Annotated[float, Field(ge=0, le=1)] = (
        0.0  # of the contrastive loss of classes; the rest is cross-entropy
    )
    kl_weight: Annotated[float, Field(ge=0)] = 0.1  # rewriting: of the divergence from the model as it was (lambda)
    cross_documents: bool = False  # whether a packed block lets tokens see the texts before their own
    train_examples: Annotated[int, Field(ge=1)] | None = None  # a sample of so many of the train split; None is all
    growth: Annotated[float, Field(ge=1)] = (
        1.0  # each epoch trains on so many times the examples of the one before; the last on all
    )
    dev_examples: Annotated[int, Field(ge=1)] | None = None  # a sample of so many of the dev split is scored
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = (
        "auto"  # compute blocks twice and keep less; auto: models like gpt2-xl
    )

    # which texts choose the best epoch and the best run, and which judge them
    dev_part: Literal["all", "search"] = "all"  # search: half of dev alone is scored, the rest is for judging
    folds: Annotated[int, Field(ge=1)] = 1  # cross-validation: a sub-run for each fold of the training texts
    fold: Annotated[int, Field(ge=1)] | None = None  # of a sub-run: the fold that it does not train on
    scored_on: Literal["dev", "folds"] = "dev"  # what chooses; with folds, the other one judges
    judged: bool = False  # whether the texts that chose nothing are scored as well

    # how it is scored, beside the keys of DecodingKeys
    objective: str | None = None  # the metric by which the best epoch is chosen; None is the task's own
    decoder: str = "top-p"
    max_new_tokens: Annotated[int, Field(ge=1)] = 200
    decode_seeds: Annotated[int, Field(ge=0)] = (
        3  # texts that are written from each prompt; 0: only losses are measured
    )

    def model_post_init(self, _: Any) -> None:
        """Raise ConfigError where keys of choosing and judging contradict each other."""
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
        if self.folds > 1 and self.learns_from_pairs and not PAIRED.isdisjoint({self.task, self.pretrain}):
            raise ConfigError(
                f"The value of `folds` is {self.folds}, but must be 1 with generated `pairs`: they are made of texts of all folds"
            )

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
    def lora_alpha(self) -> float:
        """LoRA's alpha as a number: `r` and `2r` keep the scale alpha / rank the same for every rank."""
        match self.alpha:
            case "r":
                return float(self.rank)
            case "2r":
                return 2.0 * self.rank
            case number:
                return float(number)

    @property
    def block_spec(self) -> str:
        """The blocks of this adapter, for `parse_blocks`: `default` and `study` mean what PRESETS says."""
        preset = {"default": "plain", "study": "study"}.get(self.blocks)
        return PRESETS[preset].get(self.adapter, "all") if preset else self.blocks

    @property
    def packs(self) -> bool:
        """Whether the run leaves its base as it is: PiSSA takes its start off the base."""
        return self.adapter == "lora" and self.lora_init == "default"

    @property
    def attention_config(self) -> AttentionConfig:
        """The attention part of this run."""
        return AttentionConfig(schedule=self.attention, window=self.attention_window, restart=self.attention_restart)

    def identity(self) -> dict[str, Any]:
        """What decides the result: alpha as the number it comes to, and no key that this adapter or decoder never reads.

        Two configurations with the same identity are the same run.
        """
        unread = {"lora": (), "freeze": LORA_KEYS}.get(self.adapter, (*LORA_KEYS, "blocks"))
        if self.adapter == "last-linear" and self.first_task is None:  # its trunk runs without, but for a first stage
            unread = (*unread, "dropout")
        if PATTERNED.isdisjoint(self.attention_config.names):
            unread = (*unread, "attention_window", "attention_restart")
        unread = (*unread, *CLASSIFICATION_UNREAD.get(self.task, ()), *self._unread_pairs())
        decoding = self.decoding.identity()
        unread = (*unread, *(DecodingKeys.model_fields.keys() - decoding.keys()))
        values = self.model_dump(exclude={*unread, "gradient_checkpointing"}) | {"decoder": decoding["strategy"]}
        if "blocks" in values:
            values["blocks"] = self.block_spec
        if "alpha" in values:
            values["alpha"] = self.lora_alpha
        if self.task in PAIRED and not self.learns_from_pairs:
            values["pairs_examples"] = 0
        defaults = {key: type(self).model_fields[key].default for key in LEFT_OUT}
        values = {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}
        if self.first_task is None:
            values = {key: value for key, value in values.items() if not key.startswith("pretrain")}
        return values

    def _unread_pairs(self) -> set[str]:
        """The keys of generated pairs that neither this run nor its first stage reads."""
        unread = set() if "rewriting" in (self.task, self.first_task) else {"kl_weight"}
        if not self.learns_from_pairs or PAIRED.isdisjoint({self.task, self.first_task}):
            return unread | set(PairKeys.model_fields)
        return unread if self.task == "paraphrase" else unread | {"negatives", "clean_text"}

    @property
    def first_task(self) -> str | None:
        """The task of the first stage: `pretrain`, but nothing is learnt from no pairs."""
        return None if self.pretrain == "rewriting" and not self.learns_from_pairs else self.pretrain

    @property
    def decoding(self) -> DecodingConfig:
        """The decoding part of this run."""
        return DecodingConfig(strategy=self.decoder, **{key: getattr(self, key) for key in DecodingKeys.model_fields})


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
