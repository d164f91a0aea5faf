"""MLflow that is away, hangs or is locked holds nothing up, and has everything once in the end."""

import json
import shutil
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from gpt2core.errors import UserError
from searches.domains import Choice
from searches.plan import Plan, make_plan
from searches.question import Case, Profile, Search
from searches.running.budget import BUDGET
from searches.running.ledger import COMPLETED, STOPPED, Ledger, RawEvent
from searches.running.tracking import Tracker
from searches.summary import Summary, Verdict
from tests.server import Server
from tests.waiting import PATIENCE
from trainables.tracking import mlflow_address

pytestmark = pytest.mark.slow

SEARCH = Search(
    name="toy",
    question="Which rank?",
    tasks={"sonnet": Case()},
    scientific={"rank": Choice(4, 8)},
    nuisance={},
    fixed={"adapter": "lora"},
    reference={"rank": 4},
    profiles={"quick": Profile(model="gpt2-nano", trials=2, grace=1, replicates=1, run={"epochs": 2})},
)
PLAN: Plan = make_plan(SEARCH, "quick")
SUMMARY = Summary(trials=[], answer=Verdict(sentences=["none"]))
TRIALS = ("0000", "0001", "0001-r1")
LOSSES = {1: 2.0, 2: 1.5}
SOON = 15.0  # seconds: less than a search waits for MLflow at its end, and than requests that time out would take


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.wait()
    yield server
    server.kill()


@pytest.mark.parametrize("said", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_a_page_of_elsewhere_can_neither_read_nor_write(server: Server, said: dict[str, str]) -> None:
    """As `make ui` starts it: a name of another site that leads to loopback, and a page that asks from there."""
    body = json.dumps({"name": "theirs"}).encode()
    headers = {"Content-Type": "application/json"}
    made = f"{server.uri}/api/2.0/mlflow/experiments/create"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(made, body, headers | said), timeout=60)
    refused.value.close()
    assert refused.value.code == 403
    found = f"{server.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=theirs"
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(found, timeout=60)
    missing.value.close()
    assert missing.value.code == 404, "it was not made"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searches.running.tracking.GRACE", PATIENCE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searches.running.retry_queue.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("searches.running.retry_queue.LONGEST_PAUSE", 0.01)


class Tracked:
    def __init__(self, folder: Path, uri: str, name: str) -> None:
        self.warnings: list[str] = []
        self.ledger = Ledger(folder / "ledger.jsonl")
        if not self.ledger.state.id:
            self.ledger.record({"event": "search", "digest": "d", "id": name})
        self.tracker = Tracker(PLAN, self.ledger, uri, self.warnings.append)
        self.tracker.start(name, {"seed": 1}, {"search": name})
        self.ledger.listeners.append(self.tracker)
        if not self.ledger.state.data:
            data = {"data": "a few sonnets", "digest": "d" * 64}
            self.ledger.record({"event": "data", "data": data, "baselines": {}})

    def proposed(self, name: str) -> None:
        of = name.partition("-")[0] if "-" in name else None
        run = PLAN.config({"rank": 4}).model_dump()
        trial = {"name": name, "point": {"rank": 4}, "run": run, "origin": "sampler", "of": of, "optuna": None}
        self.ledger.record({"event": "proposed", "trial": trial})

    def report(self, name: str, epoch: int) -> None:
        metrics = {PLAN.objective: LOSSES[epoch], "train_loss": 1.0}
        event: RawEvent = {"event": "report", "trial": name, "epoch": epoch, "metrics": metrics}
        self.ledger.record(event | {"statistics": None, "samples": [], "tables": {}, "data": {"digest": "x"}})

    def ended(self, name: str, status: str = COMPLETED, reason: str | None = None) -> None:
        self.ledger.record({"event": "ended", "trial": name, "status": status, "reason": reason})

    def whole(self, *names: str) -> None:
        for name in names:
            self.proposed(name)
            self.report(name, 1)
            self.report(name, 2)
            self.ended(name)

    def end(self, status: str = "FINISHED") -> None:
        self.tracker.finish(SUMMARY, status)
        self.ledger.close()

    def ends_with_everything_there_once(self) -> None:
        self.end()
        client, tracker = self.tracker.client, self.tracker
        runs = client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.parent}'")
        for run in list(runs):
            runs += client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
        assert sorted(run.data.tags["trial"] for run in runs) == list(TRIALS)
        for run in runs:
            for key in (PLAN.objective, "train_loss"):
                assert [m.step for m in client.get_metric_history(run.info.run_id, key)] == [1, 2]
            assert run.info.status == "FINISHED"
            assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == ["d" * 12]
            assert run.data.params["rank"] == "4"
            assert run.data.metrics[f"best/{PLAN.objective}"] == min(LOSSES.values())
        name = self.ledger.state.id
        searches = client.search_runs([tracker.experiment_id], f"tags.search_id = '{name}'")
        assert [run.info.run_id for run in searches] == [tracker.parent]
        assert searches[0].info.status == "FINISHED"


