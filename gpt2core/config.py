"""The keys of a run, grouped by the component that reads them, the configurations built from them, and the named models.

Every value is validated before any expensive work starts.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from gpt2core.component import Config, Decides, Keys, OpenConfig, decides, declared_keys, extra_keys, key, table_cache
from gpt2core.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]

OWN: tuple[Decides, ...] = ("data", "stage", "score")  # what keys of own data decide
#: The tasks on a user's own data -> how they are asked for.
OWN_TASKS = {"classify": "--label", "generate": "--target", "text": "neither --label nor --target"}
OWN_FLAGS = ("train", "dev", "test", "text", "label", "target")


class ModelConfig(Config):
    """Shape of a GPT-2: `n_embd` channels (C), `n_head` heads (H), `n_layer` blocks, `n_positions` tokens of context."""

    vocab_size: int = Field(50257, ge=1, le=2**24, strict=True)
    n_positions: int = Field(1024, ge=1, le=2**20, strict=True)
    n_embd: int = Field(768, ge=1, le=2**16, strict=True)
    n_layer: int = Field(12, ge=1, le=2**10, strict=True)
    n_head: int = Field(12, ge=1, le=2**16, strict=True)
    layer_norm_epsilon: float = Field(1e-5, gt=0, le=1, strict=True)

    def model_post_init(self, _: Any) -> None:
        if self.n_embd % self.n_head:
            raise ConfigError(f"The value of `n_head` is {self.n_head}, but must divide `n_embd`, {self.n_embd}")


MODELS: dict[str, ModelConfig] = {
    "gpt2-nano": ModelConfig(vocab_size=4096, n_positions=512, n_embd=192, n_layer=4, n_head=6),
    "distilgpt2": ModelConfig(n_layer=6),
    "gpt2": ModelConfig(),
    "gpt2-medium": ModelConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": ModelConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": ModelConfig(n_embd=1600, n_layer=48, n_head=25),
}


class PatternKeys(Keys):
    """Keys of sparse attention, see `attention.pattern.offsets`."""

    attention_window: int = key(1, "logsparse, auto: always visible last tokens", "step", "evaluation", "stage", ge=1)
    attention_restart: int = key(0, "logsparse, auto: restart period; 0: never", "step", "evaluation", "stage", ge=0)


class AttentionConfig(Config):
    """Which tokens each token attends to.

    `schedule` names one entry of ATTENTION, or several separated by commas, which the blocks use in turn. `window` and
    `restart` are in tokens, see `attention.pattern.offsets`. The key `attention_NAME` of a run is `NAME` in this class.
    """

    model_config = ConfigDict(extra="allow")  # keys of third-party kernels, already validated by `RunConfig`

    schedule: str = "dense"
    window: int = Field(1, ge=1)
    restart: int = Field(0, ge=0)

    @property
    def names(self) -> list[str]:
        """The kernel names in `schedule`."""
        return [name.strip() for name in self.schedule.split(",")]


class BlocksKeys(Keys):
    """Keys of adapters that apply to some of the blocks."""

    blocks: str = key("default", "blocks to adapt: all, lower-half, upper-half, study, or numbers like 0-5,8", "step")


class LowRankKeys(BlocksKeys):
    """Keys of all adapters that add a pair of low rank to projections."""

    rank: int = key(8, "rank of LoRA", "result", ge=1, le=2**16)
    alpha: Positive | Literal["r", "2r"] = key(32.0, "alpha of LoRA (scale: alpha / rank): a number, r or 2r", "result")
    lora_dropout: float = key(0.1, "dropout of LoRA's input", "result", ge=0, lt=1)
    targets: Literal["qkv", "qkv+dense", "all"] = key("qkv", "projections with LoRA: qkv, qkv+dense or all", "step")

    @property
    def lora_alpha(self) -> float:
        """LoRA's alpha as a number."""
        return self.alpha_of(self.rank)

    def alpha_of(self, rank: int) -> float:
        """Return alpha for a pair of some rank. With `r` or `2r`, the scale alpha / rank does not depend on the rank."""
        match self.alpha:
            case "r":
                return float(rank)
            case "2r":
                return 2.0 * rank
            case number:
                return float(number)


