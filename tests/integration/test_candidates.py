"""Candidate generation on real Ray with a toy model: any workers write the same files, and none is made twice."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset
import pytest
import ray

from gpt2core.config import RunConfig
from gpt2core.data.quora import load_quora
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.dataset import load_pairs
from gpt2core.errors import ConfigError, UserError, WeightsError
from tests import distilling
from tests.runs import mlflow_runs, program, status
from trainables.candidates import __main__ as candidates
from trainables.candidates.actors import GeneratorActor, ScorerActor
from trainables.candidates.folder import manifest, write_results
from trainables.candidates.job import Job
from trainables.candidates.pipeline import fit_to_cluster, run
from trainables.candidates.pool import Pool
from trainables.candidates.progress import Progress

pytestmark = pytest.mark.slow

Make = Callable[..., Job]
STAGES = ("contexts", "candidates", "pairs", "judged")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("toy")
    model, data = distilling.writer(folder / "writer"), distilling.data(folder / "data")
    return lambda out, **values: distilling.job(out, model, data, **values)


@pytest.fixture(scope="module")
def finished(make: Make, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job of two workers; no test changes its folder."""
    job = make(tmp_path_factory.mktemp("finished") / "out", workers=2, scorers=2)
    complete(job)
    return job


def complete(job: Job) -> Progress:
    seen: list[Progress] = []
    run(job, [seen.append])
    write_results(job.folder)
    return seen[-1]


@pytest.mark.parametrize(
    "workers", [{"workers": 1}, {"workers": 4, "scorers": 4}, {"workers": 2, "gpus_per_worker": 1.0, "scorers": 3}]
)
def test_any_workers_write_the_same(make: Make, finished: Job, tmp_path: Path, workers: dict[str, float]) -> None:
    complete(make(tmp_path / "out", **workers))
    there, here = distilling.contents(finished.folder), distilling.contents(tmp_path / "out")
    assert {"manifest.json", "README.md", "course.tsv"} < there.keys()
    assert there.keys() == here.keys()
    assert [name for name in there if there[name] != here[name]] == []


def test_the_manifest_and_the_files_say_the_same(finished: Job) -> None:
    (entry,) = manifest(finished.folder)["rounds"]
    assert entry["contexts"] == {"asked": 120, "made": 120}
    assert entry["pairs"]["made"] == sum(entry["pairs"]["reasons"].values())
    assert entry["accepted"] == entry["pairs"]["reasons"]["accepted"] > 20
    assert entry["quarantined"]["rows"] == 0 < entry["candidates"]["reasons"]["unfinished"], "which is no poison"
    assert entry["quarantined"]["rows"] + entry["candidates"]["made"] == 120 * 5
    for stage in STAGES:
        assert sorted(p.name for p in (finished.folder / stage).iterdir()) == sorted(entry["shards"][stage])
        assert len(entry["shards"][stage]) == 3
    for part in ("accepted", "negatives"):
        assert pyarrow.dataset.dataset(finished.folder / part, format="parquet").count_rows() == entry[part] > 0
    assert "a stand-in for entailment" in entry["stand_in"]
    assert str(finished.out) not in json.dumps(entry)


def test_a_student_learns_what_accepted_holds(finished: Job) -> None:
    config = RunConfig(pairs=finished.out, negatives=0.5, **finished.thresholds.model_dump())
    pairs = load_pairs(config)
    accepted = pyarrow.dataset.dataset(finished.folder / "accepted", format="parquet").to_table()
    assert [pair["id"] for pair in pairs.accepted] == accepted["id"].to_pylist()
    assert pairs.notes == []
    (note,) = load_pairs(config.but(tau=0.8)).notes
    assert "was written with tau 0.5; this run has tau 0.8" in note


