"""Rounds on real Ray: the student of each round writes the candidates of the next one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2core.errors import ConfigError, UserError
from gpt2core.weights import load_model
from tests import distilling
from trainables.candidates import rounds
from trainables.candidates.folder import manifest
from trainables.candidates.job import Job
from trainables.candidates.rounds import Student, good_share, run_each_round, run_rounds

pytestmark = pytest.mark.slow

SETTINGS = {"lr": 3e-3, "epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Job:
    folder = tmp_path_factory.mktemp("rounds")
    model, data = distilling.writer(folder / "writer"), distilling.data(folder / "data")
    return distilling.job(folder / "out", model, data, contexts=50)


@pytest.fixture(scope="module")
def said(job: Job) -> list[str]:
    lines: list[str] = []
    run_rounds(job, 2, SETTINGS, [], lines.append)
    return lines


def test_the_student_of_the_first_round_rewrites_fresh_contexts(job: Job, said: list[str]) -> None:
    first, second = manifest(job.folder)["rounds"]
    assert (first["rewrite"], second["rewrite"]) == (False, True)
    assert second["model"] == first["model"]
    assert second["generator"] == f"students/{Path(second['generator']).parent.name}/model"
    assert load_model(str(job.folder / second["generator"])).config == load_model(job.model).config
    texts = [
        {row["text"] for name in entry["shards"]["contexts"] for row in rows(job, "contexts", name)}
        for entry in (first, second)
    ]
    assert texts[0] != texts[1]
    pairs = [row for name in second["shards"]["pairs"] for row in rows(job, "pairs", name)]
    assert {row["first"] for row in pairs} == {-1}
    assert {row["sentence1"] for row in pairs} <= texts[1]
    assert said[0].startswith("round 1: yield ")


def rows(job: Job, stage: str, name: str) -> list[dict[str, object]]:
    from gpt2core.distill.shards import read

    return list(read(job.folder / stage / name).to_pylist())


def test_the_same_command_again_makes_nothing_again(job: Job, said: list[str]) -> None:
    before = distilling.contents(job.folder)
    again: list[str] = []
    run_rounds(job, 2, SETTINGS, [], again.append)
    assert again == said
    assert distilling.contents(job.folder) == before


def test_another_critic_scores_the_same_texts(job: Job, said: list[str]) -> None:
    """It has candidates of its own from round 2 on, because its student writes them."""
    before = distilling.contents(job.folder)
    out = job.folder / "critic-embedding"
    other = replace(job, out=str(out), texts=job.out, critic="embedding", max_quarantine=1.0)
    entries = run_each_round(other, 2, SETTINGS)
    new = {name: content for name, content in distilling.contents(job.folder).items() if name not in before}
    assert distilling.contents(job.folder) == before | new, "no file is written again"
    first, second = manifest(job.folder)["rounds"]
    assert [entry["critic"]["critic"] for entry in entries] == ["embedding", "embedding"]
    for stage in ("contexts", "candidates"):
        assert entries[0]["shards"][stage] == first["shards"][stage]
    assert entries[1]["shards"]["contexts"] == second["shards"]["contexts"]
    assert entries[1]["shards"]["candidates"] != second["shards"]["candidates"]
    assert entries[0]["shards"]["pairs"] != first["shards"]["pairs"]
    assert {name.split("/")[0] for name in new} == {"candidates", "critic-embedding"}


def test_other_settings_train_another_student(job: Job, said: list[str]) -> None:
    run_rounds(job, 2, {**SETTINGS, "kl_weight": 0.5}, [], lambda text: None)
    assert len(list((job.folder / "students").iterdir())) == 2
    configs = [json.loads(path.read_text())["config"] for path in (job.folder / "students").glob("*/best/state.json")]
    assert sorted(config["kl_weight"] for config in configs) == [0.1, 0.5]


@pytest.mark.parametrize(("accepted", "losses", "ran", "last"), [
    ([1, 2, 3, 4], [0.9, 0.8, 0.7], 4, "round 3: yield 30.00%, dev loss of the student 0.7000"),
    ([1, 1, 3, 4], [0.9, 0.8, 0.7], 2, "stopped after round 2: its yield, 10.00%, is no better than before"),
    ([1, 2, 3, 4], [0.9, 0.9, 0.7], 2, "stopped before round 3: the student is no better than the previous one"),
])  # fmt: skip
def test_useless_rounds_stop(
    monkeypatch: pytest.MonkeyPatch, accepted: list[int], losses: list[float], ran: int, last: str
) -> None:
    jobs: list[Job] = []

    def run(job: Job, listeners: object) -> dict[str, object]:
        jobs.append(job)
        return {"pairs": {"reasons": {"accepted": accepted[job.round - 1], "length": 10 - accepted[job.round - 1]}}}

    def train_student(job: Job, entry: object, settings: object) -> Student:
        return Student(folder=f"student-{job.round}", dev_loss=losses[job.round - 1])

    monkeypatch.setattr(rounds, "run", run)
    monkeypatch.setattr(rounds, "train_student", train_student)
    lines: list[str] = []
    run_rounds(distilling.job(Path("out"), Path("teacher"), Path("data")), 4, {}, [], lines.append)
    assert [(job.round, job.model, job.generator, job.rewrite) for job in jobs] == [
        (number, "teacher", f"student-{number - 1}" if number > 1 else "teacher", number > 1)
        for number in range(1, ran + 1)
    ]
    assert lines[-1] == last


def test_the_yield_counts_duplicates_of_accepted_pairs() -> None:
    reasons = {"accepted": 3, "duplicate": 2, "exact": 1, "near": 1, "length": 2, "rouge": 1}
    assert good_share({"pairs": {"reasons": reasons}}) == 0.7
    assert good_share({"pairs": {"reasons": {}}}) == 0


def test_a_student_that_cannot_be_trained_is_a_one_line_error(job: Job, said: list[str]) -> None:
    with pytest.raises(UserError, match=r"The student of round 1 could not be trained: The training loss is"):
        run_rounds(job, 2, {**SETTINGS, "lr": 1e30}, [], lambda text: None)
    with pytest.raises(ConfigError, match="The value of `epochs` is 0, but must be"):
        run_rounds(job, 2, {"epochs": 0}, [], lambda text: None)