class LoraKeys(LowRankKeys):
    """Keys of LoRA and its variants."""

    ranks: str = key(
        "uniform",
        "ranks by block: uniform (`rank`); rising, falling, lower-half or upper-half, with the mean `rank`; numbers like "
        "4,4,8,16, 0 for none; or blocks:rank like 0-5:4,6-11:12",
        *("step", "if set"),
    )
    rslora: bool = key(False, "scale LoRA by alpha / sqrt(rank) instead of alpha / rank", "result")
    dora: bool = key(False, "DoRA: also train the magnitude of each output", "step", "evaluation")
    lora_init: Literal["default", "pissa"] = key(
        "default", "initial LoRA weights: default, or pissa (largest singular directions of the base weights)", "result"
    )
    lora_plus: float = key(1.0, "LoRA+: learning rate of B divided by that of A", "training", ge=1)


class ClassificationKeys(Keys):
    """Keys of classification tasks."""

    head_dropout: float = key(0.3, "dropout before the classification head", "training", ge=0, lt=1)
    contrastive_weight: float = key(0.0, "share of the contrastive loss in training", "step", "training", ge=0, le=1)
    r_drop: float = key(
        0.0,
        "R-Drop: weight of the divergence between two passes with different dropout; 0: one pass",
        *("step", "training", "if set"),
        ge=0,
    )


class Thresholds(Keys):
    """Keys that decide which scored pairs are accepted. They apply to stored scores, so changing one regenerates nothing."""

    tau: float = key(0.75, "least entailment of a pair in both directions and by critic", "data", "stage", ge=0, le=1)
    max_rouge: float = key(0.75, "highest ROUGE-L between the sentences of a pair", "data", "stage", ge=0, le=1)
    min_length_ratio: float = key(0.8, "least ratio of the lengths, second to first sentence", "data", "stage", gt=0)
    max_length_ratio: float = key(1.5, "greatest ratio of the lengths, second to first sentence", "data", "stage", gt=0)
    filters: Literal["basic", "all"] = key(
        "all", "filters of pairs: all, or basic (length, entailment in both directions, critic)", "data", "stage"
    )


class PairKeys(Thresholds):
    """Keys of tasks that learn from generated pairs, see `gpt2-search candidates`."""

    pairs: str | None = key(
        None,
        "folder of generated pairs, or with subfolders `temperature-T` for generation temperatures and in these `critic-NAME`",
        *("data", "stage", "place"),
    )
    added_pairs: Literal["generated", "real"] | None = key(
        "generated",
        "pairs added to the training data: generated, none, or real (an upper reference: as many of the task's own pairs, "
        "outside of its sample)",
        *("data", "stage", "if set"),
    )
    pairs_temperature: Positive | None = key(None, "generation temperature of the pairs", "data", "stage")
    pairs_critic: str | None = key(
        None, "critic that scored the pairs; none: the one of the folder", *("data", "stage", "if set")
    )
    tau_rule: Literal["fixed", "adaptive", "curriculum"] = key(
        "fixed",
        "fixed: `tau` as given; adaptive: for each round from the critic's scores, as in FreeMatch; curriculum: falls to `tau` "
        "over the epochs of detection",
        *("data", "stage", "if set"),
    )
    pairs_round: AtLeastOne | None = key(
        None, "round that made the pairs: 1, the teacher; 2, the student of round 1; none: all rounds", "data", "stage"
    )
    pairs_examples: Annotated[int, Field(ge=0)] | Literal["all"] = key(
        "all",
        "number of accepted pairs to train on, the first ones; it is an error if there are fewer",
        "data",
        "stage",
    )

    @property
    def learns_from_pairs(self) -> bool:
        """Whether the run learns from added pairs, generated or real."""
        known = self.added_pairs == "real" or (self.added_pairs == "generated" and self.pairs is not None)
        return known and self.pairs_examples != 0

    @property
    def thresholds(self) -> Thresholds:
        """The keys that decide which pairs are accepted."""
        return Thresholds(**{name: getattr(self, name) for name in Thresholds.model_fields})


