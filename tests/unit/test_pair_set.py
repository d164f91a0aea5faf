"""Generated pairs as training data."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt2core.config import RunConfig, Thresholds
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import DataOrigin
from gpt2core.data.quora import load_quora
from gpt2core.distill.acceptance import adaptive_tau
from gpt2core.distill.dataset import load_pairs, rewriting_corpus, rounds, with_pairs
from gpt2core.distill.manifest import MANIFEST
from gpt2core.errors import ConfigError, DataError
from gpt2core.files import read_json, write_json
from gpt2core.identity import identity
from gpt2core.pretrain_stage import run_data
from gpt2core.tasks import TASKS
from gpt2core.testing import toys
from tests import course, generated

QUORA = Corpus(
    name="quora",
    origin=DataOrigin(source="the test"),
    splits={
        "train": [Row(id=str(n), text=f"\u201cWhy\u201d {n} ?", second=f"How {n}?", label=n % 2) for n in range(90)],
        "dev": [Row(id="d", text="Who ?", second="What?", label=0)],
    },
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return RunConfig(task="paraphrase", pairs=str(generated.folder(tmp_path_factory.mktemp("pairs"))), negatives=0.5)


def test_thresholds_are_applied_to_the_stored_scores(config: RunConfig) -> None:
    assert len(load_pairs(config).accepted) == 60
    assert len(load_pairs(config.but(tau=0.95)).accepted) == 0
    assert len(load_pairs(config.but(max_rouge=0.4)).accepted) == 0
    assert len(load_pairs(config.but(max_rouge=0.4, filters="basic")).accepted) == 60


def test_an_adaptive_threshold_follows_from_the_stored_scores(config: RunConfig, tmp_path: Path) -> None:
    """Half of the pairs have the score 0.9, half 0.15."""
    (entry,) = rounds(Path(str(config.pairs)))
    share = (0.9 + 0.15) / 2
    assert adaptive_tau(Path(str(config.pairs)), entry) == pytest.approx(
        (0.9 + 0.85) / 2 * share / max(share, 1 - share)
    )
    found = load_pairs(config.but(tau_rule="adaptive", tau=0.99))
    assert len(found.accepted) == 60
    assert "this run has tau 0.8" in " ".join(found.notes) or "unknown thresholds" in " ".join(found.notes)
    rows = [row | {"critic": 0.25} for row in generated.contexts(20)]
    unsure = RunConfig(task="paraphrase", pairs=str(generated.folder(tmp_path, [rows])), tau_rule="adaptive")
    (entry,) = rounds(tmp_path)
    assert adaptive_tau(tmp_path, entry) == pytest.approx(0.75 / 3), (
        "a class that is rarely predicted gets a low threshold"
    )
    assert len(load_pairs(unsure).accepted) == 0, "no score is above it"


def test_only_a_fixed_rule_reads_tau(config: RunConfig) -> None:
    adaptive = config.but(tau_rule="adaptive")
    assert identity(adaptive) == identity(adaptive.but(tau=0.2))
    assert identity(config) != identity(config.but(tau=0.2))


def test_a_smaller_set_has_negatives_in_proportion(config: RunConfig) -> None:
    found = load_pairs(config.but(pairs_examples=40))
    assert (len(found.accepted), len(found.negatives)) == (40, 20)
    assert [pair["id"] for pair in found.accepted] == [f"r1-00000-{n:03d}-000-001" for n in range(40)]
    assert not {pair["id"] for pair in found.accepted} & {pair["id"] for pair in found.negatives}
    assert len(load_pairs(config.but(negatives=9.0)).negatives) == 60, "there are no more"
    assert found.digest != load_pairs(config).digest


@pytest.mark.parametrize(("changes", "message"), [
    ({"pairs_examples": 61}, "has 60 accepted pairs for this run, but `pairs_examples` and `negatives` ask for 61"),
    ({"pairs_examples": 50, "negatives": 1.3}, "has 60 hard negatives for this run, but .* ask for 65"),
    ({"pairs_examples": 10, "tau": 0.95}, "has 0 accepted pairs for this run"),
])  # fmt: skip
def test_too_few_pairs_are_an_error(config: RunConfig, changes: dict[str, object], message: str) -> None:
    """So that all runs with a number of pairs learn from that number, whatever their thresholds."""
    with pytest.raises(DataError, match=message):
        load_pairs(config.but(**changes))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    data = course.folder(tmp_path_factory.mktemp("quora"))
    return RunConfig(task="paraphrase", data_dir=str(data), added_pairs="real", pairs_examples=6, negatives=0.5)


def test_real_pairs_are_as_many_and_none_of_the_sample(real: RunConfig) -> None:
    rows = load_quora(real.data_dir).splits["train"]
    found = load_pairs(real)
    by_id = {row.id: row for row in rows}
    assert [by_id[pair["context"]].label for pair in found.accepted] == [1] * 6
    assert [by_id[pair["context"]].label for pair in found.negatives] == [0] * 3
    data = run_data(real)
    most = data.corpus.most_examples
    assert most is not None
    plain, _ = run_data(real.but(added_pairs=None)).training_examples(real.but(train_examples=most))
    tokens, sizes = data.training_examples(real.but(train_examples=most))
    assert set(sizes) == {most + 9}
    own = [name for name in tokens.ids if not name.startswith("real-")]
    assert sorted(own) == sorted(plain.ids), "the sample is that without pairs"
    taken = {pair["context"] for pair in (*found.accepted, *found.negatives)}
    assert taken.isdisjoint(own)
    for count in (most + 1, None):
        with pytest.raises(ConfigError, match=f"but must be at most {most} with `added_pairs` 'real'"):
            data.training_examples(real.but(train_examples=count))


def test_real_pairs_ignore_what_is_about_generated_ones(real: RunConfig) -> None:
    other = real.but(pairs="/nowhere", tau=0.1, tau_rule="adaptive", pairs_temperature=0.3, pairs_critic="nli")
    assert identity(other) == identity(real)
    assert identity(real.but(pairs_examples=7)) != identity(real)
    with pytest.raises(ConfigError, match="`pairs_examples` is 'all', but must be a number"):
        load_pairs(real.but(pairs_examples="all"))
    with pytest.raises(DataError, match="pairs of class 1 for this run"):
        load_pairs(real.but(pairs_examples=10**6))


def test_a_student_may_learn_from_the_same_real_pairs(real: RunConfig) -> None:
    splits = rewriting_corpus(real.but(task="rewriting")).splits
    learnt = sorted(row.id for row in (*splits["train"], *splits["dev"]))
    assert learnt == sorted(pair["id"] for pair in load_pairs(real).accepted)
    assert len(splits["dev"]) == 1


def test_a_curriculum_begins_with_the_surest_pairs(config: RunConfig, tmp_path: Path) -> None:
    rows = [row | {"critic": round(row["critic"] * (1 - n / 500), 4)} for n, row in enumerate(generated.contexts(30))]
    folder = generated.folder(tmp_path, [rows])
    run = RunConfig(task="paraphrase", pairs=str(folder), tau=0.5, negatives=1.0, tau_rule="curriculum")
    found, fixed = load_pairs(run), load_pairs(run.but(tau_rule="fixed"))
    assert sorted(pair["id"] for pair in found.accepted) == sorted(pair["id"] for pair in fixed.accepted)
    assert [pair["critic"] for pair in found.accepted] == sorted((p["critic"] for p in fixed.accepted), reverse=True)
    assert [pair["critic"] for pair in found.negatives] == sorted(p["critic"] for p in fixed.negatives)
    student = run.but(task="rewriting")
    assert identity(student) == identity(student.but(tau_rule="fixed")), "it is for detection only"


def test_a_pair_of_two_contexts_is_accepted_once(tmp_path: Path) -> None:
    rows = generated.contexts(10)
    rows[-2] |= {key: rows[0][key] for key in ("sentence1", "sentence2")} | {"critic": 0.95}
    found = load_pairs(RunConfig(pairs=str(generated.folder(tmp_path, [rows]))))
    assert len(found.accepted) == 9
    assert rows[-2]["id"] in {pair["id"] for pair in found.accepted}, "the critic is surer of it than of the first"


#: Hard negatives of each context: the first of two shards has too few, and the second one makes up for them.
UNEVEN = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run with the thresholds of accepted/, for two rounds with some duplicate pairs."""
    rows = [uneven(round) for round in (1, 2)]
    folder = generated.with_accepted(tmp_path_factory.mktemp("written"), Thresholds(tau=0.6), rows)
    return RunConfig(task="paraphrase", pairs=str(folder), tau=0.6)


