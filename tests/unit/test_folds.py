"""Cross-validation: each training text is scored once, by a run that has not seen it, whatever cuts the round."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2core import activations, folds, pretrain_stage, training
from gpt2core.__main__ import main
from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.checkpoints.layout import STATE, WEIGHTS
from gpt2core.checkpoints.reading import newest_resumable
from gpt2core.config import RunConfig
from gpt2core.data import dividing
from gpt2core.data.dividing import fold_numbers
from gpt2core.errors import CheckpointError, ConfigError
from gpt2core.metrics.counts import from_json
from gpt2core.model import GPT2, trainable_parameters
from gpt2core.packing import Packer
from gpt2core.pretrain_stage import first_stage, starting_model
from gpt2core.run import Run
from gpt2core.steps import Step, advance
from gpt2core.tasks import TASKS, Evaluation, TaskData
from gpt2core.testing import toys
from gpt2core.training import EpochReport
from gpt2core.workers import Workers
from tests.course import FILMS, sentiment
from tests.runs import status
from tests.workers import two_workers
from trainables.trial import TrialSpec, payloads

ONE = toys.RUN.but(task="sst", adapter="lora", rank=2, epochs=2, batch_size=7, lr=1e-2)
ROUND = ONE.but(folds=2, judged=True)
CPU = torch.device("cpu")
TIMES = {"train_seconds", "eval_seconds", "tokens_per_second"}


def start(config: RunConfig) -> GPT2:
    return toys.model()


def reports(config: RunConfig, folder: Path | None = None, **others: Any) -> list[EpochReport]:
    return list(folds.train(config, start, others.pop("data", None) or toys.data(), folder=folder, **others))


def told(report: EpochReport) -> dict[str, Any]:
    parts = [report.evaluation, *([report.judged] if report.judged else [])]
    return {
        "epoch": report.epoch,
        "step": report.step,
        "metrics": {name: value for name, value in report.metrics.items() if name not in TIMES},
        "counts": [{name: array.tolist() for name, array in part.statistics.items()} for part in parts],
        "scores": [{n: v for n, v in part.metrics.items() if n.startswith(("dev_", "acc"))} for part in parts],
        "samples": [part.samples for part in parts],
        "tables": [part.tables for part in parts],
        "best": report.best and told(report.best),
    }


@pytest.mark.parametrize("scored_on", ["dev", "folds"])
def test_a_round_is_the_runs_by_hand_and_its_metrics_are_made_of_their_counts(scored_on: str) -> None:
    config, data = ROUND.but(scored_on=scored_on), toys.data()
    by_hand = [list(training.train(part, toys.model(), data)) for part in config.sub_runs]
    for report, *parts in zip(reports(config), *by_hand, strict=True):
        assert report.step == sum(part.step for part in parts)
        assert report.metrics["train_loss"] == pytest.approx(np.mean([part.metrics["train_loss"] for part in parts]))
        assert report.judged is not None
        whole = (report.evaluation, report.judged)
        dev, folded = whole if scored_on == "dev" else whole[::-1]
        pieces = [(part.evaluation, part.judged)[:: 1 if scored_on == "dev" else -1] for part in parts]
        for name in ("loss", "confusion"):
            sides = zip(*pieces, strict=True)
            on_dev, on_folds = ([piece.statistics[name] for piece in found if piece] for found in sides)
            assert dev.statistics[name].tolist() == np.concatenate(on_dev, axis=0).tolist()
            assert folded.statistics[name].tolist() == np.concatenate(on_folds, axis=1).tolist()
        assert dev.statistics["loss"].shape == (2, 4, 2)
        assert folded.statistics["loss"].shape == (1, 13, 2)
        losses = folded.statistics["loss"][0]
        assert folded.metrics["dev_loss"] == pytest.approx(losses[:, 0].mean())
        assert sum(map(sum, folded.tables["confusion"])) == 13
        assert report.metrics["dev_loss"] == report.evaluation.metrics["dev_loss"]


@pytest.mark.parametrize(("objective", "generating"), [("dev_loss", 1), ("chrf_whole", 2)])
def test_where_the_loss_chooses_only_the_first_sub_run_continues_dev_texts(objective: str, generating: int) -> None:
    config = toys.RUN.but(task="sonnet", adapter="lora", rank=2, epochs=1, lr=1e-2, folds=2, objective=objective)
    parts = [next(training.train(part, toys.model(), toys.data())) for part in config.sub_runs]
    (report,) = reports(config)
    texts = np.concatenate([part.evaluation.statistics["chrf_whole"] for part in parts[:generating]])
    assert report.evaluation.statistics["chrf_whole"].tolist() == texts.tolist()
    assert len(texts) == generating * config.decode_seeds
    assert report.evaluation.samples == parts[0].evaluation.samples
    assert report.metrics["dev_loss"] == pytest.approx(np.mean([part.metrics["dev_loss"] for part in parts]), rel=1e-3)


def test_only_what_chooses_is_scored_where_nothing_is_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    evaluate = type(TASKS["sst"]).evaluate

    def noted(task: Any, model: GPT2, data: TaskData, *rest: Any) -> Evaluation:
        seen.append(len(data.splits["dev"]))
        return evaluate(task, model, data, *rest)

    monkeypatch.setattr(type(TASKS["sst"]), "evaluate", noted)
    assert reports(ONE.but(folds=2, epochs=1))[0].judged is None
    assert seen == [4, 4]
    seen.clear()
    reports(ONE.but(folds=2, epochs=1, scored_on="folds"))
    assert sorted(seen) == [6, 7]


def test_no_sub_run_nor_its_first_stage_trains_on_its_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path / "cache"))
    data = toys.data()
    monkeypatch.setattr(pretrain_stage, "run_data", lambda config: data)
    toy = str(toys.folder(tmp_path / "toy"))
    config = ROUND.but(model=toy, epochs=1, pretrain="sst", pretrain_epochs=1, scored_on="folds")
    step = Run.step
    seen: set[tuple[str, int | None, str]] = set()

    def noted(run: Run, number: int, batch: np.ndarray) -> torch.Tensor:
        seen.update((run.config.adapter, run.config.fold, run.tokens.texts[int(i)]) for i in batch)
        return step(run, number, batch)

    monkeypatch.setattr(Run, "step", noted)
    list(folds.train(config, starting_model, data))
    numbers = fold_numbers(data.splits["train"].digests, 2)
    for adapter in ("full", "lora"):
        for fold in (1, 2):
            rest = {text for text, own in zip(data.splits["train"].texts, numbers, strict=True) if own != fold}
            assert {text for kind, left_out, text in seen if (kind, left_out) == (adapter, fold)} == rest


def test_a_first_stage_on_other_texts_is_one_for_all_folds() -> None:
    config = ROUND.but(pretrain="cfimdb")
    assert {first_stage(part) for part in config.sub_runs} == {first_stage(config.but(folds=1, judged=False))}
    same = ROUND.but(pretrain="sst", dev_part="search", dev_examples=70)
    first, second = (first_stage(part) for part in same.sub_runs)
    assert first == first_stage(same), "the weights that are kept"
    assert (first.fold, second.fold) == (1, 2)
    assert (second.dev_part, second.dev_examples, second.judged) == ("search", 70, False)


@pytest.mark.parametrize("minutes", [0.0, 1e9])
@pytest.mark.parametrize("cut", range(1, 7))
def test_a_round_that_was_killed_anywhere_reports_the_same(cut: int, minutes: float, tmp_path: Path) -> None:
    """Two epochs of two sub-runs, each of one step, and a report: six events."""
    whole = [told(report) for report in reports(ROUND, tmp_path / "whole")]
    folder = tmp_path / "killed"
    killed = folds.loop(ROUND, start, toys.data(), folder=folder, checkpoint_minutes=minutes)
    event = advance(killed, None)
    for _ in range(cut - 1):
        event = advance(killed, event.take() if isinstance(event, Step) else None)
    assert event is not None
    killed.close()
    wanted = [report["best"] or report for report in whole]
    for rarely in (minutes, 0.0):  # the second time, a finished round reports its epochs again
        again = [told(report) for report in reports(ROUND, folder, checkpoint_minutes=rarely)]
        assert [report["best"] or report for report in again] == wanted


@pytest.mark.parametrize("objective", ["accuracy", "dev_loss", "chrf_whole"])
@pytest.mark.parametrize("early", [False, True])
def test_a_round_scores_its_best_epoch_at_the_end_as_if_it_had_scored_each(
    objective: str, early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best epoch is the first one if that is `early`. The second sub-run is killed before it is scored."""
    task = "sst" if objective == "accuracy" else "sonnet"
    config = ROUND.but(task=task, objective=objective, epochs=3)
    if early:
        for module in (training, folds):
            monkeypatch.setattr(module, "is_best", lambda history, *_: not history)
    each = reports(config.but(score_every_epoch=True), tmp_path / "each")
    metric = TASKS[task].metrics[objective]
    best = each[0] if early else metric.direction.best(each, key=lambda report: report.metrics[objective])
    assert best is not None
    judge, calls = training._judging_scores, []

    def killed(run: Run) -> Evaluation | None:
        calls.append(run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(run)

    monkeypatch.setattr(training, "_judging_scores", killed)
    with pytest.raises(KeyboardInterrupt):
        reports(config, tmp_path / "late")
    *others, last = reports(config, tmp_path / "late")
    assert len(calls) == 3, "the first sub-run was scored already"
    assert not any(report.judged or report.best for report in others)
    assert last.best is not None
    assert told(last.best) == told(best)
    assert last.best.judged is not None
    state = json.loads((tmp_path / "late" / "best" / STATE).read_text())
    recorded = state["history"][-1]["metrics"]
    assert {name: recorded[name] for name in best.metrics if name not in TIMES} == told(best)["metrics"]


def test_lost_weights_of_the_best_epoch_are_not_replaced_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "is_best", lambda history, *_: not history)
    config = ROUND.but(epochs=4)
    *_, _ = itertools.islice(folds.train(config, start, toys.data(), folder=tmp_path), 3)
    (tmp_path / "fold-2" / "best" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"must have the weights of epoch 1, the best one.* remove the folder"):
        reports(config, tmp_path)