class DetectionPairKeys(PairKeys):
    """Keys of paraphrase detection with generated pairs."""

    negatives: float = key(0.5, "detection: hard negatives for each accepted pair", "data", "stage", ge=0)
    clean_text: bool = key(False, "detection: normalise quotes, white space and Unicode of all texts", "data", "stage")


class AnswerKeys(ClassificationKeys):
    """Keys of paraphrase detection without generated pairs."""

    paraphrase_head: Literal["binary", "cloze"] = key(
        "binary",
        "head of paraphrase detection: binary (a classifier), or cloze (yes or no by the tied head)",
        *("step", "evaluation", "score"),
    )


class ParaphraseKeys(AnswerKeys, DetectionPairKeys):
    """Keys of paraphrase detection."""


class RewritingKeys(PairKeys):
    """Keys of rewriting."""

    kl_weight: float = key(0.1, "rewriting: weight (lambda) of the KL to the initial model", "training", "stage", ge=0)
    kl_on: Literal["pairs", "own"] = key(
        "pairs",
        "rewriting: texts of the KL, if its weight is > 0: the pairs, or own (on-policy: what the model now writes for the same "
        "sentences)",
        *("step", "training", "stage", "if set"),
    )


FIXED, BEST_OF = "fixed", "best_of"  # values of `decoding`
MOST_SETTINGS = 32


def _decoding(value: str) -> str:
    """Return a valid value of `decoding`; raise ValueError."""
    of = re.fullmatch(rf"{BEST_OF}:([1-9][0-9]?)", value)
    if value != FIXED and not (of and 2 <= int(of[1]) <= MOST_SETTINGS):
        raise ValueError(f"{FIXED}, or {BEST_OF}:K with K from 2 to {MOST_SETTINGS}, as in {BEST_OF}:8")
    return value


class GeneratingKeys(Keys):
    """Keys of tasks that score generated texts."""

    decoding: Annotated[str, AfterValidator(_decoding)] = key(
        FIXED,
        "decoding of the texts that are scored: fixed (the run's own settings), or best_of:K (the best of K settings of "
        "temperature, top_p and top_k; each half of the texts chooses for the other)",
        *("texts", "evaluation", "if set"),
    )

    @property
    def decoding_settings(self) -> int:
        """K, the number of settings that texts are decoded with; 1 if it is fixed."""
        return 1 if self.decoding == FIXED else int(self.decoding.partition(":")[2])


class SonnetKeys(GeneratingKeys):
    """Keys of sonnets."""

    loss: Literal["likelihood", "dpo"] = key(
        "likelihood",
        "sonnets: likelihood, or dpo (prefer each text to the starting model's own continuation)",
        *("reading", "step", "training", "if set"),
    )
    dpo_beta: float = key(0.1, "DPO: beta, the strength of the pull to the starting model", "training", "if set", gt=0)


def _from_json(value: Any) -> Any:
    """Return the value of JSON text, or any other value unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


class OwnDataKeys(Keys):
    """Keys of tasks on a user's own data. Each place is a file, a folder of text files, or the name of a data set on the hub."""

    train: str | None = key(
        None,
        "own data to train on: a .csv, .tsv, .jsonl, .parquet or .txt file, a folder of .txt files, or owner/name of the hub",
        *OWN,
        "place",
    )
    dev: str | None = key(None, "own data: dev split (default: a tenth of --train)", *OWN, "place")
    test: str | None = key(None, "own data: test split (default: a tenth of --train)", *OWN, "place")
    text: str = key("text", "own data: column of the texts; two columns for pairs, as in question,answer", *OWN)
    split_seed: int = key(11711, "own data: seed of the division into train, dev and test", *OWN, ge=0, lt=2**63)


