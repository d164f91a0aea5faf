"""Whatever decides a result is in the identity of its run, the digest of its search, and the key of each cache."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from gpt2core.__main__ import main
from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.base import Adapter
from gpt2core.adapters.lora import lora_layers
from gpt2core.attention import ATTENTION, Kernel
from gpt2core.builders import build_model
from gpt2core.component import Keys, declared_keys, key
from gpt2core.config import DecodingConfig, RunConfig, TemperatureKeys, keys_that_decide, known_keys
from gpt2core.data.corpus import Corpus
from gpt2core.decoding import DECODERS, Decoder, text_cache
from gpt2core.decoding.generate import generate
from gpt2core.errors import ConfigError, UserError
from gpt2core.identity import identity
from gpt2core.model import GPT2
from gpt2core.pretrain_stage import first_stage
from gpt2core.tasks import TASKS
from gpt2core.tasks.sonnet import Sonnet
from gpt2core.testing import toys
from gpt2core.weights import save_model
from searches.deciding.comparing import Comparing
from searches.deciding.method import Method
from searches.deciding.replay_backend import Curve, MemoryLedger, ReplayBackend
from searches.deciding.samplers import SAMPLERS, size
from searches.deciding.stopping import Halving
from searches.deciding.strategy import Strategy
from searches.domains import Choice, LogUniform
from searches.lora_rank import SEARCH as LORA_RANK
from searches.options import parse
from searches.plan import Plan, make_plan
from searches.planning import checking
from searches.planning.checking import record_data, record_pairs
from searches.question import Case, Profile, Search
from searches.running.ledger import Ledger, Trial
from tests import generated
from tests.runs import status
from trainables import worker_cache
from trainables.trial import TrialSpec, payloads

Values = Mapping[str, Any]

LORA = {"adapter": "lora", "blocks": "1", "rank": 2}
PAIRED = {"task": "paraphrase", "pairs": "/pairs"}
OWN = {"task": "classify", "train": "/a.csv", "label": "stars", "class_names": ("1", "2")}
FIRST = {"pretrain": "poems"}
LOGSPARSE = {"attention": "logsparse"}
CV = {"folds": 3}
#: For each key of a run: values with which it is read, and another value than the default or theirs.
KEYS: dict[str, tuple[Values, Any]] = {
    "task": ({}, "poems"), "model": ({}, "gpt2"), "data_dir": ({}, "/elsewhere"), "attention": ({}, "logsparse"),
    "attention_window": (LOGSPARSE, 4), "attention_restart": (LOGSPARSE, 16), "seed": ({}, 1),
    "pretrain": ({}, "poems"), "pretrain_lr": (FIRST, 1e-3), "pretrain_batch_size": (FIRST, 2),
    "pretrain_epochs": (FIRST, 3), "pretrain_examples": (FIRST, 5), "pretrain_seed": (FIRST, 5),
    "adapter": ({}, "lora"), "blocks": (LORA, "0"), "rank": (LORA, 3), "alpha": (LORA, 64.0),
    "lora_dropout": (LORA, 0.0), "targets": (LORA, "all"), "rslora": (LORA, True), "dora": (LORA, True),
    "lora_init": (LORA, "pissa"), "lora_plus": (LORA, 4.0), "ranks": (LORA, "5"), "lr": ({}, 1e-2), "batch_size": ({}, 2),
    "accumulation": ({}, 2), "epochs": ({}, 2), "weight_decay": ({}, 0.1), "schedule": ({}, "cosine"),
    "warmup_steps": ({}, 2), "clip_norm": ({}, 0.01), "dropout": ({}, 0.5),
    "r_drop": ({"task": "sst"}, 0.5), "loss": ({}, "dpo"), "dpo_beta": ({"loss": "dpo"}, 0.5),
    "head_dropout": ({"task": "sst"}, 0.0), "paraphrase_head": ({"task": "paraphrase"}, "cloze"),
    "contrastive_weight": ({"task": "sst"}, 0.5), "kl_weight": ({"task": "rewriting", "pairs": "/pairs"}, 0.5),
    "cross_documents": ({"task": "poems"}, True), "train_examples": ({}, 4), "growth": ({}, 2.0),
    "dev_examples": ({}, 2), "precision": ({}, "bfloat16"), "dev_part": ({}, "search"), "folds": ({}, 2),
    "fold": (CV, 2), "scored_on": (CV, "folds"), "judged": (CV, True), "objective": ({}, "chrf_whole"),
    "decoder": ({}, "min-p"), "decode_seeds": ({}, 2), "decoding": ({}, "best_of:2"),
    "temperature": ({}, 0.5),
    "top_k": ({"decoder": "top-k"}, 3), "top_p": ({}, 0.5), "min_p": ({"decoder": "min-p"}, 0.5),
    "typical_p": ({"decoder": "typical"}, 0.5), "epsilon": ({"decoder": "eta"}, 0.1),
    "mirostat_tau": ({"decoder": "mirostat"}, 1.0), "mirostat_eta": ({"decoder": "mirostat"}, 1.0),
    "edt_theta": ({"decoder": "edt"}, 9.0), "best_of": ({"decoder": "best-form"}, 2),
    "penalty_alpha": ({"decoder": "contrastive"}, 0.1), "num_beams": ({"decoder": "beam"}, 2),
    "length_penalty": ({"decoder": "beam"}, -2.0), "beam_early_stopping": ({"decoder": "beam"}, True),
    "repetition_penalty": ({}, 1.5), "no_repeat_ngram": ({}, 2), "max_new_tokens": ({}, 5),
    "pairs": ({"task": "paraphrase"}, "/pairs"), "pairs_temperature": (PAIRED, 0.7), "pairs_round": (PAIRED, 1),
    "pairs_critic": (PAIRED, "nli"),
    "pairs_examples": (PAIRED, 5), "negatives": (PAIRED, 0.1), "clean_text": (PAIRED, True), "tau": (PAIRED, 0.5),
    "kl_on": ({"task": "rewriting", "pairs": "/pairs"}, "own"), "tau_rule": (PAIRED, "adaptive"), "added_pairs": (PAIRED, None),
    "max_rouge": (PAIRED, 0.5), "min_length_ratio": (PAIRED, 0.5), "max_length_ratio": (PAIRED, 2.5),
    "filters": (PAIRED, "basic"), "train": (OWN, "/b.csv"), "dev": (OWN, "/b.csv"), "test": (OWN, "/b.csv"),
    "text": (OWN, "review"), "split_seed": (OWN, 1), "label": (OWN, "sort"), "class_names": (OWN, ("1", "2", "3")),
    "target": ({"task": "generate"}, "title"),
}  # fmt: skip
NO_RESULT = {"gradient_checkpointing", "score_every_epoch"}  # less memory, or more scores; the same numbers

each_key = pytest.mark.parametrize("key", KEYS)


def two_runs(key: str) -> tuple[RunConfig, RunConfig]:
    values, other = KEYS[key]
    return RunConfig.of({**values}), RunConfig.of({**values, key: other})


def test_every_key_is_walked() -> None:
    assert KEYS.keys() | NO_RESULT == RunConfig.model_fields.keys()


@each_key
def test_it_is_in_the_identity(key: str) -> None:
    one, two = two_runs(key)
    assert identity(one) != identity(two)


@pytest.mark.parametrize(("values", "ignored"), [
    ({"task": "sst"}, {"decoder": "beam", "num_beams": 3, "temperature": 0.5, "decode_seeds": 1}),
    ({"task": "poems"}, {"decode_seeds": 1}),
    ({"task": "rewriting", "pairs": "/pairs", "kl_weight": 0.0}, {"kl_on": "own"}),
])  # fmt: skip
def test_what_a_run_ignores_is_not_in_the_identity(values: Values, ignored: Values) -> None:
    assert identity(RunConfig.of({**values, **ignored})) == identity(RunConfig.of(values))


# a search whose reference reads as few keys as any: what other points read counts as well

READS_LITTLE = Search(
    name="keys",
    question="Which keys decide?",
    tasks={name: Case() for name in ("sonnet", "paraphrase")},
    scientific={"adapter": Choice("frozen", "lora"), "decoder": Choice("greedy", "beam")},
    nuisance={"lr": LogUniform(1e-5, 1e-3)},
    fixed={"pretrain": "rewriting"},
    reference={"adapter": "frozen", "decoder": "greedy", "lr": 1e-4},
    learns_from_pairs=True,
    profiles={"quick": Profile(model="gpt2-nano", trials=2, replicates=3, candidates={"contexts": 3})},
)
FLAGS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1}, "objective": {"comparing": Comparing(objective="chrf_whole")},
    "folds": {"comparing": Comparing(folds=2)}, "scored_on": {"comparing": Comparing(folds=2)},
    "dev_part": {"comparing": Comparing(on="test")}, "model": {"model": "gpt2"},
    "task": {"settings": {"task": "paraphrase"}},
}  # fmt: skip
#: Where files lie: what is in them is noted and compared when a search goes on. The last two are of single runs.
PLACES, OF_RUNS = {"data_dir", "pairs", "train", "dev", "test"}, {"fold", "judged"}


@pytest.mark.parametrize("key", sorted(KEYS.keys() - PLACES - OF_RUNS - {"decoding"}))
def test_it_is_in_the_digest_of_a_search(key: str) -> None:
    _, other = KEYS[key]
    flags = FLAGS.get(key, {"settings": {key: other}})
    assert make_plan(READS_LITTLE, "quick", **flags).digest != make_plan(READS_LITTLE, "quick").digest


def test_the_best_of_some_decoding_settings_is_another_search_and_needs_a_decoder_that_samples() -> None:
    with pytest.raises(ConfigError, match="`decoding` is 'best_of:2', but must be 'fixed' with the decoder `greedy`"):
        make_plan(READS_LITTLE, "quick", settings={"decoding": "best_of:2"})
    both = [{"decoder": "top-p", "decoding": decoding} for decoding in ("fixed", "best_of:2")]
    fixed, best = (make_plan(READS_LITTLE, "quick", settings=settings).digest for settings in both)
    assert fixed != best


@pytest.mark.parametrize("key", sorted(PLACES))
def test_files_that_were_moved_are_no_other_search(key: str) -> None:
    moved = make_plan(READS_LITTLE, "quick", settings={key: "/elsewhere"})
    assert moved.digest == make_plan(READS_LITTLE, "quick").digest


@pytest.mark.parametrize("change", [
    {"scientific": {**READS_LITTLE.scientific, "decoder": Choice("greedy", "beam", "top-p")}},
    {"nuisance": {"lr": LogUniform(1e-5, 1.0000001e-3)}},
    {
        "nuisance": {"lr": LogUniform(1e-5, 1e-3), "batch_size": Choice(8, 16)},
        "reference": {**READS_LITTLE.reference, "batch_size": 8},
    },
    {"profiles": {"quick": READS_LITTLE.profiles["quick"].but(candidates={"contexts": 4})}},
], ids=str)  # fmt: skip
def test_another_space_is_another_search(change: dict[str, Any]) -> None:
    other = dataclasses.replace(READS_LITTLE, **change)
    assert make_plan(other, "quick").digest != make_plan(READS_LITTLE, "quick").digest


def test_a_number_is_not_its_name() -> None:
    def of(*values: Any) -> Plan:
        space = {"alpha": Choice(*values)}
        reference = {"lr": READS_LITTLE.reference["lr"], "alpha": values[0]}
        search = dataclasses.replace(READS_LITTLE, scientific=space, reference=reference)
        return make_plan(search, "quick")

    assert len({of(8, 16).digest, of("r", 16).digest, of("r", "2r").digest, of(8.5, 16).digest}) == 4


def test_a_search_does_not_go_on_with_another_model_or_other_data_of_the_same_name(tmp_path: Path) -> None:
    folder = toys.folder(tmp_path / "model")
    search = dataclasses.replace(READS_LITTLE, fixed={}, learns_from_pairs=False)
    plan, data = make_plan(search, "quick", model=str(folder)), toys.data(train=130, dev=130)
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        record_data(plan, ledger, data)
        record_data(plan, ledger, data)
        corpus = dataclasses.replace(data.corpus, name="other")
        with pytest.raises(UserError, match="The data has changed since this search began"):
            record_data(plan, ledger, dataclasses.replace(data, corpus=corpus))
        save_model(toys.model(seed=1), folder)
        with pytest.raises(UserError, match="The model has changed since this search began"):
            record_data(plan, ledger, data)


@pytest.mark.parametrize("domain", [None, Choice(None, "poems")])
def test_a_changed_first_stage_corpus_stops_a_search(
    domain: Choice | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"fixed": {"pretrain": "poems"}}
    if domain is not None:
        reference = {**READS_LITTLE.reference, "pretrain": None}
        changes = {"fixed": {}, "reference": reference, "nuisance": {**READS_LITTLE.nuisance, "pretrain": domain}}
    search = dataclasses.replace(READS_LITTLE, learns_from_pairs=False, **changes)
    plan, data = make_plan(search, "quick", model=str(toys.folder(tmp_path / "model"))), toys.data(train=130, dev=130)
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        monkeypatch.setattr(checking, "task_data", lambda config: toys.data())
        record_data(plan, ledger, data)
        record_data(plan, ledger, data)
        monkeypatch.setattr(checking, "task_data", lambda config: toys.data(train=12))
        with pytest.raises(UserError, match="The data of the first stage `poems` has changed since this search began"):
            record_data(plan, ledger, data)


def test_a_search_does_not_go_on_with_other_generated_pairs(tmp_path: Path) -> None:
    def plan_with(folder: Path) -> Plan:
        settings = {"task": "paraphrase", "pairs": str(folder)}
        return make_plan(dataclasses.replace(READS_LITTLE, profiles={"quick": profile}), "quick", settings=settings)

    profile = READS_LITTLE.profiles["quick"].but(run={"pairs_temperature": 0.7})
    first = generated.folder(tmp_path / "first")
    shutil.copytree(first, tmp_path / "copy")
    other = generated.folder(tmp_path / "other", [generated.contexts(29)])
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        for folder in (first, first, tmp_path / "copy"):
            record_pairs(plan_with(folder), ledger)
        with pytest.raises(UserError, match="The set of generated pairs has changed since this search began"):
            record_pairs(plan_with(other), ledger)
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        record_pairs(plan_with(first), ledger)


def test_a_trial_refuses_data_other_than_its_searchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.data()
    monkeypatch.setattr(worker_cache, "inputs", lambda run: (toys.model(), data))
    monkeypatch.setattr(worker_cache, "start", lambda run: toys.model())
    run = toys.RUN.but(epochs=1, decode_seeds=0)
    spec = TrialSpec(name="0001", run=run, folder=str(tmp_path), data=data.corpus.digest)
    (report,) = payloads(spec)
    assert "failure" not in report
    (report,) = payloads(dataclasses.replace(spec, data=toys.data(train=12).corpus.digest))
    assert "but the search began with" in report["failure"]["reason"]


# caches


OF_PAIRS = [key for key, (values, _) in KEYS.items() if values == PAIRED] + ["pairs"]
#: What a run has in common with its first stage, of another task and without pairs.
SHARED = {
    "model", "data_dir", "attention", "attention_window", "attention_restart", "cross_documents", "dropout",
    "precision",
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(KEYS.keys() - {"pretrain", "task", "fold", "scored_on", "judged", *OF_PAIRS}))
def test_a_first_stage_is_shared_by_runs_that_differ_in_nothing_it_reads(key: str) -> None:
    values, other = KEYS[key]
    run = RunConfig.of({**values, **FIRST, "task": "sonnet"})
    same = first_stage(run) == first_stage(run.but(**{key: other}))
    assert same == (key not in SHARED and not key.startswith("pretrain_"))


@pytest.mark.parametrize("key", ["task", "data_dir", "model", "dev_examples", *OF_PAIRS])
def test_data_in_memory_is_of_all_keys_that_it_reads(key: str) -> None:
    assert key in keys_that_decide("data")


@torch.no_grad()
@pytest.mark.parametrize(
    "key", [key for key, (values, _) in KEYS.items() if values in (LORA, LOGSPARSE)] + ["attention"]
)
def test_texts_are_looked_up_by_all_that_decides_them(key: str) -> None:
    """Where two models give other logits, their texts are not each other's."""
    models = [build_model(run, toys.model(), torch.device("cpu")).train(False) for run in two_runs(key)]
    for model in models:
        for number, (_, layer) in enumerate(lora_layers(model)):
            torch.manual_seed(number)
            layer.lora_B.weight.normal_()
    ids = torch.arange(40)[None]
    logits = [model(ids) for model in models]
    keys = [text_cache._keys(model, [([1, 2], DecodingConfig(), 0)], 0, toys.tokenizer()) for model in models]
    assert (keys[0] == keys[1]) == torch.equal(*logits)