def test_the_best_epoch_of_a_round_keeps_its_first_sub_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that judge would have chosen another epoch; so would the first fold."""
    scores = {1: [5.0, 3.0, 4.0], 2: [9.0, 3.0, 1.0]}  # of each fold, by epoch
    told = {fold: iter([value for score in found for value in (score, -score)]) for fold, found in scores.items()}

    def evaluate(task: object, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        return Evaluation(metrics={"accuracy": -next(told[config.fold or 0])})

    monkeypatch.setattr(type(TASKS["sst"]), "evaluate", evaluate)
    config = ROUND.but(epochs=3, score_every_epoch=True)
    found = reports(config, tmp_path)
    assert [report.metrics["accuracy"] for report in found] == [-7.0, -3.0, -2.5]
    assert [report.judged.metrics["accuracy"] for report in found if report.judged] == [7.0, 3.0, 2.5]
    model = build_model(config, toys.model(), CPU)
    assert load_best(tmp_path, model) == 3
    best = torch.cat([parameter.flatten().clone() for parameter in trainable_parameters(model).values()])
    for fold in (1, 2):
        assert load_best(tmp_path / f"fold-{fold}", model) == 3, "not by its own score, which would be 2 for the first"
        weights = torch.cat([p.flatten() for p in trainable_parameters(model).values()])
        assert torch.equal(best, weights) == (fold == 1)
    assert run_config(tmp_path) == config.but(fold=1)


def test_what_a_kill_left_of_the_best_weights_is_mended(tmp_path: Path) -> None:
    config = ROUND.but(epochs=1)
    reports(config, tmp_path)
    for name in (STATE, WEIGHTS):
        (tmp_path / "best" / name).unlink()
        reports(config, tmp_path)
        assert load_best(tmp_path, build_model(config, toys.model(), CPU)) == 1
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        reports(config.but(lr=1e-3), tmp_path)


def test_texts_that_judge_change_nothing_of_what_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dividing, "SMALL", 4)
    each = ONE.but(score_every_epoch=True)
    configs = (each.but(dev_part="search"), each.but(folds=2), each.but(folds=2, scored_on="folds"))
    for number, config in enumerate(configs):
        plain, judged = (reports(c, tmp_path / f"{number}-{c.judged}") for c in (config, config.but(judged=True)))
        for one, two in zip(plain, judged, strict=True):
            assert one.judged is None
            assert two.judged is not None
            assert told(replace(two, judged=None)) == told(one)
        states = [json.loads(p.read_text())["history"][-1]["epoch"] for p in tmp_path.glob(f"{number}-*/best/*.json")]
        assert len(states) == 2
        assert len(set(states)) == 1


def test_without_folds_the_other_half_of_dev_judges_where_there_is_one() -> None:
    config, data = ONE.but(dev_part="search", judged=True, epochs=1), toys.data(dev=61)
    (report,) = reports(config, data=data)
    assert report.judged is not None
    assert report.evaluation.statistics["loss"].shape == (1, 31, 2)
    assert report.judged.statistics["loss"].shape == (1, 30, 2)
    assert "dev_loss" in report.judged.metrics
    (small,) = reports(config)
    assert small.judged is None
    assert small.evaluation.statistics["loss"].shape == (1, 4, 2)


@pytest.mark.parametrize("config", [ROUND, ONE.but(dev_part="search", judged=True)], ids=["folds", "halves"])
def test_activations_include_judged_texts(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(dividing, "SMALL", 4)
    config = config.but(adapter="last-linear")
    cached = [told(report)["scores"] for report in reports(config)]
    assert len(list(tmp_path.glob("activations/*.arrow"))) >= 3
    monkeypatch.setattr(activations, "LARGEST", 0)
    for one, two in zip(cached, [told(report)["scores"] for report in reports(config)], strict=True):
        assert len(one) == 2
        assert one == [pytest.approx(scores, rel=1e-5) for scores in two]


def test_rounds_in_a_pack_are_what_they_are_alone() -> None:
    configs = [ROUND, ROUND.but(lr=3e-3, seed=5, folds=3), ONE.but(epochs=3)]
    base, packer = toys.model(), Packer()
    alone = [list(folds.train(config, lambda _: base, toys.data())) for config in configs]
    members = [folds.loop(config, lambda _: base, toys.data(), folder=None) for config in configs]
    found: list[list[EpochReport]] = [[] for _ in configs]
    waiting: dict[int, Step] = {}

    def follow(number: int, answer: Any) -> None:
        event = advance(members[number], answer)
        while isinstance(event, EpochReport):
            found[number].append(event)
            event = advance(members[number], None)
        waiting.pop(number, None)
        if event is not None:
            waiting[number] = event

    for number in range(len(configs)):
        follow(number, None)
    while waiting:
        numbers = list(waiting)
        for number, answer in zip(numbers, packer.take([waiting[n] for n in numbers]), strict=True):
            follow(number, answer)
    for one, two in zip(alone, found, strict=True):
        assert [r.metrics["train_loss"] for r in two] == pytest.approx([r.metrics["train_loss"] for r in one], rel=1e-5)
        assert [r.metrics["dev_loss"] for r in two] == pytest.approx([r.metrics["dev_loss"] for r in one], rel=1e-5)


def _scores(workers: Workers, folder: Path) -> list[list[tuple[float, float | None, bool]]]:
    answers = []
    for _ in range(2):  # the second time, from its checkpoints
        found = reports(ROUND, folder, workers=workers)
        best = found[-1].best
        answers.append([(r.metrics["train_loss"], r.metrics.get("dev_loss"), best is None) for r in found])
        torch.distributed.barrier()
    return answers


def test_two_workers_train_a_round_as_one_does(tmp_path: Path) -> None:
    first, second = two_workers(tmp_path, _scores, tmp_path / "run")
    alone = reports(ROUND.but(accumulation=2))
    for answer in (*first, *second):
        assert [loss for loss, _, _ in answer] == pytest.approx([r.metrics["train_loss"] for r in alone], rel=1e-5)
    assert [score for _, score, _ in first[0]] == pytest.approx([r.metrics["dev_loss"] for r in alone], rel=1e-5)
    assert not any(missing for _, _, missing in first[0])
    assert second[0] == first[0], "all workers have the scores"
    assert first[1] == first[0]


def test_a_round_goes_on_from_another_ones_checkpoints(tmp_path: Path) -> None:
    parent, child = ROUND.but(epochs=1), ROUND.but(epochs=2, lr=1e-3)
    before = reports(parent, tmp_path / "parent")
    folds.adopt(tmp_path / "parent", tmp_path / "child", child)
    folds.adopt(tmp_path / "parent", tmp_path / "child", child)  # what is there stays
    after = reports(child, tmp_path / "child")
    assert told(after[0]) == told(before[0])
    assert after[1].metrics["train_loss"] < reports(child)[1].metrics["train_loss"], "it has learnt faster before"
    assert run_config(tmp_path / "child") == child.but(fold=1)


def test_more_folds_than_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="`folds` is 14, but must be at most 13"):
        reports(ONE.but(folds=14))


@pytest.fixture
def films(tmp_path: Path) -> Sequence[str]:
    """Flags of a toy model on a toy corpus of film reviews."""
    for split, count in (("train", 20), ("dev", 8)):
        rows = [(f"{split}{n}", f"{FILMS[n % 5]} {n}", n % 5) for n in range(count)]
        sentiment(tmp_path / "data" / "sst" / f"ids-sst-{split}.csv", rows)
    return str(toys.folder(tmp_path / "model")), str(tmp_path / "data")


def test_a_trial_reports_counts_as_text(films: Sequence[str], tmp_path: Path) -> None:
    model, data = films
    run = ROUND.but(model=model, data_dir=data, epochs=1)
    (payload,) = payloads(TrialSpec(name="t", run=run, folder=str(tmp_path / "t")))
    chose, judged = json.loads(payload["statistics"]), json.loads(payload["judged"])
    assert from_json(chose)["loss"].shape == (2, 8, 2)
    assert judged.keys() == {"metrics", "statistics"}
    assert from_json(judged["statistics"])["loss"].shape == (1, 20, 2)
    assert judged["metrics"]["dev_loss"] > 0
    (plain,) = payloads(TrialSpec(name="p", run=run.but(folds=1, judged=False), folder=str(tmp_path / "p")))
    assert plain["judged"] is None


@pytest.mark.parametrize("until", [None, 1])
def test_a_trial_saves_optimizer_state_rarely_but_for_its_successors(
    until: int | None, films: Sequence[str], tmp_path: Path
) -> None:
    model, data = films
    run = ONE.but(model=model, data_dir=data)
    trial = TrialSpec(name="t", run=run, folder=str(tmp_path / "t"), until=until, checkpoint_minutes=1e9)
    assert [payload["epoch"] for payload in payloads(trial)] == [1, 2][:until]
    assert [payload["epoch"] for payload in payloads(trial)] == [1, 2][:until]
    assert newest_resumable(tmp_path / "t") == (until or 0)


def test_the_command_exports_a_round(films: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = films
    keys = {"task": "sst", "data_dir": data, "folds": "2", "judged": "true", "epochs": "1", "adapter": "lora"}
    flags = [flag for key, value in keys.items() for flag in ("--set", f"{key}={value}")]
    for argv in (
        ["train", "--out", str(tmp_path / "run"), "--model", model, *flags],
        ["evaluate", "--checkpoint", str(tmp_path / "run")],
        ["export", "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "out")],
    ):
        assert status(main, argv) == 0
        printed = capsys.readouterr()
        assert argv[0] != "train" or ", judged accuracy " in printed.out
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"][0]["judged"]["accuracy"] >= 0
    assert (tmp_path / "out" / "model.safetensors").exists()