class OwnClassificationKeys(ClassificationKeys, OwnDataKeys):
    """Keys of the classification of own texts."""

    label: str | None = key(None, "own data: column of the classes, for the task classify", *OWN)
    class_names: Annotated[tuple[str, ...], BeforeValidator(_from_json)] = key(
        (), "own data: the classes in order, as a JSON list (default: those of the training texts)", *OWN, "step"
    )


class OwnGenerationKeys(OwnDataKeys, GeneratingKeys):
    """Keys of the generation of own texts."""

    target: str | None = key(None, "own data: column of the texts to generate, for the task generate", *OWN)


class TextKeys(Keys):
    """Keys of all decoders."""

    max_new_tokens: int = key(200, "greatest number of new tokens", "texts", "evaluation", ge=1)
    repetition_penalty: float = key(1.0, "divides logits of tokens in the text; 1: off", "texts", ge=0.01, le=100)
    no_repeat_ngram: int = key(0, "length of the n-grams that may not repeat; 0: off", "texts", "evaluation", ge=0)


class TemperatureKeys(TextKeys):
    """Keys of decoders with a temperature."""

    temperature: float = key(1.0, "divides logits; 0, or below 1e-5, is greedy with every decoder", "texts", ge=0)


class TopKKeys(TemperatureKeys):
    """Keys of top-k (Fan et al. 2018)."""

    top_k: int = key(50, "number of likeliest tokens to choose from; for contrastive, usually 4 to 10", "texts", ge=1)


class TopPKeys(TemperatureKeys):
    """Keys of top-p (Holtzman et al. 2020)."""

    top_p: float = key(0.9, "probability mass of the likeliest tokens to choose from", "texts", gt=0, le=1)


class TopKPKeys(TopKKeys, TopPKeys):
    """Keys of top-k and top-p together."""


class MinPKeys(TemperatureKeys):
    """Keys of min-p (Nguyen et al. 2024)."""

    min_p: float = key(0.1, "min-p: least probability of a token / that of the likeliest", "texts", gt=0, le=1)


class TypicalKeys(TemperatureKeys):
    """Keys of locally typical sampling (Meister et al. 2023)."""

    typical_p: float = key(0.95, "probability mass of the most typical tokens to choose from", "texts", gt=0, le=1)


class EtaKeys(TemperatureKeys):
    """Keys of eta sampling (Hewitt et al. 2022)."""

    epsilon: float = key(0.002, "eta: least probability in a narrow distribution", "texts", gt=0, lt=1)


class EdtKeys(TopPKeys):
    """Keys of sampling with a temperature that follows the entropy (Zhang et al. 2024)."""

    edt_theta: float = key(
        1.0, "edt: how much a narrow distribution lowers the temperature; 0: not", "texts", ge=0, le=100
    )


class BestKeys(TopPKeys):
    """Keys of best of n."""

    best_of: int = key(4, "best of n: number of texts from which one is chosen", "texts", "evaluation", ge=1)


class MirostatKeys(TemperatureKeys):
    """Keys of mirostat (Basu et al. 2021)."""

    mirostat_tau: float = key(5.0, "target surprise of mirostat, in bits per token", "texts", gt=0, le=100)
    mirostat_eta: float = key(0.1, "learning rate of mirostat", "texts", gt=0, le=100)


class ContrastiveKeys(TopKKeys):
    """Keys of contrastive search (Su et al. 2022)."""

    penalty_alpha: float = key(0.6, "contrastive: weight of the degeneration penalty", "texts", ge=0, le=1)


class BeamKeys(TemperatureKeys):
    """Keys of beam search."""

    num_beams: int = key(5, "hypotheses of beam search; 1 is greedy", "texts", "evaluation", ge=1)
    length_penalty: float = key(1.0, "beam search: exponent of length; > 0 favours long texts", "texts", ge=-10, le=10)
    beam_early_stopping: bool = key(False, "stop beam search once `num_beams` hypotheses are complete", "texts")