def test_a_server_that_is_down_for_a_while_gets_everything_once(server: Server, tmp_path: Path) -> None:
    tracked = Tracked(tmp_path, server.uri, "down")
    tracked.whole("0000")
    server.kill()
    started = time.monotonic()
    tracked.whole("0001", "0001-r1")
    assert time.monotonic() - started < SOON, "the search waited for it"
    server.start()
    server.wait()
    tracked.ends_with_everything_there_once()
    assert any("did not answer" in text for text in tracked.warnings)
    assert tracked.warnings[-1].endswith("answers again")


def test_the_same_command_delivers_what_a_hung_server_did_not_take(server: Server, tmp_path: Path) -> None:
    tracked = Tracked(tmp_path, server.uri, "late")
    tracked.proposed("0000")
    tracked.report("0000", 1)
    assert tracked.tracker.queue.finish(60) == 0
    server.send(signal.SIGSTOP)  # it hangs: connections are taken, and nothing is answered
    tracked.report("0000", 2)
    tracked.ended("0000")
    tracked.whole("0001")
    started = time.monotonic()
    tracked.end("KILLED")
    assert time.monotonic() - started < SOON
    assert tracked.warnings[-1].endswith("the same command delivers them")
    server.send(signal.SIGCONT)

    again = Tracked(tmp_path, server.uri, "late")
    again.whole("0001-r1")
    again.ends_with_everything_there_once()
    assert again.warnings == []


@pytest.mark.parametrize("heard", [True, False], ids=["told", "killed before it was told"])
def test_a_trial_that_goes_on_with_a_larger_budget_does_so_in_its_run(tmp_path: Path, heard: bool) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked = Tracked(tmp_path, uri, "budget")
    tracked.proposed("0000")
    tracked.report("0000", 1)
    tracked.ended("0000", STOPPED, BUDGET)
    tracked.end("KILLED")
    run, client = tracked.ledger.state.runs["0000"], tracked.tracker.client
    assert (client.get_run(run).info.status, client.get_run(run).data.tags["reason"]) == ("KILLED", BUDGET)

    tracked = Tracked(tmp_path, uri, "budget")
    if not heard:
        tracked.ledger.listeners.clear()
    tracked.ledger.record({"event": "reopened", "trial": "0000"})
    tracked.end("KILLED")
    tracked = Tracked(tmp_path, uri, "budget")
    tracked.end("KILLED")
    assert (client.get_run(run).info.status, client.get_run(run).data.tags["reason"]) == ("RUNNING", "")

    tracked = Tracked(tmp_path, uri, "budget")
    tracked.report("0000", 2)
    tracked.ended("0000")
    tracked.whole("0001", "0001-r1")
    tracked.ends_with_everything_there_once()


def test_a_lost_response_duplicates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    tracked = Tracked(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "lost")
    client, lost = tracked.tracker.client, set[str]()

    def losing(name: str) -> None:
        """Let each call be done whose answer is then lost, the first time that it is made."""
        real = getattr(client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs)
            if (key := f"{name} {args} {kwargs}") not in lost:
                lost.add(key)
                raise OSError("connection reset")
            return answer

        monkeypatch.setattr(client, name, call)

    for name in ("create_run", "log_batch", "log_inputs", "log_text", "set_terminated"):
        losing(name)
    tracked.whole(*TRIALS)
    tracked.ends_with_everything_there_once()
    assert len(lost) > 10


def test_a_locked_database_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    tracked = Tracked(tmp_path, f"sqlite:///{path}", "locked")
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        tracked.whole(*TRIALS)
        assert time.monotonic() - started < SOON, "the search waited for it"
        other.rollback()
    tracked.ends_with_everything_there_once()


def test_at_another_address_everything_is_delivered_again(tmp_path: Path) -> None:
    first = Tracked(tmp_path, f"sqlite:///{tmp_path / 'first.db'}", "moved")
    first.whole(*TRIALS)
    first.end()
    other = Tracked(tmp_path, f"sqlite:///{tmp_path / 'other.db'}", "moved")
    other.ends_with_everything_there_once()


