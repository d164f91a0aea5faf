"""A search over a user's program, run as a user runs it: from a folder of their own, with real Ray and MLflow."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from searches import control
from searches.__main__ import main
from tests.runs import ROOT, events, mlflow_trials, program, status, summary
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

NAME = "command-train"
COMMAND = f"{sys.executable} train.py --lr {{lr}} --seed {{seed}} --epochs {{epochs}}"
SCRIPT = [sys.executable, str(ROOT / "searches" / "command.py"), "--metric", "dev_acc"]
#: Chances are equal, good, and none: the program refuses the last value.
FLAGS = ["--search", "lr=0.0001,0.03,oops", "--set", "epochs=3", "--trials", "3", "--scheduler", "none"]


def project(folder: Path) -> Path:
    """A user's folder with a training program."""
    shutil.copy(ROOT / "tests" / "toy_trainer.py", folder / "train.py")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def done(folder: Path) -> CompletedProcess[str]:
    return program([*SCRIPT, "--command", COMMAND, *FLAGS], cwd=folder)


@pytest.fixture
def good(done: CompletedProcess[str], folder: Path) -> str:
    """The trial with the good learning rate."""
    assert done.returncode == 0, done.stdout + done.stderr
    return next(str(row["id"]) for row in summary(folder / "runs", NAME)["trials"] if row["point"] == {"lr": 0.03})


def test_the_answer_compares_seeds(done: CompletedProcess[str], folder: Path, good: str) -> None:
    result = summary(folder / "runs", NAME)
    assert result["question"] == "Which settings of train.py have the best dev acc?"
    answer = result["answer"]
    assert (answer["outcome"], answer["winner"], answer["seeds"]) == ("difference", good, 3)
    assert answer["sentences"][0].startswith("lr 0.03 is better than the reference (lr 0.0001) by 0.")
    assert "3 fresh seeds per setting on the data that the program evaluates on" in answer["scope"]
    runs = [row["config"]["seed"] for row in result["trials"] if row["of"] == good]
    assert runs == [11712, 11713, 11714]
    assert f"Folder of trial {good}: {folder / 'runs' / 'searches' / NAME / 'trials' / good}" in done.stdout


def test_each_run_has_its_own_folder_and_output(folder: Path, good: str) -> None:
    trials = folder / "runs" / "searches" / NAME / "trials"
    assert (trials / good / "3-0.03-toy.pt").is_file()
    assert "Epoch 2: train loss :: " in (trials / good / "output.log").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["runs", "train.py"]


def test_a_program_that_fails_is_a_failed_trial_that_shows_its_last_lines(
    done: CompletedProcess[str], folder: Path
) -> None:
    failed = next(row for row in summary(folder / "runs", NAME)["trials"] if row["status"] == "failed")
    assert failed["reason"].startswith("exit status 2: ")
    assert "argument --lr: invalid float value: 'oops'" in failed["reason"]
    assert failed["reason"] in done.stdout


def test_mlflow_has_the_values_and_the_curve(folder: Path, good: str) -> None:
    runs = mlflow_trials(folder / "runs", "program")
    assert runs[good].data.params["lr"] == "0.03"
    assert runs[good].data.params.keys() == {"lr", "epochs", "seed", "task"}
    best = next(row["score"] for row in summary(folder / "runs", NAME)["trials"] if row["id"] == good)
    assert runs[good].data.metrics["best/dev_acc"] == best