class DecodingKeys(
    TopKPKeys, MinPKeys, TypicalKeys, EtaKeys, EdtKeys, MirostatKeys, ContrastiveKeys, BeamKeys, BestKeys
):
    """Keys of all decoders of this project, with published defaults."""


class DecodingConfig(DecodingKeys, OpenConfig):
    """How text is generated. `strategy` names an entry of DECODERS."""

    kinds = ("decoder",)

    strategy: str = "top-p"

    @property
    def components(self) -> dict[str, list[str]]:
        """The name of its decoder."""
        return {"decoder": [self.strategy]}


class FirstStageKeys(Keys):
    """Keys of the first stage: a run of another task, from whose best epoch the run starts."""

    pretrain: str | None = key(None, "task of the first stage; none: no first stage", "result")
    pretrain_lr: float = key(1e-5, "learning rate of the first stage", "result", gt=0)
    pretrain_batch_size: int = key(4, "batch size of the first stage", "result", ge=1)
    pretrain_epochs: int = key(10, "epochs of the first stage", "result", ge=1)
    pretrain_examples: AtLeastOne | None = key(None, "size of the first stage's training sample; none: all", "result")
    pretrain_seed: int = key(11711, "seed of the first stage", "result", ge=0, lt=2**63)


class TrainingKeys(Keys):
    """Keys of training with AdamW, betas (0.9, 0.999) as in the study."""

    lr: float = key(1e-5, "learning rate", "training", gt=0)
    batch_size: int = key(8, "examples of an optimizer step", "step", "training", ge=1)
    accumulation: int = key(1, "gradient accumulation: micro-batches of an optimizer step", "step", ge=1)
    epochs: int = key(10, "number of epochs", "result", ge=1)
    weight_decay: float = key(0.0, "weight decay of AdamW", "training", ge=0)
    schedule: Literal["constant", "cosine"] = key("constant", "schedule after warm-up: constant or cosine", "result")
    warmup_steps: int = key(0, "steps over which the learning rate rises to `lr`", "result", ge=0)
    clip_norm: Positive | None = key(None, "gradient norm to clip to; none: no clipping", "training")
    dropout: float = key(0.1, "dropout of the blocks and the embeddings", "training", "stage", ge=0, lt=1)
    train_examples: AtLeastOne | None = key(None, "size of the random training sample; none: all", "step")
    growth: float = key(1.0, "examples of an epoch / those of the one before; the last has all", "result", ge=1)
    cross_documents: bool = key(False, "let tokens attend to all documents of their block", "reading", "step", "stage")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto", "precision of training and generation; auto: bfloat16 on GPUs, float16 on older ones", "step", "stage"
    )
    gradient_checkpointing: bool | Literal["auto"] = key(
        "auto", "recompute activations to save memory; auto: for models as large as gpt2-xl", "nothing"
    )


class ChoosingKeys(Keys):
    """Keys that decide which texts choose the best epoch and the best run, and which texts judge them."""

    objective: str | None = key(None, "metric that chooses the best epoch; none: the task's own", "if set")
    dev_examples: AtLeastOne | None = key(
        None, "size of the random sample of dev or of each fold; none: all", "data", "division"
    )
    dev_part: Literal["all", "search"] = key("all", "search: half of dev chooses, half judges", "division", "if set")
    folds: int = key(1, "folds of cross-validation, each with its own sub-run", "division", "if set", ge=1)
    fold: AtLeastOne | None = key(None, "held-out fold of a sub-run", "division", "if set")
    scored_on: Literal["dev", "folds"] = key("dev", "dev or folds choose; the other one judges", "division", "if set")
    judged: bool = key(False, "also score the texts that are kept for judging", "if set")
    score_every_epoch: bool = key(
        False, "generate texts and score the judging texts after each epoch, not only for the best one", "nothing"
    )