def test_files_that_nobody_stores_hold_up_nothing_else(tmp_path: Path, quick: None) -> None:
    uri, store = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts"
    store.write_text("no folder")
    tracked = Tracked(tmp_path, uri, "files")
    tracked.whole(*TRIALS)
    tracked.ends_with_everything_there_once()
    first, last = tracked.warnings
    assert "refused a file ([Errno" in first
    assert "refused 8 requests ([Errno" in last  # baselines.json, two files of each trial, summary.json
    assert last.endswith("once MLflow accepts them, the same command delivers them")
    client, runs = tracked.tracker.client, tracked.ledger.state.runs
    assert all("[Errno" in client.get_run(run).data.tags["lacks"] for run in runs.values())

    store.unlink()
    again = Tracked(tmp_path, uri, "files")
    again.ends_with_everything_there_once()
    assert again.warnings == []
    stored = {name: {file.path for file in client.list_artifacts(run)} for name, run in runs.items()}
    assert stored == {
        "": {"baselines.json", "summary.json"},
        **{name: {"config.yaml", "samples.md"} for name in TRIALS},
    }
    assert all("lacks" not in client.get_run(run).data.tags for run in runs.values())


def test_an_entry_that_is_always_refused_is_left(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = Tracked(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "refused")
    client = tracked.tracker.client
    real, tries = client.log_batch, list[int]()

    def refusing(run: str, metrics: Any = (), **kwargs: Any) -> None:
        steps = [metric.step for metric in metrics if metric.key == "train_loss"]
        if 2 in steps:
            tries.extend(steps)
            raise OSError("403: not for you")
        real(run, metrics=metrics, **kwargs)

    monkeypatch.setattr(client, "log_batch", refusing)
    tracked.whole(*TRIALS)
    tracked.end()
    assert len(tries) == 4 + 4 + 4, "between them, others were taken"
    assert tracked.warnings[-1].startswith(f"MLflow at {tracked.tracker.uri} refused 3 requests (403: not")
    run = client.get_run(tracked.ledger.state.runs["0000"])
    assert (run.info.status, run.data.tags["lacks"]) == ("FINISHED", "403: not for you")
    assert run.data.metrics["train_loss"] == 1.0

    again = Tracked(tmp_path, tracked.tracker.uri, "refused")
    again.ends_with_everything_there_once()


def test_what_is_longer_than_mlflow_takes_is_cut_and_says_so(tmp_path: Path) -> None:
    tracked = Tracked(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "long")
    tracked.tracker.start("long", {"command": "x" * 7000}, {"question": "y" * 9000})
    tracked.proposed("0000")
    tracked.ended("0000", "failed", "z" * 9000)
    tracked.end()
    run = tracked.tracker.client.get_run(tracked.ledger.state.runs["0000"])
    assert run.data.tags["reason"].endswith("z ... (9000 characters)")
    assert tracked.warnings == []


def test_an_experiment_that_was_deleted_is_named_with_the_way_back(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked = Tracked(tmp_path, uri, "deleted")
    tracked.end()
    tracked.tracker.client.delete_experiment(tracked.tracker.experiment_id)
    with pytest.raises(UserError, match=f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id 1`"):
        Tracked(tmp_path, uri, "deleted")


@pytest.mark.parametrize("odd", ["a b", "a%20b", "a?b", "a#b;c", "ä\nb'\"c"])
def test_a_database_and_its_files_lie_in_the_storage_whatever_it_is_called(tmp_path: Path, odd: str) -> None:
    storage = tmp_path / odd
    tracked = Tracked(storage, mlflow_address(None, storage), "odd")
    tracked.whole(*TRIALS)
    tracked.ends_with_everything_there_once()
    assert [path.name for path in tmp_path.iterdir()] == [odd]
    assert {path.name for path in storage.rglob("*.*")} >= {"mlflow.db", "samples.md", "summary.json"}


def test_a_storage_that_was_copied_keeps_its_files_to_itself(tmp_path: Path) -> None:
    former, copy = tmp_path / "former", tmp_path / "copy"
    first = Tracked(former, mlflow_address(None, former), "copied")
    first.whole("0000")
    first.end()
    shutil.copytree(former, copy)
    before = {path: path.stat().st_mtime_ns for path in former.rglob("*") if path.is_file()}
    _artifact_repos_cache.clear()  # MLflow's, of this process; a copy is gone on with by another one
    second = Tracked(copy, mlflow_address(None, copy), "copied")
    second.whole("0001", "0001-r1")
    second.ends_with_everything_there_once()
    assert {path: path.stat().st_mtime_ns for path in former.rglob("*") if path.is_file()} == before
    assert len(list(copy.rglob("samples.md"))) == len(TRIALS)
    for run in second.ledger.state.runs.values():
        assert second.tracker.client.get_run(run).info.artifact_uri.startswith(f"{copy.as_uri()}/")
