"""The main job, run as a user runs it: real Ray, real Optuna, real MLflow on sqlite, the embedded model and data."""

import os
from pathlib import Path
from subprocess import CompletedProcess

import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gpt2core.weights import load_model
from searches.__main__ import main
from tests import course
from tests.runs import ROOT, events, search, summary

NAME = "lora_rank-smoke"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(storage: Path) -> CompletedProcess[str]:
    return search(storage, "--smoke", "--trials", "4")


def test_it_ends_well_and_prints_table_verdict_and_results(done: CompletedProcess[str], storage: Path) -> None:
    assert done.returncode == 0, done.stderr
    for part in ("chrf_continuation", "Floors", "Verdict:", "gpt2-nano", "sonnets: 131 train, 12 dev", "baseline"):
        assert part in done.stdout
    assert str(storage / "searches" / NAME / "summary.json") in done.stdout
    assert str(storage / "searches" / NAME / "curves.svg") in done.stdout
    assert (storage / "searches" / NAME / "curves.svg").read_text().startswith("<svg")
    assert f"Report: {storage / 'searches' / NAME / 'report.html'}" in done.stdout


def test_progress_is_shown_for_each_epoch_with_the_time_left_and_the_cost_so_far(done: CompletedProcess[str]) -> None:
    assert "epoch 1/2: chrf_continuation" in done.stdout
    assert "s left; " in done.stdout
    assert "CPU-hours so far)" in done.stdout


def test_summary_holds_what_the_screen_was_made_from(done: CompletedProcess[str], storage: Path) -> None:
    result = summary(storage, NAME)
    assert (result["objective"], result["direction"]) == ("chrf_continuation", "max")
    counts = result["counts"]
    assert counts["trials"] == 4
    assert counts["completed"] + counts["stopped"] == 4
    assert counts["replicates"] == 2
    assert result["best"]["score"] == max(row["score"] for row in result["trials"] if row["of"] is None)
    assert result["baseline"]["point"] == {"rank": 8, "lr": 0.001, "alpha": "2r", "batch_size": 8}
    assert set(result["floors"]) >= {"given_only", "random_lines"}
    assert result["verdict"]["compared"][1] == result["baseline"]["id"]
    assert result["wall_seconds"] > 0


def test_baseline_is_trial_0_and_the_points_of_the_study_follow(done: CompletedProcess[str], storage: Path) -> None:
    trials = [row for row in summary(storage, NAME)["trials"] if row["of"] is None]
    assert [row["origin"] for row in trials] == ["baseline", "study", "study", "study"]
    assert [row["point"]["rank"] for row in trials[1:]] == [4, 8, 16]
    assert all(row["point"]["lr"] == 1e-5 for row in trials[1:])


def test_mlflow_has_parent_children_and_grandchildren(done: CompletedProcess[str], storage: Path) -> None:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sonnet")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    result = summary(storage, NAME)
    assert set(runs) == {NAME, *(row["id"] for row in result["trials"])}
    parent = runs[NAME]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["data_digest"] == result["data"]["digest"]
    for run in runs.values():
        (used,) = (entry.dataset for entry in run.inputs.dataset_inputs)
        assert (used.name, used.digest) == ("sonnet", result["data"]["digest"][:12])
    assert parent.data.tags["verdict"] == result["verdict"]["text"]
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"curves.svg", "report.html", "report.md", "summary.json"}
    assert parent.data.tags["report"] == str(storage / "searches" / NAME / "report.html")
    assert result["verdict"]["text"].split(".")[0] in parent.data.tags["mlflow.note.content"]
    for row in result["trials"]:
        run = runs[row["id"]]
        above = runs[row["of"]] if row["of"] else parent
        assert run.data.tags["mlflow.parentRunId"] == above.info.run_id
        assert run.data.params["rank"] == str(row["point"]["rank"])
        filters = {key: run.data.tags[key] for key in ("search", "origin", "status")}
        assert filters == {"search": NAME, "origin": row["origin"], "status": row["status"]}
        history = client.get_metric_history(run.info.run_id, "chrf_continuation")
        assert [metric.step for metric in history] == list(range(1, row["epochs"] + 1))
        assert run.data.metrics["best_chrf_continuation"] == row["score"]
        assert "samples.md" in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]


def test_the_report_can_be_had_from_the_ledger_alone(
    done: CompletedProcess[str], storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = storage / "searches" / NAME
    before = {name: (folder / name).read_text() for name in ("report.md", "summary.json")}
    for name in before:
        (folder / name).unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["report", NAME, "--storage", str(storage)])
    assert not stopped.value.code
    assert capsys.readouterr().out == f"Report: {folder / 'report.html'}\n"
    sections = [text.split("## Cost")[0] for text in (before["report.md"], (folder / "report.md").read_text())]
    assert sections[0] == sections[1]
    (folder / "summary.json").write_text(before["summary.json"])


def test_optuna_reads_what_its_dashboard_shows(done: CompletedProcess[str], storage: Path) -> None:
    journal = JournalStorage(JournalFileBackend(str(storage / "searches" / NAME / "optuna.journal")))
    study, result = optuna.load_study(study_name=NAME, storage=journal), summary(storage, NAME)
    assert study.metric_names == [result["objective"]]
    rows = [row for row in result["trials"] if row["of"] is None]
    assert [trial.params for trial in study.trials] == [row["point"] for row in rows]
    ended = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert [trial.state for trial in study.trials] == [ended[row["status"]] for row in rows]


def test_the_winner_is_a_model_folder(done: CompletedProcess[str], storage: Path) -> None:
    model = load_model(str(storage / "searches" / NAME / "best"))
    assert model.config.n_layer == 4


def test_asked_again_it_runs_nothing_again(done: CompletedProcess[str], storage: Path) -> None:
    before = events(storage, NAME, "proposed")
    again = search(storage, "--smoke", "--trials", "4", "--resume", "must")
    assert again.returncode == 0, again.stderr
    assert events(storage, NAME, "proposed") == before


def test_another_search_never_mixes_with_it(done: CompletedProcess[str], storage: Path) -> None:
    never = search(storage, "--smoke", "--resume", "never")
    other = search(storage, "--smoke", "--set", "epochs=1")
    absent = search(storage, "--smoke", "--name", "absent", "--resume", "must")
    assert [never.returncode, other.returncode, absent.returncode] == [2, 2, 2]
    assert "choose another --name" in never.stderr
    assert "has another space or other settings" in other.stderr
    assert "there is no search to go on with" in absent.stderr
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