def test_accepted_pairs_load_with_common_libraries(finished: Job, tmp_path: Path) -> None:
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    (entry,) = manifest(finished.folder)["rounds"]
    files, cache = str(finished.folder / "accepted" / "*.parquet"), str(tmp_path / "cache")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert loaded.column_names[:4] == ["id", "sentence1", "sentence2", "is_duplicate"]
    assert set(loaded["is_duplicate"]) == {1}
    assert len(loaded) == entry["accepted"]
    by_card = datasets.load_dataset(str(finished.folder), "detection", split="train", cache_dir=cache)
    assert len(by_card) == entry["accepted"] + entry["negatives"]
    assert len(pandas.read_parquet(finished.folder / "accepted")) == entry["accepted"]


def test_course_tsv_is_read_like_the_courses_own_files(make: Make, finished: Job, tmp_path: Path) -> None:
    (entry,) = manifest(finished.folder)["rounds"]
    for name in ("quora-train-partial.tsv", "quora-dev.csv"):
        (tmp_path / name).write_bytes((finished.folder / "course.tsv").read_bytes())
    corpus = load_quora(str(tmp_path))
    assert not corpus.rejected
    rows = corpus.splits["train"]
    assert [row.label for row in rows] == [1] * entry["accepted"] + [0] * entry["negatives"]
    table = pyarrow.dataset.dataset(finished.folder / "accepted", format="parquet").to_table()
    pairs = {row["id"]: (row["sentence1"], row["sentence2"]) for row in table.to_pylist()}
    assert {row.id: (row.text, row.second) for row in rows if row.label} == pairs


@pytest.fixture
def copied(finished: Job, tmp_path: Path) -> Job:
    shutil.copytree(finished.folder, tmp_path / "out")
    return replace(finished, out=str(tmp_path / "out"), workers=1)


def test_a_finished_job_makes_nothing_again(copied: Job) -> None:
    before = distilling.contents(copied.folder)
    assert not complete(copied).made
    assert distilling.contents(copied.folder) == before


def test_other_thresholds_only_filter_again(copied: Job) -> None:
    before, (loose,) = distilling.contents(copied.folder), manifest(copied.folder)["rounds"]
    assert complete(replace(copied, thresholds=copied.thresholds.but(tau=0.8))).made == {"judged": 3}
    (strict,) = manifest(copied.folder)["rounds"]
    accepted = pyarrow.dataset.dataset(copied.folder / "accepted", format="parquet").to_table()
    assert len(accepted) == strict["accepted"] < loose["accepted"]
    assert pc.min(accepted["critic"]).as_py() > 0.8
    assert {path.name for path in (copied.folder / "accepted").iterdir()} <= set(strict["shards"]["judged"])
    after = distilling.contents(copied.folder)
    kept = [name for name in before if name.split("/")[0] in (*STAGES, "quarantine")]
    assert [name for name in kept if before[name] != after[name]] == [], "for who comes back to the first ones"


def test_more_contexts_and_other_candidates_keep_unchanged_shards(copied: Job) -> None:
    assert complete(replace(copied, contexts=160)).made == dict.fromkeys(STAGES, 2)
    (entry,) = manifest(copied.folder)["rounds"]
    assert entry["contexts"]["made"] == 160
    warmer = replace(copied, contexts=50, generation=copied.generation.but(temperature=1.2))
    assert complete(warmer).made == dict.fromkeys(("candidates", "pairs", "judged"), 1)
    assert len(list((copied.folder / "accepted").iterdir())) == 1, "of 50 contexts"


def test_a_truncated_shard_is_made_again(copied: Job) -> None:
    before = distilling.contents(copied.folder)
    victim = copied.folder / "candidates" / manifest(copied.folder)["rounds"][0]["shards"]["candidates"][1]
    victim.write_bytes(victim.read_bytes()[:-20])
    (victim.parent / f".{victim.name}.abcdefgh").write_bytes(b"PAR1")
    assert complete(copied).made == {"candidates": 1}
    assert distilling.contents(copied.folder) == before