class RunKeys(Keys):
    """Keys of every run: its components, model, data and seed."""

    task: str = key(
        "sonnet",
        "task to learn: sst, cfimdb, paraphrase, rewriting, sonnet, pretraining or poems; multi: the `tasks`; on own data "
        "classify, generate or text",
        *("data", "step", "evaluation", "score"),
    )
    model: str = key(
        "gpt2-nano",
        "gpt2-nano, distilgpt2, gpt2, gpt2-medium, -large, -xl, a folder, or owner/name of the hub",
        *("data", "step", "evaluation", "stage"),
    )
    data_dir: str | None = key(
        None,
        "folder with the course's files (default: data of the installed packages)",
        *("data", "stage", "score", "place"),
    )
    attention: str = key(
        "dense",
        "attention of the blocks: dense, logsparse, auto, or several in turn, as in dense,logsparse",
        *("step", "evaluation", "stage"),
    )
    adapter: str = key(
        "full",
        "trainable parameters: full, freeze, last-linear (only the task's own head), lora, adalora, nested (LoRA whose "
        "ranks can be cut) or frozen (none)",
        *("step", "evaluation"),
    )
    decoder: str = key(
        "top-p",
        "greedy, top-k, top-p, top-k-p (top-p after top-k), top-k-p-study (the intersection of both), min-p, typical, eta, "
        "edt (temperature by entropy), mirostat, contrastive, beam, form (sonnets by construction), best-form or best-likelihood "
        "(the best of several texts)",
        *("texts", "evaluation"),
    )
    decode_seeds: int = key(3, "texts generated from each prompt; 0: only losses", "texts", "evaluation", ge=0)
    seed: int = key(11711, "seed of all random numbers", "texts", ge=0, lt=2**63)


