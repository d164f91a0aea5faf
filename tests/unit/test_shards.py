"""Shards are complete or absent, and their names depend on exactly what decides them."""

import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import gpt2core.distill.filters
import gpt2core.distill.scores
from gpt2core.config import Thresholds
from gpt2core.distill import card, shards
from gpt2core.distill.acceptance import COLUMNS
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.shards import CONTEXTS, QUARANTINE, STAGES, Shard, cache_key, code_version
from gpt2core.errors import UserError
from gpt2core.testing import toys
from gpt2core.weights import digest
from trainables.candidates.folder import manifest
from trainables.candidates.job import Job
from trainables.candidates.job import shards as files_of
from trainables.candidates.mlflow_run import CandidatesRun
from trainables.candidates.progress import Progress, Report
from trainables.candidates.screen import line

IDENTITY: dict[str, Any] = {"model": "a", "generator": "a", "prefixes": "b", "critic": {"critic": "overlap"}}
JOB = Job(
    out="/out", contexts=120, model="toy", generator="toy", generation=GenerationConfig(), thresholds=Thresholds()
)
ROW = {"context": "r1-00000-000", "prefix": "Shall I", "text": "Shall I go?"}


def shard(folder: Path) -> Shard:
    return Shard(str(folder), "contexts", 1, 7, cache_key("contexts", seed=1))


def test_only_a_complete_shard_exists(tmp_path: Path) -> None:
    one = shard(tmp_path)
    assert not one.exists()
    one.write([ROW], CONTEXTS, [])
    assert one.exists()
    assert one.read().to_pylist() == [ROW]
    assert not one.quarantine.exists()
    whole = one.path.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        one.path.write_bytes(whole[:length])
        assert not one.exists(), length


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shard(tmp_path / name).write([ROW, ROW], CONTEXTS, [])
    assert shard(tmp_path / "a").path.read_bytes() == shard(tmp_path / "b").path.read_bytes()


def test_the_quarantine_is_written_before_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(shards, "write", lambda path, table: written.append((path, table.schema)))
    one = shard(tmp_path)
    one.write([ROW], CONTEXTS, [{"stage": "contexts", "id": "x", "text": "", "error": "it is empty"}])
    assert written == [(one.quarantine, QUARANTINE), (one.path, CONTEXTS)]


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowTypeError):
        shard(tmp_path).write([ROW | {"text": 1}], CONTEXTS, [])
    assert not list(tmp_path.rglob("*.*"))


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    one = shard(tmp_path)
    one.write([ROW], CONTEXTS, [])
    kept = [one.path, tmp_path / ".lock", tmp_path / "manifest.json", tmp_path / "students" / ".config.abcdefgh"]
    left = [one.path.with_name(f".{one.path.name}.a1b2c3_4"), tmp_path / ".manifest.json.zzzzzzzz"]
    for path in (*kept[1:], *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    shards.remove_stale(tmp_path, (), 1)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)


def test_a_cache_key_depends_on_values_and_not_on_their_order() -> None:
    assert cache_key("pairs", a=1, b=[2]) == cache_key("pairs", b=[2], a=1)
    keys = [cache_key("pairs", a=1), cache_key("pairs", a=2), cache_key("judged", a=1), cache_key("pairs", b=1)]
    assert len({*keys}) == 4


def test_the_code_version_of_a_package_covers_its_files() -> None:
    scores, filters = gpt2core.distill.scores, gpt2core.distill.filters
    assert code_version(scores) != code_version(filters)
    assert code_version(scores, filters) == code_version(scores, filters)
    assert code_version(gpt2core.distill) != code_version(scores)


def changed(job: Job, identity: dict[str, Any] = IDENTITY, number: int = 0) -> list[str]:
    """The stages whose files of a shard differ from those of JOB."""
    before, after = files_of(JOB, IDENTITY, number), files_of(job, identity, number)
    return [stage for stage in STAGES if before[stage] != after[stage]]


def generating(**values: object) -> Job:
    return replace(JOB, generation=JOB.generation.but(**values))