def test_too_many_unusable_rows_stop_the_job(make: Make, local_ray: None, tmp_path: Path) -> None:
    job = make(tmp_path / "out", generation=distilling.GENERATION.but(max_characters=25), max_quarantine=0.05)
    message = r"rows are unusable, but `max_quarantine` allows 0\.05 of 600 .* times: it has \d+ characters"
    with pytest.raises(UserError, match=message) as stop:
        run(job)
    assert str(job.folder / "quarantine") in str(stop.value)
    assert len(pyarrow.dataset.dataset(job.folder / "quarantine", format="parquet").to_table()) > 30
    assert not (job.folder / "manifest.json").exists()


def test_a_second_job_in_the_folder_is_refused(make: Make, local_ray: None, tmp_path: Path) -> None:
    job = make(tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another job writes to it; wait for its end"):
            run(job)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_errors_of_actors_reach_the_user(make: Make, local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no model `nowhere`"):
        run(replace(make(tmp_path / "a"), generator="nowhere"))
    with pytest.raises(ConfigError, match=r"5 workers and 1 scorers need 4\.6 CPUs, but the cluster has 4"):
        run(make(tmp_path / "b", workers=5))
    with pytest.raises(ConfigError, match="2 workers and 1 scorers need 3 GPUs, but the cluster has 2"):
        run(make(tmp_path / "c", workers=2, gpus_per_worker=1.0, gpus_per_scorer=1.0))


def test_default_worker_counts_fit_the_cluster(make: Make, local_ray: None, tmp_path: Path) -> None:
    job = make(tmp_path, contexts=1000)

    def places(**asked: float) -> tuple[int, float, int]:
        found = fit_to_cluster(job, **asked)  # type: ignore[arg-type]
        return found.workers, found.gpus_per_worker, found.scorers

    assert places() == (2, 1.0, 4), "a worker for each GPU, a critic for each CPU beside them"
    assert places(gpus_per_worker=0) == (4, 0, 4)
    assert places(gpus_per_scorer=1.0) == (1, 1.0, 1)
    job = replace(job, critic="embedding")
    assert places() == (2, 0.5, 2), "as many critics as GPUs"
    assert fit_to_cluster(job).gpus_per_scorer == fit_to_cluster(job, gpus_per_worker=0.5).gpus_per_scorer == 0.5
    assert places(gpus_per_worker=1.0) == (1, 1.0, 1)
    assert (places(gpus_per_worker=2.0), fit_to_cluster(job, gpus_per_worker=2.0).gpus_per_scorer) == ((1, 2.0, 4), 0)
    assert (places(gpus_per_worker=0), fit_to_cluster(job, gpus_per_worker=0).gpus_per_scorer) == ((4, 0, 4), 0)
    assert places(workers=3, gpus_per_worker=0, scorers=1) == (3, 0, 1)
    assert fit_to_cluster(replace(job, contexts=50), gpus_per_worker=0).workers == 1, "no more than shards"


@pytest.mark.parametrize(("critic", "asked", "seen"), [
    ("embedding", {}, {"GeneratorActor": [1, 1], "ScorerActor": [1, 1]}),
    ("overlap", {}, {"GeneratorActor": [1, 1], "ScorerActor": [0] * 4}),
    ("embedding", {"gpus_per_worker": 0.0}, {"GeneratorActor": [0] * 4, "ScorerActor": [0] * 4}),
])  # fmt: skip
def test_actors_see_only_the_gpus_that_ray_gave_them(
    make: Make, local_ray: None, tmp_path: Path, critic: str, asked: dict[str, float], seen: dict[str, list[int]]
) -> None:
    def probe(kind: type) -> type:
        class Probe(kind):  # type: ignore[misc]
            def identity(self) -> dict[str, object]:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
                return {"visible": [gpu for gpu in visible.split(",") if gpu], "given": ray.get_gpu_ids()}

        return Probe

    job = fit_to_cluster(replace(make(tmp_path, contexts=1000), critic=critic), **asked)  # type: ignore[arg-type]
    answers: dict[str, list[dict[str, list[object]]]] = {}
    with (
        Pool(probe(GeneratorActor), job, job.workers, job.generator_resources, ()) as generators,
        Pool(probe(ScorerActor), job, job.scorers, job.scorer_resources, ()) as scorers,
    ):
        for name, pool in (("GeneratorActor", generators), ("ScorerActor", scorers)):
            answers[name] = ray.get(list(pool.in_flight), timeout=120)
    assert {name: [len(answer["visible"]) for answer in each] for name, each in answers.items()} == seen
    for answer in (answer for each in answers.values() for answer in each):
        assert answer["visible"] == [str(gpu) for gpu in answer["given"]]
    places = [gpu for each in answers.values() for answer in each for gpu in answer["visible"]]
    assert all(places.count(gpu) <= 2 for gpu in places), "two halves of a GPU at most"


@pytest.mark.parametrize(("flags", "message"), [
    (["--tua", "1"], "Unknown flag `--tua`: did you mean `--tau`?"),
    (["--tau", "7"], "The value of `tau` is 7.0, but must be <= 1"),
    (["--contexts", "0"], "The value of `--contexts` is 0, but must be >= 1"),
    (["--critic", "overlab"], "Unknown critic `overlab`: did you mean `overlap`?"),
    (["--source", "sonet"], "Unknown source `sonet`: did you mean `sonnet`?"),
    (["--set", "candidate_token=9"], "Unknown key `candidate_token`: did you mean `candidate_tokens`?"),
    (["--set", "top_p"], "The value of `--set` is 'top_p', but must be KEY=VALUE"),
    (["--max-quarantine", "2"], "must be a share, 0 to 1"),
])  # fmt: skip
def test_bad_flags_are_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(candidates.main, flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_flags_and_settings_make_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = candidates.parse(["--out", "x", "--seed", "5", "--set", "top_p=0.8", "--set", "max_length_ratio=2"])
    assert options.job.out == str(tmp_path / "x")
    assert options.job.generation == GenerationConfig(seed=5, top_p=0.8, source="pretraining")
    assert options.job.thresholds.max_length_ratio == 2
    assert candidates.parse(["--data-dir", "d"]).job.generation.source == "paraphrase"
    assert candidates.parse([]).job.out == str(tmp_path / "runs" / "candidates")
    assert candidates.parse(["--rounds", "2", "--set", "epochs=1"]).student == {"epochs": "1"}


def test_the_command_shows_writes_and_logs_a_job(make: Make, finished: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model, data = Path(finished.model), Path(str(finished.data_dir))
    done = program(distilling.command(out, model, data))
    assert done.returncode == 0, done.stderr
    assert distilling.contents(out) == distilling.contents(finished.folder)
    (entry,) = manifest(out)["rounds"]
    accepted = f"{entry['accepted']:,} of {entry['pairs']['made']:,}"
    for part in ("shards filtered", "Round 1", "forward", accepted, str(out)):
        assert part in done.stdout
    assert "a stand-in for entailment" in done.stdout
    (record,) = mlflow_runs(tmp_path, "candidates")
    assert record.info.status == "FINISHED"
    assert record.data.tags["digest"] == entry["digest"]
    assert record.data.params["tau"] == "0.5"
    assert record.data.metrics["round_accepted"] == entry["accepted"]
    assert {"contexts", "pairs_per_second", "rejected_forward"} <= record.data.metrics.keys()


def test_finished_rounds_are_written_if_a_later_one_fails(finished: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out)
    for name in ("README.md", "course.tsv"):
        (out / name).unlink()
    command = distilling.command(out, Path(finished.model), Path(str(finished.data_dir)))
    done = program([*command, "--rounds", "2", "--set", "lr=1e30"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: The student of round 1 could not be trained: The training loss is")
    assert "warning: the results of round 1 are written nevertheless" in done.stdout
    assert (out / "README.md").read_text() == (finished.folder / "README.md").read_text()
    assert (out / "course.tsv").read_text() == (finished.folder / "course.tsv").read_text()
    (record,) = mlflow_runs(tmp_path, "candidates")
    assert record.info.status == "FAILED"