# keys that a component from elsewhere declares


class TopKeys(Keys):
    """What a user writes in a file of the adapter's own ..."""

    top_blocks: int = key(1, "how many of the last blocks train", ge=1)


def top(model: GPT2, config: RunConfig) -> None:
    model.requires_grad_(False)
    for block in model.blocks[-config.part(TopKeys).top_blocks :]:
        block.requires_grad_(True)


TOP = Adapter(apply=top, keys=TopKeys, meaning="the last blocks train")


@pytest.fixture
def own_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """... and a line in the table."""
    monkeypatch.setitem(ADAPTERS, "top", TOP)


OWN_KEY = Search(
    name="top",
    question="How many blocks?",
    tasks={"sonnet": Case()},
    scientific={"adapter": Choice("full", "top"), "top_blocks": Choice(1, 2)},
    nuisance={"lr": Choice(1e-4, 1e-3)},
    fixed={"epochs": 1},
    reference={"adapter": "full", "top_blocks": 1, "lr": 1e-4},
    profiles={"quick": Profile(model="toy", trials=6, replicates=0)},
)


def test_a_key_of_ones_own_is_a_key_of_those_runs_that_read_it(own_adapter: None) -> None:
    run = RunConfig.of({"adapter": "top", "top_blocks": "2"})
    assert run.part(TopKeys).top_blocks == 2
    assert run == RunConfig(**run.model_dump()) == pickle.loads(pickle.dumps(run))
    assert run.model_dump()["top_blocks"] == identity(run)["top_blocks"] == 2
    assert RunConfig(adapter="top").model_dump()["top_blocks"] == 1, "its default is told too"
    assert identity(run) != identity(run.but(top_blocks=1))
    assert identity(run.but(adapter="full")) == identity(RunConfig())
    assert "top_blocks" not in RunConfig().model_dump(), "runs without it are those of before"
    assert first_stage(run.but(pretrain="poems")) == first_stage(RunConfig(pretrain="poems"))
    assert TrialSpec.from_dict(TrialSpec(name="0000", run=run, folder="/f").to_dict()).run == run