class RunConfig(
    ChoosingKeys,
    DecodingKeys,
    RewritingKeys,
    ParaphraseKeys,
    SonnetKeys,
    OwnClassificationKeys,
    OwnGenerationKeys,
    TrainingKeys,
    LoraKeys,
    FirstStageKeys,
    PatternKeys,
    RunKeys,
    OpenConfig,
):
    """All settings of one training run, in one flat class, so that each key can be searched or `--set`."""

    kinds = ("task", "adapter", "attention", "decoder")

    @property
    def components(self) -> dict[str, list[str]]:
        """The names of its components by kind; tasks include that of the first stage."""
        return {
            "task": [self.task, *([self.first_task] if self.first_task else [])],
            "adapter": [self.adapter],
            "attention": AttentionConfig(schedule=self.attention).names,
            "decoder": [self.decoder],
        }

    def model_post_init(self, _: Any) -> None:
        """Raise ConfigError for an unknown key, or if keys contradict each other."""
        super().model_post_init(_)
        if self.fold is not None and (self.folds == 1 or self.fold > self.folds):
            raise ConfigError(
                f"The value of `fold` is {self.fold}, but must be at most `folds`, which is {self.folds} and must be >= 2"
            )
        if self.folds == 1 and self.scored_on == "folds":
            raise ConfigError("The value of `scored_on` is 'folds', but must be 'dev' if `folds` is 1")
        if self.dev_part == "search" and self.scored_on == "folds":
            raise ConfigError("The value of `dev_part` is 'search', but must be 'all' if `scored_on` is 'folds'")
        if self.judged and self.folds == 1 and self.dev_part == "all":
            raise ConfigError(
                "The value of `judged` is True, but no text is left to judge: set `dev_part` to 'search', or `folds` to 2 or more"
            )
        if self.pretrain == "multi":
            raise ConfigError("The value of `pretrain` is 'multi', but must be a single task")
        if self.first_task in OWN_TASKS and self.first_task != self.task:
            raise ConfigError(
                f"The value of `pretrain` is {self.first_task!r}, but must be {self.task!r} or on other data: tasks divide "
                "own data differently, so the first stage would see texts that judge the second"
            )
        if self.folds > 1 and self.reads_pairs:
            raise ConfigError(
                f"The value of `folds` is {self.folds}, but must be 1 with added pairs, which come from texts of all folds"
            )
        if self.decoding != FIXED and not all(entry.samples(self.decoding_config) for entry in self.entries("decoder")):
            raise ConfigError(
                f"The value of `decoding` is {self.decoding!r}, but must be {FIXED!r} with the decoder `{self.decoder}` at "
                f"`temperature` {self.temperature:g}, which does not sample; top-p does at 1"
            )

    @property
    def reads_pairs(self) -> bool:
        """Whether the run or its first stage learns from added pairs; known once TASKS is imported."""
        return self.learns_from_pairs and any(issubclass(task.keys, PairKeys) for task in self.entries("task"))

    @property
    def sub_runs(self) -> list["RunConfig"]:
        """The runs of a round of cross-validation, one for each fold; a single run is its own only one."""
        if self.folds == 1 or self.fold is not None:
            return [self]
        return [self.but(fold=fold) for fold in range(1, self.folds + 1)]

    @property
    def is_round(self) -> bool:
        """Whether this is a round of cross-validation, not a single run."""
        return self.folds > 1 and self.fold is None

    @property
    def choosing(self) -> str:
        """The split that chooses the best epoch of a single run."""
        return "fold" if self.scored_on == "folds" else "dev"

    @property
    def judging(self) -> str | None:
        """The split that judges a single run and chooses nothing; None if no such split is scored."""
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
        """The attention settings of this run."""
        names = {**PatternKeys.model_fields, **declared_keys("attention")}
        values = {name.removeprefix("attention_"): value for name, value in self.values_of(names).items()}
        return AttentionConfig(schedule=self.attention, **values)

    @property
    def first_task(self) -> str | None:
        """The task of the first stage: `pretrain`, but None for `rewriting` without pairs, which has nothing to learn from."""
        return None if self.pretrain == "rewriting" and not self.learns_from_pairs else self.pretrain

    @property
    def decoding_config(self) -> DecodingConfig:
        """The run's own decoding settings."""
        values = self.values_of({**DecodingKeys.model_fields, **declared_keys("decoder")})
        return DecodingConfig(strategy=self.decoder, **values)


def meaning(name: str, keys: type[Config] = RunConfig) -> str:
    """Return the description of a key."""
    return str(keys.model_fields[name].description)


@table_cache
def known_keys() -> Mapping[str, FieldInfo]:
    """Return all keys of runs: the fields of RunConfig, and the keys that only components of imported tables declare."""
    declared = {name: keys.model_fields[name] for name, keys in extra_keys(RunConfig).items()}
    return {**RunConfig.model_fields, **declared}


@table_cache
def keys_that_decide(what: Decides) -> Mapping[str, FieldInfo]:
    """Return the keys of runs that decide `what`, see `Decides`."""
    return {name: field for name, field in known_keys().items() if what in decides(field)}


def parse_blocks(spec: str, n_layer: int) -> list[int]:
    """Return the sorted block numbers of `spec`: all, lower-half, upper-half or ranges such as `0-5,8`; raise ConfigError."""
    half = n_layer // 2
    named = {"all": range(n_layer), "lower-half": range(half), "upper-half": range(half, n_layer)}
    chosen: set[int] = set(named.get(spec, ()))
    for part in () if spec in named else spec.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            words = ", ".join(named)
            raise ConfigError(f"The value of `blocks` is {spec!r}, but must be one of {words}, or numbers like 0-5,8")
        end = int(last or first)
        chosen.update(range(int(first), end + 1) if end < n_layer else [end])  # do not build a long range
    if not chosen or max(chosen) >= n_layer:
        raise ConfigError(f"The value of `blocks` is {spec!r}, but must name blocks 0 to {n_layer - 1} of this model")
    return sorted(chosen)