def test_other_commands_know_the_search(
    done: CompletedProcess[str], folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    storage = ["--storage", str(folder / "runs")]
    assert status(main, ["report", NAME, *storage]) == 0
    report = (folder / "runs" / "searches" / NAME / "report.md").read_text()
    assert "interval over texts" not in report
    assert "Program: train.py. Data: as the program reads it." in report
    assert "Program: train.py\n" in done.stdout
    capsys.readouterr()
    assert status(main, ["list", *storage, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["model"] == "train.py"
    assert listed["answer"].startswith("lr 0.03 is better")
    assert status(main, ["export-optuna", NAME, *storage, "--out", str(tmp_path / "journal")]) == 0
    assert status(main, ["promote", NAME, *storage]) == 2
    assert "is of a program, so it has no model folder. Trial" in capsys.readouterr().err


def test_a_changed_program_is_refused(done: CompletedProcess[str], folder: Path) -> None:
    script = folder / "train.py"
    text = script.read_text()
    script.write_text(text + "\n# changed\n")
    again = program([*SCRIPT, "--command", COMMAND, *FLAGS], cwd=folder)
    script.write_text(text)
    assert again.returncode == 2
    assert "The files of the command have changed since this search began" in again.stderr


def started(folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """Start a search in a folder, with its output in a file there."""
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(words, cwd=folder, stdout=said, stderr=said)


def programs(folder: Path) -> list[psutil.Process]:
    """The programs of a folder that run."""
    script = str(folder / "train.py")
    return [process for process in psutil.process_iter(["cmdline"]) if script in (process.info["cmdline"] or ())]


def test_programs_obey_a_user_who_pauses_resumes_and_stops_them_from_python(tmp_path: Path) -> None:
    flags = ["--search", "wait=300,0", "--set", "epochs=2", "--set", "lr=0.03", "--trials", "2", "--replicates", "0"]
    words = [*SCRIPT, "--command", f"{COMMAND} --wait {{wait}}", *flags, "--max-concurrent", "1"]
    search = started(project(tmp_path), words)
    storage, mine = tmp_path / "runs", tmp_path / "runs" / "searches" / NAME / "trials" / "0000"

    def has_begun(times: int) -> None:
        log = mine / "output.log"
        wait_until(
            lambda: log.exists() and log.read_text().count("load") == times, search, (tmp_path / "said.txt").read_text
        )

    has_begun(1)
    assert "the search is paused and no trial runs" in control(NAME, "pause", storage=str(storage))
    wait_until(lambda: not programs(tmp_path), search)
    assert (mine / "interrupted").exists()
    assert control(NAME, "resume", storage=str(storage)) == "the search continues"
    has_begun(2)
    (mine / "interrupted").unlink()
    assert control(NAME, "stop", "0000", storage=str(storage)) == "trial 0000 is stopped"
    wait_until(lambda: (mine / "interrupted").exists(), search)
    assert search.wait(PATIENCE) == 0
    assert {row["id"]: row["status"] for row in summary(storage, NAME)["trials"]} == {
        "0000": "stopped",
        "0001": "completed",
    }
    assert "interval over texts" not in (tmp_path / "runs" / "searches" / NAME / "report.md").read_text()


def test_an_interrupted_or_killed_search_ends_its_programs_and_resumes_them(tmp_path: Path) -> None:
    command = f"{COMMAND} --wait {{wait}}"
    flags = ["--search", "lr=0.01,0.03", "--set", "epochs=4", "--set", "wait=1", "--trials", "2", "--replicates", "0"]
    resume = ["--resume-flag", "--resume {checkpoint}", "--max-concurrent", "1"]
    words = [*SCRIPT, "--command", command, *flags, *resume]
    ledger, trials = (tmp_path / "runs" / "searches" / NAME / name for name in ("ledger.jsonl", "trials"))
    said = tmp_path / "said.txt"

    def has_reported(epoch: int, search: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: ledger.exists() and ledger.read_text().count('"report"') >= epoch, search, said.read_text)

    search = started(project(tmp_path), words)
    has_reported(1, search)
    search.send_signal(signal.SIGINT)
    assert search.wait(PATIENCE) == 130
    assert not programs(tmp_path), "they end before the search does"
    assert (trials / "0000" / "interrupted").exists()
    *progress, last = said.read_text().splitlines()
    assert not [line for line in progress if "raylet" in line]
    _, _, way_on = last.partition("What is finished is kept; to go on: gpt2-search ")

    search = started(tmp_path, [sys.executable, "-m", "searches", *shlex.split(way_on)])
    has_reported(3, search)
    running = programs(tmp_path)
    assert running
    search.kill()
    search.wait(PATIENCE)
    assert not psutil.wait_procs(running, timeout=60)[1]

    again = program(words, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (trials / "0000" / "output.log").read_text().count("resumed after epoch") == 2
    reports = [event["epoch"] for event in events(tmp_path / "runs", NAME, "report") if event["trial"] == "0000"]
    assert reports == [1, 2, 3, 4]
    kept = json.loads((trials / "0000" / "progress.json").read_text())
    assert (sorted(kept["values"]), kept["ended"]) == (["1", "2", "3", "4"], True)