@pytest.mark.parametrize(("values", "message"), [
    ({"top_blocks": 0}, "The value of `top_blocks` is 0, but must be >= 1"),
    ({"top_block": 1}, "Unknown key `top_block`: did you mean `top_blocks`"),
])  # fmt: skip
def test_wrong_values_of_ones_own_key_are_explained(own_adapter: None, values: Values, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.of({"adapter": "top", **values})


def test_a_key_that_no_entry_declares_is_none() -> None:
    with pytest.raises(ConfigError, match="Unknown key `top_blocks`"):
        RunConfig.of({"top_blocks": 1})


def test_a_search_over_ones_own_key_tries_each_of_its_values_once(own_adapter: None) -> None:
    plan = make_plan(OWN_KEY, "quick", method=Method(sampler="grid", scheduler="none"))
    strategy = Strategy(plan, MemoryLedger())
    ran = {}

    def curve(trial: Trial) -> Curve:
        run = RunConfig.of(trial.run)
        model = build_model(run, toys.model(), torch.device("cpu"))
        ran[trial.name] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return Curve(metrics=[{"dev_loss": run.lr}], seconds=[1.0])

    ReplayBackend(curve, workers=1).run(strategy)
    trials = strategy.ledger.state.searched
    points = [tuple(trial.point.values()) for trial in trials]
    assert {point for point in points if point[0] == "top"} == {("top", n, lr) for n in (1, 2) for lr in (1e-4, 1e-3)}
    assert sum(point[0] == "full" for point in points) == 2, "full tuning does not read it"
    trained = {trial.run["top_blocks"]: ran[trial.name] for trial in trials if trial.run["adapter"] == "top"}
    assert trained[2] == 2 * trained[1]
    fixed = [make_plan(OWN_KEY, "quick", settings={"adapter": "top", "top_blocks": n}).digest for n in (1, 2)]
    assert len({plan.digest, *fixed}) == 3


def test_ones_own_key_is_listed_and_described(own_adapter: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, ["keys", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["key"] == "top_blocks")
    assert (row["values"], row["default"]) == ("whole number >= 1", 1)
    assert row["meaning"] == "how many of the last blocks train"
    assert row["read_by"] == {"adapter": ["top"]}


@pytest.mark.parametrize(("flags", "read", "unread"), [
    (["--adapter", "lora"], {"rank", "top_p", "lr", "pretrain", "folds"}, {"num_beams", "head_dropout", "pretrain_lr"}),
    (["--adapter", "full", "--decoder", "beam"], {"num_beams", "gradient_checkpointing"}, {"rank", "top_p"}),
    (["--task", "sst", "--pretrain", "poems"], {"head_dropout", "pretrain_lr"}, {"rank", "kl_weight"}),
    (["--set", "temperature=0"], {"max_new_tokens"}, {"top_p"}),
])  # fmt: skip
def test_keys_are_those_that_a_run_of_the_flags_reads(
    flags: list[str], read: set[str], unread: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(main, ["keys", "--json", *flags]) == 0
    names = {row["key"] for row in json.loads(capsys.readouterr().out)}
    assert read <= names <= known_keys().keys() - unread


class WidthKeys(TemperatureKeys):
    width: float = key(0.5, "least probability, in units of the likeliest token's", "texts", gt=0, le=1)


def wide(probabilities: torch.Tensor, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return probabilities.where(probabilities >= columns["width"] * probabilities.amax(-1, keepdim=True), 0.0)


@torch.no_grad()
def test_a_decoder_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, "wide", Decoder(keep=wide, keys=WidthKeys))
    narrow, broad = (RunConfig.of({"decoder": "wide", "width": width, "max_new_tokens": 8}) for width in ("1", 0.01))
    assert identity(narrow) != identity(broad)
    assert "top_p" not in identity(narrow)
    model = toys.model().requires_grad_(False)
    prompts = [[1, 2], [3]]
    configs = [
        narrow.decoding_config,
        broad.decoding_config,
        RunConfig(decoder="greedy", max_new_tokens=8).decoding_config,
    ]
    texts = [generate(model, prompts, config, seeds=[0, 1], eos=-1) for config in configs]
    assert texts[0] == texts[2] != texts[1]
    assert generate(model, [prompts[0]] * 3, configs, seeds=[0] * 3, eos=-1) == [text[0] for text in texts]
    keys = [
        text_cache._keys(model, [(prompts[0], config, 0), (prompts[1], config, 1)], 0, toys.tokenizer())
        for config in configs
    ]
    assert len({key for row in keys for key in row}) == 6


class SpanKeys(Keys):
    attention_span: int = key(4, "how many of the last tokens are seen", ge=1)


def near(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: torch.Tensor | None, dropout: float, *, span: int
) -> torch.Tensor:
    distance = torch.arange(k.shape[-2]) - torch.arange(k.shape[-2] - q.shape[-2], k.shape[-2])[:, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=(distance <= 0) & (distance > -span))


@torch.no_grad()
def test_an_attention_kernel_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTION, "near", Kernel(attend=near, keys=SpanKeys))
    runs = [RunConfig(attention="dense,near", attention_span=span, pretrain="poems") for span in (1, 4)]
    assert identity(runs[0]) != identity(runs[1])
    assert [first_stage(run).model_dump()["attention_span"] for run in runs] == [1, 4], "the first stage has it too"
    models = [build_model(run, toys.model(), torch.device("cpu")).train(False) for run in runs]
    ids = torch.arange(12)[None]
    assert not torch.equal(*(model(ids) for model in models))
    keys = [text_cache._keys(model, [([1, 2], DecodingConfig(), 0)], 0, toys.tokenizer()) for model in models]
    assert keys[0] != keys[1]


class FewKeys(Keys):
    few: int = key(20, "how many sonnets are learnt from", ge=1)


class Few(Sonnet):
    name = "few"
    keys = FewKeys

    def corpus(self, config: RunConfig) -> Corpus:
        whole = super().corpus(config)
        few = config.part(FewKeys).few
        return dataclasses.replace(whole, splits={**whole.splits, "train": whole.splits["train"][:few]})


def test_a_task_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "few", Few())
    runs = [RunConfig.of({"task": "few", **values}) for values in ({}, {"few": 3}, {"few": 3, "lr": 1.0})]
    data = [worker_cache.task_data(run) for run in runs]
    assert [len(one.splits["train"]) for one in data] == [20, 3, 3]
    assert data[1] is data[2]
    assert len({str(identity(run)) for run in runs}) == 3


def test_a_component_that_reads_a_key_of_runs_declares_the_same_key() -> None:
    for table in (TASKS, ADAPTERS, ATTENTION, DECODERS):
        for name, entry in table.items():
            for key_of_it, field in entry.keys.model_fields.items():
                ours = known_keys()[key_of_it]
                assert (field.default, field.annotation) == (ours.default, ours.annotation), (name, key_of_it)


# keys of samplers and schedulers


def test_keys_of_sampler_and_scheduler_are_set_as_those_of_a_run_are() -> None:
    plan = parse(LORA_RANK, ["--set", "startup_trials=4", "--set", "reduction=2", "--set", "epochs=9"]).plan
    usual = parse(LORA_RANK, ["--set", "epochs=9"]).plan
    assert plan.method.settings == {"startup_trials": 4, "reduction": 2}
    assert (Halving(plan).rungs, Halving(usual).rungs) == ([3, 6], [3])
    assert SAMPLERS["tpe"].make(plan, 0)._n_startup_trials == 4  # type: ignore[attr-defined]
    assert plan.digest != usual.digest
    assert parse(LORA_RANK, ["--set", "reduction=3", "--set", "epochs=9"]).plan.digest == usual.digest


@pytest.mark.parametrize(("flags", "message"), [
    (["--set", "reduction=1"], "The value of `reduction` is '1', but must be >= 2"),
    (["--set", "grid_values=3"], "The key `grid_values` is for grid, but this search uses tpe and asha"),
    (["--set", "startup_trial=3"], "Unknown key `startup_trial`: did you mean `startup_trials`"),
    (["--sampler", "tpee"], "Unknown sampler `tpee`: did you mean `tpe`"),
])  # fmt: skip
def test_keys_that_sampler_and_scheduler_do_not_read_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(LORA_RANK, flags)


def test_a_grid_has_as_many_values_of_a_number_as_are_asked_for() -> None:
    flags = [
        "--sampler", "grid", "--set", "grid_values=3", "--set", "rank=8", "--set", "alpha=2r", "--set",
        "batch_size=8",
    ]  # fmt: skip
    plan = parse(LORA_RANK, flags).plan
    assert size(plan, plan.views[0]) == 3


def test_no_key_of_a_run_is_one_of_a_sampler_or_a_scheduler_too() -> None:
    assert known_keys().keys().isdisjoint(declared_keys("sampler", "scheduler"))
