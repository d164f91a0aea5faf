"""Whatever decides a result is in the identity of its run, the digest of its search, and the key of each cache."""

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2core.adapters.lora import lora_layers
from gpt2core.builders import build_model
from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.decoding import text_cache
from gpt2core.errors import UserError
from gpt2core.pretrain_stage import first_stage
from gpt2core.weights import save_model
from searches.deciding.comparing import Comparing
from searches.planning import checking
from searches.planning.checking import record_data, record_pairs
from searches.question import Case, Choice, LogUniform, Plan, Profile, Search, make_plan
from searches.running.ledger import Ledger
from tests import generated, toys
from trainables import worker_cache
from trainables.trial import TrialSpec, payloads

Values = Mapping[str, Any]

LORA = {"adapter": "lora", "blocks": "1", "rank": 2}
PAIRED = {"task": "paraphrase", "pairs": "/pairs"}
FIRST = {"pretrain": "poems"}
LOGSPARSE = {"attention": "logsparse"}
CV = {"folds": 3}
#: For each key of a run: values with which it is read, and another value than the default or theirs.
KEYS: dict[str, tuple[Values, Any]] = {
    "task": ({}, "poems"),
    "model": ({}, "gpt2"),
    "data_dir": ({}, "/elsewhere"),
    "attention": ({}, "logsparse"),
    "attention_window": (LOGSPARSE, 4),
    "attention_restart": (LOGSPARSE, 16),
    "seed": ({}, 1),
    "pretrain": ({}, "poems"),
    "pretrain_lr": (FIRST, 1e-3),
    "pretrain_batch_size": (FIRST, 2),
    "pretrain_epochs": (FIRST, 3),
    "pretrain_examples": (FIRST, 5),
    "pretrain_seed": (FIRST, 5),
    "adapter": ({}, "lora"),
    "blocks": (LORA, "0"),
    "rank": (LORA, 3),
    "alpha": (LORA, 64.0),
    "lora_dropout": (LORA, 0.0),
    "targets": (LORA, "all"),
    "rslora": (LORA, True),
    "dora": (LORA, True),
    "lora_init": (LORA, "pissa"),
    "lora_plus": (LORA, 4.0),
    "lr": ({}, 1e-2),
    "batch_size": ({}, 2),
    "accumulation": ({}, 2),
    "epochs": ({}, 2),
    "weight_decay": ({}, 0.1),
    "schedule": ({}, "cosine"),
    "warmup_steps": ({}, 2),
    "clip_norm": ({}, 0.01),
    "dropout": ({}, 0.5),
    "head_dropout": ({"task": "sst"}, 0.0),
    "paraphrase_head": ({"task": "paraphrase"}, "cloze"),
    "contrastive_weight": ({"task": "sst"}, 0.5),
    "kl_weight": ({"task": "rewriting", "pairs": "/pairs"}, 0.5),
    "cross_documents": ({"task": "poems"}, True),
    "train_examples": ({}, 4),
    "growth": ({}, 2.0),
    "dev_examples": ({}, 2),
    "precision": ({}, "bfloat16"),
    "dev_part": ({}, "search"),
    "folds": ({}, 2),
    "fold": (CV, 2),
    "scored_on": (CV, "folds"),
    "judged": (CV, True),
    "objective": ({}, "chrf_whole"),
    "decoder": ({}, "min-p"),
    "decode_seeds": ({}, 2),
    "temperature": ({}, 0.5),
    "top_k": ({"decoder": "top-k"}, 3),
    "top_p": ({}, 0.5),
    "min_p": ({"decoder": "min-p"}, 0.5),
    "typical_p": ({"decoder": "typical"}, 0.5),
    "epsilon": ({"decoder": "eta"}, 0.1),
    "mirostat_tau": ({"decoder": "mirostat"}, 1.0),
    "mirostat_eta": ({"decoder": "mirostat"}, 1.0),
    "penalty_alpha": ({"decoder": "contrastive"}, 0.1),
    "num_beams": ({"decoder": "beam"}, 2),
    "length_penalty": ({"decoder": "beam"}, -2.0),
    "beam_early_stopping": ({"decoder": "beam"}, True),
    "repetition_penalty": ({}, 1.5),
    "no_repeat_ngram": ({}, 2),
    "max_new_tokens": ({}, 5),
    "pairs": ({"task": "paraphrase"}, "/pairs"),
    "pairs_temperature": (PAIRED, 0.7),
    "pairs_round": (PAIRED, 1),
    "pairs_examples": (PAIRED, 5),
    "negatives": (PAIRED, 0.1),
    "clean_text": (PAIRED, True),
    "tau": (PAIRED, 0.5),
    "max_rouge": (PAIRED, 0.5),
    "min_length_ratio": (PAIRED, 0.5),
    "max_length_ratio": (PAIRED, 2.5),
    "filters": (PAIRED, "basic"),
}
NO_RESULT = {"gradient_checkpointing"}  # less memory, the same numbers

each_key = pytest.mark.parametrize("key", KEYS)


def two_runs(key: str) -> tuple[RunConfig, RunConfig]:
    """Two runs that differ in one key, which both read."""
    values, other = KEYS[key]
    return RunConfig.of({**values}), RunConfig.of({**values, key: other})


def test_every_key_is_walked() -> None:
    assert KEYS.keys() | NO_RESULT == RunConfig.model_fields.keys()


@each_key
def test_it_is_in_the_identity(key: str) -> None:
    one, two = two_runs(key)
    assert one.identity() != two.identity()