def uneven(round: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, count in enumerate(UNEVEN):
        name = f"r{round}-00000-{number:03d}"
        rows.append(generated.pair(name, 0, 1, round=round, forward=0.61 + number / 50))
        bad = {"round": round, "forward": 0.1, "backward": 0.2, "critic": 0.15, "rouge_l": 0.7}
        for place in range(count):
            rows.append(generated.pair(name, 0, place + 2, **bad, sentence2=f"{place} not {rows[-1]['sentence1']}"))
    repeated = next(row for row in rows if row["id"] == f"r{round}-00000-012-000-001")
    repeated |= {side: rows[0][side] for side in ("sentence1", "sentence2")} | {"critic": 0.95}
    return rows


def test_a_round_accepts_a_repeated_pair_once(written: RunConfig) -> None:
    assert len(load_pairs(written).accepted) == 2 * (len(UNEVEN) - 1)


@pytest.mark.parametrize(("values", "negatives"), [
    *itertools.product([{}, {"pairs_round": 2}], [0.0, 0.5, 1.0, 9.0]),
    *itertools.product([{"pairs_examples": 5}, {"pairs_examples": 14}], [0.0, 0.5, 1.0]),
])  # fmt: skip
def test_a_student_reads_the_pairs_that_filtering_the_stored_scores_accepts(
    written: RunConfig, tmp_path: Path, negatives: float, values: dict[str, object]
) -> None:
    config = written.but(negatives=negatives, **values)
    assert config.pairs is not None
    shutil.copytree(Path(config.pairs) / "pairs", tmp_path / "pairs")
    shutil.copy(Path(config.pairs) / MANIFEST, tmp_path)
    read, filtered = load_pairs(config), load_pairs(config.but(pairs=str(tmp_path)))
    assert read.notes == []
    assert all("of the manifest, so the stored scores were filtered again" in note for note in filtered.notes)
    assert filtered.notes
    assert read.accepted == filtered.accepted
    assert read.negatives == filtered.negatives
    assert read.digest == filtered.digest


def test_a_student_learns_from_accepted_and_not_from_the_scores(written: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(str(written.pairs), tmp_path / "pairs")
    config = written.but(pairs=str(tmp_path / "pairs"), negatives=0.0)
    shutil.rmtree(tmp_path / "pairs" / "pairs")
    assert load_pairs(config).accepted == load_pairs(written).accepted
    with pytest.raises(DataError, match=r"pairs/r1-.*: cannot be read"):
        load_pairs(config.but(tau=0.7))


def test_other_thresholds_are_noted_in_description_and_facts(written: RunConfig) -> None:
    same, other = (with_pairs(QUORA, config) for config in (written, written.but(tau=0.7, filters="basic")))
    assert "filtered again" not in same.describe()
    assert "note" not in same.facts
    said = (
        "accepted/ of round 1 was written with tau 0.6, filters all; this run has tau 0.7, filters basic, "
        "so the stored scores were filtered again"
    )
    assert said in other.describe()
    assert said in str(other.facts["note"])
    assert other.facts["generated_pairs"] < same.facts["generated_pairs"]  # type: ignore[operator]
    student = rewriting_corpus(written.but(task="rewriting", tau=0.7, pairs_round=1))
    assert student.describe().count("this run has tau 0.7") == 1
    assert "this run has tau 0.7" in str(student.facts["note"])


def test_a_folder_without_accepted_is_filtered_with_a_note(config: RunConfig) -> None:
    note = "accepted/ of round 1 was written with unknown thresholds, so the stored scores were filtered again"
    assert load_pairs(config).notes == [note]


def test_detection_adds_both_evenly_mixed_and_is_scored_on_its_own(config: RunConfig) -> None:
    corpus = with_pairs(QUORA, config)
    train = corpus.splits["train"]
    assert len(train) == 90 + 60 + 30
    assert corpus.added == 60 + 30
    assert train[:90] == QUORA.splits["train"]
    assert sum(row.label for row in train[90:120]) == pytest.approx(20, abs=1)
    assert corpus.splits["dev"] == QUORA.splits["dev"]
    assert {row.label for row in train if row.id.endswith("000-001")} == {1}
    assert {row.label for row in train if row.id.endswith("000-002")} == {0}
    assert corpus.facts["generated_pairs"] == 60
    assert corpus.facts["generated_negatives"] == 30
    assert "60 generated pairs and 30 hard negatives" in corpus.describe()
    assert corpus.digest != QUORA.digest


def test_text_is_cleaned_in_all_splits_or_not_at_all(config: RunConfig) -> None:
    assert with_pairs(QUORA, config).splits["dev"][0].text == "Who ?"
    cleaned = with_pairs(QUORA, config.but(clean_text=True))
    assert cleaned.splits["dev"][0].text == "Who?"
    assert '"Why" 0?' in {row.text for row in cleaned.splits["train"]}


def test_zero_pairs_leave_the_corpus_unchanged(config: RunConfig) -> None:
    assert with_pairs(QUORA, config.but(pairs_examples=0)) is QUORA
    assert with_pairs(QUORA, RunConfig()) is QUORA


def test_all_students_have_the_dev_split_of_the_first_round(tmp_path: Path) -> None:
    rounds = [generated.contexts(40), generated.contexts(30, round=2)]
    config = RunConfig(task="rewriting", pairs=str(generated.folder(tmp_path, rounds)))
    one, two, both = (rewriting_corpus(config.but(pairs_round=number)).splits for number in (1, 2, None))
    assert one["dev"] == two["dev"] == both["dev"]
    assert len(one["dev"]) == 2
    assert {row.id for row in one["dev"]}.isdisjoint(row.id for row in both["train"])
    assert {row.id[:2] for row in two["train"]} == {"r2"}
    assert len(both["train"]) == len(one["train"]) + len(two["train"])


def test_a_rewriting_is_learnt_behind_its_prompt(config: RunConfig) -> None:
    words = toys.tokenizer()
    row = Row(id="r", text="a rose", second="as a rose")
    (example,) = TASKS["rewriting"].encode([row], words)
    assert words.decode(example.input_ids[: example.given]) == "a rose\nIn other words:"
    assert words.decode(example.input_ids[example.given :]) == " as a rose"
    assert example.input_ids[-1] == words.eos


def test_each_critic_has_its_own_pairs(tmp_path: Path) -> None:
    for number, critic in enumerate(("overlap", "nli"), start=10):
        generated.folder(tmp_path / "temperature-0.7" / f"critic-{critic}", [generated.contexts(number)])
    config = RunConfig(task="paraphrase", pairs=str(tmp_path), pairs_temperature=0.7, pairs_critic="overlap")
    other = config.but(pairs_critic="nli")
    assert [len(load_pairs(run).accepted) for run in (config, other)] == [10, 11]
    assert identity(config) != identity(other)
    values = read_json(tmp_path / "temperature-0.7" / "critic-nli" / MANIFEST)
    values["rounds"][0]["critic"] = {"critic": "nli"}
    write_json(tmp_path / MANIFEST, values)
    with pytest.raises(DataError, match="the critic `nli` scored these pairs, but `pairs_critic` is 'overlap'"):
        load_pairs(config)


@pytest.mark.parametrize(("changes", "message"), [
    (
        {"pairs": None, "task": "rewriting"},
        "learns from generated pairs: --set pairs=FOLDER, or make one with `gpt2-search",
    ),
    ({"pairs": "/nowhere"}, "/nowhere/manifest.json: must be the manifest of generated pairs"),
    ({"pairs": "/nowhere", "pairs_temperature": 0.5}, "/nowhere/temperature-0.5/manifest.json: must be"),
    ({"tau": 1.0, "task": "rewriting"}, "no accepted pair is left for the train split; lower `tau`"),
])  # fmt: skip
def test_unusable_pairs_are_a_one_line_error(config: RunConfig, changes: dict[str, object], message: str) -> None:
    chosen = config.but(**changes)
    with pytest.raises(DataError, match=message):
        rewriting_corpus(chosen) if chosen.task == "rewriting" else load_pairs(chosen)