def test_a_change_remakes_the_stages_that_it_decides_and_later_ones() -> None:
    assert changed(JOB) == []
    assert changed(replace(JOB, thresholds=Thresholds(tau=0.5))) == ["judged"]
    assert changed(JOB, IDENTITY | {"critic": {"critic": "nli"}}) == ["pairs", "judged"]
    assert changed(JOB, IDENTITY | {"generator": "c"}) == ["candidates", "pairs", "judged"]
    for values in ({"candidates": 20}, {"temperature": 0.5}, {"candidate_tokens": 9}, {"no_repeat_ngram": 0}):
        assert changed(generating(**values)) == ["candidates", "pairs", "judged"], values
    for values in ({"seed": 1}, {"top_p": 0.5}, {"samples": 9}, {"context_temperature": 0.5}, {"prefix_words": 2}):
        assert changed(generating(**values)) == list(STAGES), values
    assert changed(replace(JOB, round=2)) == list(STAGES)
    for role in ("model", "prefixes"):
        assert changed(JOB, IDENTITY | {role: "c"}) == list(STAGES)


def test_settings_that_do_not_decide_a_shard_are_not_in_its_name() -> None:
    assert changed(replace(JOB, workers=8, gpus_per_worker=1.0, scorers=3, max_quarantine=0.5, data_dir="/else")) == []
    longer = replace(JOB, contexts=1000)
    assert changed(longer) == changed(longer, number=1) == []
    assert changed(longer, number=2) == list(STAGES), "it had the rest, and has more now"
    assert [JOB.shard_size(number) for number in range(JOB.shard_count)] == [50, 50, 20]


def test_every_generation_setting_changes_a_shard_name() -> None:
    other = {"source": "poems"}
    for key, value in JOB.generation:
        assert changed(generating(**{key: other.get(key, value * 2 if key != "top_p" else 0.5)})), key


def test_the_digest_of_a_model_covers_its_shape_and_values() -> None:
    model = toys.model()
    assert digest(model) == digest(toys.model())
    assert digest(model) != digest(toys.model(seed=1))
    assert digest(model) != digest(toys.model(shape=toys.SHAPE.but(n_head=2))), "the same tensors, used in another way"
    model.wte.weight.data[3, 3] += 1e-6
    assert digest(model) != digest(toys.model())


def test_a_damaged_manifest_is_a_one_line_error(tmp_path: Path) -> None:
    assert manifest(tmp_path)["rounds"] == []
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: is damaged; remove it"):
        manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 99, "rounds": []}')
    with pytest.raises(UserError, match="its version is 99, but must be 1"):
        manifest(tmp_path)


def progress() -> Progress:
    told = Progress(1, 4, 2, ready=1, seconds=12.0, working=2.0)
    told.add(Report(0, ("contexts", "candidates"), {"contexts": 50, "candidates": 500}, {}, Counter()))
    told.add(Report(1, (), {"contexts": 50, "candidates": 500}, {}, Counter()))
    reasons = {"judged": {"accepted": 10, "length": 30}}
    told.add(Report(0, ("pairs", "judged"), {"pairs": 40, "judged": 40}, reasons, {}))
    return told


def test_rates_count_new_rows_and_totals_count_all() -> None:
    assert line(progress()) == (
        "   12s  1 of 4 shards filtered; 100 contexts (25.0/s), 1,000 candidates (250.0/s), 40 pairs (20.0/s); "
        "accepted 25.0%, rejected: length 75.0%"
    )
    assert "waiting for 2 workers" in line(Progress(1, 4, 2))


def test_a_silent_mlflow_is_reported_once_and_stops_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    said: list[str] = []
    tracker = CandidatesRun(address, said.append)
    tracker.start(tmp_path, {"tau": 0.5})
    tracker(progress())
    tracker.finish("FINISHED", [], "")
    assert len(said) == 1
    assert f"MLflow at {address} did not answer (connection refused)" in said[0]
    assert "\n" not in said[0]