# a search whose reference reads as few keys as any: what other points read counts as well

READS_LITTLE = Search(
    name="keys",
    question="Which keys decide?",
    tasks={name: Case() for name in ("sonnet", "paraphrase")},
    scientific={"adapter": Choice("frozen", "lora"), "decoder": Choice("greedy", "beam")},
    nuisance={"lr": LogUniform(1e-5, 1e-3)},
    fixed={"pretrain": "rewriting"},
    reference={"adapter": "frozen", "decoder": "greedy", "lr": 1e-4, "pairs_examples": 0},
    learns_from_pairs=True,
    profiles={"quick": Profile(model="gpt2-nano", trials=2, replicates=3, candidates={"contexts": 3})},
)
FLAGS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "objective": {"comparing": Comparing(objective="chrf_whole")},
    "folds": {"comparing": Comparing(folds=2)},
    "scored_on": {"comparing": Comparing(folds=2)},
    "dev_part": {"comparing": Comparing(on="test")},
    "model": {"model": "gpt2"},
    "task": {"settings": {"task": "paraphrase"}},
}
#: Where files lie: what is in them is noted and compared when a search goes on. The last two are of single runs.
PLACES, OF_RUNS = {"data_dir", "pairs"}, {"fold", "judged"}


@pytest.mark.parametrize("key", sorted(KEYS.keys() - PLACES - OF_RUNS))
def test_it_is_in_the_digest_of_a_search(key: str) -> None:
    _, other = KEYS[key]
    flags = FLAGS.get(key, {"settings": {key: other}})
    assert make_plan(READS_LITTLE, "quick", **flags).digest != make_plan(READS_LITTLE, "quick").digest


@pytest.mark.parametrize("key", sorted(PLACES))
def test_files_that_were_moved_are_no_other_search(key: str) -> None:
    moved = make_plan(READS_LITTLE, "quick", settings={key: "/elsewhere"})
    assert moved.digest == make_plan(READS_LITTLE, "quick").digest


@pytest.mark.parametrize(
    "change",
    [
        {"scientific": {**READS_LITTLE.scientific, "decoder": Choice("greedy", "beam", "top-p")}},
        {"nuisance": {"lr": LogUniform(1e-5, 1.0000001e-3)}},
        {"nuisance": {"lr": LogUniform(1e-5, 1e-3), "batch_size": Choice(8)}},
        {"profiles": {"quick": dataclasses.replace(READS_LITTLE.profiles["quick"], candidates={"contexts": 4})}},
    ],
    ids=str,
)
def test_another_space_is_another_search(change: dict[str, Any]) -> None:
    other = dataclasses.replace(READS_LITTLE, reference={**READS_LITTLE.reference, "batch_size": 8}, **change)
    same = dataclasses.replace(READS_LITTLE, reference={**READS_LITTLE.reference, "batch_size": 8})
    assert make_plan(other, "quick").digest != make_plan(same, "quick").digest


def test_a_number_is_not_its_name() -> None:
    def of(*values: Any) -> Plan:
        space = {"alpha": Choice(*values)}
        search = dataclasses.replace(
            READS_LITTLE, scientific=space, reference={**READS_LITTLE.reference, "alpha": values[0]}
        )
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
def test_a_search_does_not_go_on_with_other_data_of_a_first_stage(
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

    profile = dataclasses.replace(READS_LITTLE.profiles["quick"], run={"pairs_temperature": 0.7})
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


def test_a_trial_does_not_learn_from_other_data_than_its_search_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toys.data()
    monkeypatch.setattr(worker_cache, "inputs", lambda run: (toys.model(), data))
    monkeypatch.setattr(worker_cache, "start", lambda run: toys.model())
    run = toys.RUN.but(epochs=1, decode_seeds=0)
    spec = TrialSpec(name="0001", run=run, folder=str(tmp_path), data=data.corpus.digest)
    (report,) = payloads(spec)
    assert "failure" not in report
    (report,) = payloads(dataclasses.replace(spec, data=toys.data(train=12).corpus.digest))
    assert "the data is not that of the search" in report["failure"]["reason"]


# caches


OF_PAIRS = [key for key, (values, _) in KEYS.items() if values == PAIRED] + ["pairs"]
#: What a run has in common with its first stage, of another task and without pairs.
SHARED = {
    "model",
    "data_dir",
    "attention",
    "attention_window",
    "attention_restart",
    "cross_documents",
    "dropout",
    "precision",
}


@pytest.mark.parametrize("key", sorted(KEYS.keys() - {"pretrain", "task", "fold", "scored_on", "judged", *OF_PAIRS}))
def test_a_first_stage_is_shared_by_runs_that_differ_in_nothing_it_reads(key: str) -> None:
    values, other = KEYS[key]
    run = RunConfig.of({**values, **FIRST, "task": "sonnet"})
    same = first_stage(run) == first_stage(run.but(**{key: other}))
    assert same == (key not in SHARED and not key.startswith("pretrain_"))


@pytest.mark.parametrize("key", ["task", "data_dir", "model", "dev_examples", *OF_PAIRS])
def test_data_in_memory_is_of_all_keys_that_it_reads(key: str) -> None:
    assert key in worker_cache.DATA_KEYS


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
    keys = [text_cache._keys(model, [[1, 2]], [DecodingConfig()], [0], 0) for model in models]
    assert (keys[0] == keys[1]) == torch.equal(*logits)