def test_the_card_is_stored_next_to_the_given_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = CandidatesRun(f"sqlite:///{tmp_path / 'elsewhere' / 'x.db'}", pytest.fail)
    tracker.start(tmp_path / "pairs", {"tau": 0.5})
    tracker.finish("FINISHED", [ENTRY], "the card")
    (card,) = tmp_path.rglob("README.md")
    assert card.read_text() == "the card"
    assert card.is_relative_to(tmp_path / "elsewhere" / "mlartifacts" / "candidates")
    assert not (tmp_path / "mlruns").exists()


ENTRY: dict[str, Any] = {
    "round": 1, "rewrite": False, "generation": GenerationConfig().model_dump(),
    "thresholds": Thresholds().model_dump(), "model": "gpt2-nano", "generator": "gpt2-nano",
    "digests": {"model": "d1", "generator": "d1", "prefixes": "d2"},
    "critic": {"critic": "overlap", "model": "none", "digest": "d3"}, "stand_in": "it knows no meaning",
    "contexts": {"asked": 100, "made": 99},
    "candidates": {"made": 990, "reasons": {"repeated": 1, "usable": 989}},
    "pairs": {"made": 4000, "reasons": {"length": 3000, "forward": 900, "near": 10, "accepted": 90}},
    "accepted": 90, "negatives": 12, "digest": "d4", "quarantined": {"rows": 10, "errors": {"it is empty": 10}},
}  # fmt: skip


def test_the_card_has_exact_counts_and_valid_front_matter() -> None:
    from huggingface_hub import DatasetCard

    pair = {"sentence1": "```", "sentence2": "So.", "critic": 0.9, "rouge_l": 0.25}
    measures = card.Measures(critic=0.9, rouge_l=0.25, sentences=4, distinct_1=0.5, distinct_2=0.75, self_bleu=12.0)
    text = card.card([ENTRY], measures, [{"accepted": [pair], "near": [pair]}])
    data = DatasetCard(text).data
    assert data.size_categories == ["n<1K"]
    configs = {config["config_name"]: config["data_files"][0]["path"] for config in data.to_dict()["configs"]}
    assert configs["detection"] == ["accepted/*.parquet", "negatives/*.parquet"]
    for part in (
        "| length | one sentence is much longer than the other | 3,000 | 75.00% | 1,000 |",
        "| near | another context has nearly the same pair | 10 | 0.25% | 90 |",
        "accepted 2.25% (90 of 4,000)",
        "usable 99.90% (989 of 990); repeated 1",
        "Quarantined rows: 10; 10 times: it is empty",
        "A stand-in: it knows no meaning",
        "distinct-1 0.500, distinct-2 0.750, self-BLEU 12.000",
        "Rejected by near",
    ):
        assert part in text


def test_a_card_without_accepted_pairs_has_no_configs() -> None:
    text = card.card([ENTRY | {"accepted": 0, "negatives": 0}], None, [{}])
    assert "configs" not in text
    assert "There is nothing to load: lower `tau`, or generate more contexts." in text


def test_measures_do_not_depend_on_the_split_into_files() -> None:
    rows = [
        {"id": str(n), "sentence1": f"one {n} two", "sentence2": f"two {n % 7}", "critic": n / 300, "rouge_l": 0.5}
        for n in range(300)
    ]
    whole = card.measure([pa.Table.from_pylist(rows)])
    parts = card.measure([pa.Table.from_pylist(rows[start : start + 50]) for start in range(0, 300, 50)])
    assert (whole.sentences, whole.distinct_2, whole.self_bleu) == (parts.sentences, parts.distinct_2, parts.self_bleu)
    assert whole.critic == pytest.approx(parts.critic) == pytest.approx(sum(range(300)) / 300 / 300)
    assert card.measure([]) is None


def test_accepted_files_have_the_courses_columns_first() -> None:
    assert COLUMNS[:8] == ("id", "sentence1", "sentence2", "is_duplicate", "context", "round", "first", "second")
    assert len(set(COLUMNS)) == len(COLUMNS)
