"""THE training loop: the same losses twice, after a resume, and however the work is spread."""

import errno
import itertools
import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2core import training
from gpt2core.builders import build_model, learning_rate
from gpt2core.checkpoints import saving
from gpt2core.checkpoints.best import load_best
from gpt2core.checkpoints.layout import OPTIMIZER, PART, STATE, WEIGHTS
from gpt2core.checkpoints.reading import newest_resumable
from gpt2core.checkpoints.resuming import adopt
from gpt2core.checkpoints.saving import Pace
from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.errors import CheckpointError, ConfigError, DivergedError
from gpt2core.metrics.direction import Direction
from gpt2core.model import IGNORE
from gpt2core.run import Run
from gpt2core.steps import Step, advance, take_steps
from gpt2core.tasks import TASKS, Evaluation
from gpt2core.tasks.base import objective_of
from gpt2core.testing import toys
from gpt2core.tokenizer import train_bpe
from gpt2core.training import loop, train
from gpt2core.workers import Workers, sharing
from tests.benchmarks.launches import operations
from tests.workers import two_workers

ALONE = Workers()
LORA = toys.RUN.but(adapter="lora", rank=4)
CLIPPED = LORA.but(clip_norm=4.0)  # about the norm of its gradients: AdamW alone is blind to a gradient of wrong size
STEADY = [CLIPPED, LORA.but(adapter="adalora", lr=1e-2), LORA.but(adapter="nested", lr=1e-2)]
NARROW = LORA.but(precision="float16", epochs=1)  # later, the number of workers decides which gradients overflow
DIVERGES_IN_EVALUATION = toys.RUN.but(lr=1e30, batch_size=64)  # the only step of an epoch breaks the weights


def losses(config: RunConfig, folder: Path | None = None, workers: Workers = ALONE, epochs: int = 99) -> list[float]:
    reports = itertools.islice(train(config, toys.model(), toys.data(), folder=folder, workers=workers), epochs)
    return [report.metrics["train_loss"] for report in reports]


@pytest.mark.parametrize("config", [toys.RUN, LORA, toys.RUN.but(adapter="freeze")], ids=lambda c: c.adapter)
def test_the_same_seed_gives_the_same_losses_and_training_lowers_them(config: RunConfig) -> None:
    one = losses(config.but(lr=3e-3))
    assert one == losses(config.but(lr=3e-3))
    assert one[-1] < one[0]
    assert one != losses(config.but(lr=3e-3, seed=1))


@pytest.mark.parametrize("config", [toys.RUN, LORA], ids=lambda c: c.adapter)
def test_a_run_that_was_cut_goes_on_to_the_same_losses(config: RunConfig, tmp_path: Path) -> None:
    whole = losses(config)
    assert losses(config, tmp_path, epochs=1) == whole[:1]
    assert losses(config, tmp_path, epochs=2) == whole[:2]
    assert losses(config, tmp_path) == whole
    assert losses(config, tmp_path) == whole, "a finished run reports its epochs again"


class Chosen(Pace):
    """Saves optimizer state at the end of chosen epochs."""

    def __init__(self, *epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def chooses(self, epoch: int) -> bool:
        return epoch in self.epochs


def test_optimizer_state_is_saved_at_most_once_in_so_many_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[-1])
    pace, always = Pace(2.0), Pace()
    chosen = []
    for epoch, now in enumerate((150, 219, 220, 330, 341), start=1):
        clock.append(now)
        assert always.chooses(epoch)
        chosen.append(pace.chooses(epoch))
        assert pace.chooses(epoch) == chosen[-1], "sub-runs of a round are saved at the same epochs"
    assert chosen == [False, False, True, False, True]


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_run_that_rarely_saves_optimizer_state_goes_on_to_the_same_reports(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs 2 and 3 are the best; only epoch 2 has optimizer state."""
    config, evaluated = LORA.but(epochs=5, decode_seeds=0), []
    evaluate = type(TASKS["sonnet"]).evaluate

    def noted(*args: Any) -> Evaluation:
        evaluated.append(evaluate(*args))
        score = (0, 5, 4, 3, 6, 7)[(len(evaluated) - 1) % 5 + 1]
        return replace(evaluated[-1], metrics=evaluated[-1].metrics | {"dev_loss": float(score)})

    def reports(folder: Path, epochs: int) -> list[tuple[int, float, float]]:
        events = loop(config, toys.model(), toys.data(), folder=folder, pace=Chosen(2))
        metrics = [(r.epoch, r.metrics) for r in itertools.islice(take_steps(events), epochs)]
        return [(epoch, values["train_loss"], values["dev_loss"]) for epoch, values in metrics]

    monkeypatch.setattr(type(TASKS["sonnet"]), "evaluate", noted)
    whole = reports(tmp_path / "whole", 5)
    assert [loss for _, loss, _ in whole] == losses(config)
    evaluated.clear()
    assert reports(tmp_path / "cut", cut) == whole[:cut]
    assert reports(tmp_path / "cut", 5) == whole
    assert reports(tmp_path / "cut", 5) == whole
    assert len(evaluated) == 5, "an epoch on record is not evaluated again"
    kept = ["epoch-0002", "epoch-0004", "epoch-0005"]
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        assert [path.name for path in sorted(folder.glob("epoch-*"))] == kept
        assert [path.parent.name for path in folder.rglob(OPTIMIZER)] == ["epoch-0002"]
    best = [tmp_path / name / "best" / WEIGHTS for name in ("whole", "cut")]
    assert best[0].read_bytes() == best[1].read_bytes()


def test_another_run_goes_on_from_an_epoch_with_optimizer_state(tmp_path: Path) -> None:
    config, data = LORA.but(epochs=3, decode_seeds=0), toys.data()
    for until in (1, 2):
        list(take_steps(loop(config, toys.model(), data, folder=tmp_path / "parent", until=until, pace=Chosen())))
    assert newest_resumable(tmp_path / "parent") == 2
    list(take_steps(loop(config, toys.model(), data, folder=tmp_path / "parent", pace=Chosen())))
    state = json.loads((tmp_path / "parent" / "best" / STATE).read_text())
    assert state["history"][-1]["epoch"] == 3, "the best epoch has weights only"
    child = config.but(lr=1e-2)
    adopt(tmp_path / "parent", tmp_path / "child", child)
    assert losses(child, tmp_path / "child")[:2] == losses(config)[:2]
    assert load_best(tmp_path / "parent", build_model(config, toys.model(), torch.device("cpu"))) == 3

    list(take_steps(loop(config, toys.model(), data, folder=tmp_path / "other", pace=Chosen())))
    with pytest.raises(CheckpointError, match="has no undamaged checkpoint with optimizer state"):
        adopt(tmp_path / "other", tmp_path / "none", child)


@pytest.mark.parametrize("pace", [Pace(), Chosen()], ids=["always", "never"])
@pytest.mark.parametrize("stop", [2, 5, 11])
@pytest.mark.parametrize("adapter", ["lora", "adalora", "nested"])
def test_a_run_that_was_told_to_leave_goes_on_inside_its_epoch(
    adapter: str, stop: int, pace: Pace, tmp_path: Path
) -> None:
    config = LORA.but(adapter=adapter, batch_size=3, decode_seeds=0)  # five steps an epoch
    whole = losses(config)
    steps = itertools.count()
    told = loop(
        config, toys.model(), toys.data(), folder=tmp_path, preempted=lambda: next(steps) == stop, pace=pace
    )  # after the step of that number, from 0 on
    taken, event = 0, advance(told, None)
    while taken <= stop + 1:  # the machine is gone one step later
        answer = event.take() if isinstance(event, Step) else None
        taken += isinstance(event, Step)
        event = advance(told, answer)
    told.close()

    rest = loop(config, toys.model(), toys.data(), folder=tmp_path)
    taken, found, event = 0, [], advance(rest, None)
    while event is not None:
        answer = event.take() if isinstance(event, Step) else None
        found += [] if isinstance(event, Step) else [event.metrics["train_loss"]]
        taken += isinstance(event, Step)
        event = advance(rest, answer)
    assert found == whole
    assert taken == 15 - (stop + 1), "only what was not saved is trained again"
    assert not (tmp_path / PART).exists()


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = losses(LORA, tmp_path, epochs=2)
    broken = tmp_path / "epoch-0002" / OPTIMIZER
    broken.write_bytes(broken.read_bytes()[:-10])
    assert losses(LORA, tmp_path, epochs=2) == whole


def test_an_epoch_on_record_is_trained_again_but_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest checkpoint and `best`, which links to it, are damaged."""
    config, evaluated, best = LORA.but(epochs=4, decode_seeds=0), [], tmp_path / "best" / WEIGHTS
    evaluate = type(TASKS["sonnet"]).evaluate

    def noted(*args: Any) -> Evaluation:
        evaluated.append(evaluate(*args))
        return replace(evaluated[-1], metrics=evaluated[-1].metrics | {"dev_loss": 9.0 - len(evaluated)})

    monkeypatch.setattr(type(TASKS["sonnet"]), "evaluate", noted)
    before = list(itertools.islice(train(config, toys.model(), toys.data(), folder=tmp_path), 3))
    whole = best.read_bytes()
    best.write_bytes(whole[:-10])
    after = list(train(config.but(epochs=3), toys.model(), toys.data(), folder=tmp_path))
    assert [report.metrics for report in after] == [report.metrics for report in before]
    assert best.read_bytes() == whole
    best.write_bytes(whole[:-10])
    after = list(train(config, toys.model(), toys.data(), folder=tmp_path))
    assert [report.metrics for report in after[:3]] == [report.metrics for report in before]
    assert len(evaluated) == 4
    assert losses(config) == [report.metrics["train_loss"] for report in after]


def test_a_checkpoint_is_written_during_the_evaluation_and_on_disk_before_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, save_file, written = type(TASKS["sonnet"]).evaluate, saving.save_file, threading.Event()
    evaluated = threading.Event()

    def waiting(*args: Any) -> Evaluation:
        assert written.wait(60), "the evaluation did not begin while the weights are written"
        evaluation = evaluate(*args)
        evaluated.set()
        return evaluation

    def noted(tensors: dict[str, torch.Tensor], path: Path, *args: Any) -> None:
        if path.name == OPTIMIZER:
            written.set()
            assert evaluated.wait(60)
        save_file(tensors, path, *args)

    monkeypatch.setattr(type(TASKS["sonnet"]), "evaluate", waiting)
    monkeypatch.setattr(saving, "save_file", noted)
    for report in train(LORA.but(decode_seeds=0), toys.model(), toys.data(), folder=tmp_path):
        state = json.loads((tmp_path / f"epoch-{report.epoch:04d}" / STATE).read_text())
        assert state["history"][-1]["metrics"] == report.metrics
        written.clear()
        evaluated.clear()


def test_a_disk_that_fills_up_during_the_evaluation_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = losses(LORA, tmp_path, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", full)
        with pytest.raises(
            CheckpointError, match=r"epoch 2 cannot be written .*No space left.*check the free space"
        ) as error:
            losses(LORA, tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "epoch-0001"]
    assert losses(LORA, tmp_path) == losses(LORA)
    assert losses(LORA, tmp_path, epochs=1) == whole


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    losses(LORA, tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="epoch-0001: belongs to another configuration; choose another folder"):
        losses(LORA.but(lr=5e-4), tmp_path)
    assert len(losses(LORA.but(epochs=4), tmp_path)) == 4, "more epochs are no other configuration"


def test_data_may_be_moved_but_not_be_other_data(tmp_path: Path) -> None:
    former = losses(LORA.but(data_dir="/former"), tmp_path, epochs=1)
    assert losses(LORA.but(data_dir="/now"), tmp_path)[:1] == former
    with pytest.raises(CheckpointError, match="was trained on other data, with digest"):
        list(train(LORA, toys.model(), toys.data(train=12), folder=tmp_path))


@pytest.mark.parametrize("adapter", ["full", "freeze", "lora"])
def test_a_run_does_not_go_on_from_another_model_or_on_other_tokens(adapter: str, tmp_path: Path) -> None:
    config, data = toys.RUN.but(adapter=adapter, decode_seeds=0), toys.data()
    list(train(config.but(epochs=1), toys.model(), data, folder=tmp_path))
    with pytest.raises(CheckpointError, match="was trained from another model, with digest"):
        list(train(config, toys.model(seed=1), data, folder=tmp_path))
    words = train_bpe([toys.lines(50, 77)], toys.SHAPE.vocab_size)
    with pytest.raises(CheckpointError, match="was trained with another tokenizer"):
        list(train(config, toys.model(), replace(data, tokenizer=words), folder=tmp_path))
    assert len(list(train(config, toys.model(), data, folder=tmp_path))) == 3


def test_weights_that_a_run_trained_are_not_put_on_another_model(tmp_path: Path) -> None:
    other = toys.model(seed=1)
    for adapter in ("lora", "full"):
        config, folder = toys.RUN.but(adapter=adapter, epochs=1, decode_seeds=0), tmp_path / adapter
        list(train(config, toys.model(), toys.data(), folder=folder))
        model = build_model(config, other, torch.device("cpu"))
        if adapter == "full":  # nothing is left of the other one
            assert load_best(folder, model, other) == 1
            continue
        with pytest.raises(CheckpointError, match="was trained from another model, with digest"):
            load_best(folder, model, other)


def test_more_epochs_are_another_run_where_they_change_each_of_them(tmp_path: Path) -> None:
    config = LORA.but(schedule="cosine", decode_seeds=0)
    list(train(config, toys.model(), toys.data(), folder=tmp_path))
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        list(train(config.but(epochs=6), toys.model(), toys.data(), folder=tmp_path))


def test_a_run_of_fewer_epochs_is_not_given_the_best_of_more(tmp_path: Path) -> None:
    list(train(LORA.but(epochs=3, decode_seeds=0), toys.model(), toys.data(), folder=tmp_path))
    with pytest.raises(CheckpointError, match="has 3 epochs, more than `epochs`, which is 2"):
        list(train(LORA.but(epochs=2, decode_seeds=0), toys.model(), toys.data(), folder=tmp_path))


def test_a_training_set_that_grows_ends_whole_and_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    config = toys.RUN.but(growth=2.0, batch_size=3)
    reports = list(train(config, toys.model(), toys.data()))
    assert [report.metrics["train_examples"] for report in reports] == [4, 7, 13]
    assert [report.step for report in reports] == [2, 5, 10]
    whole = [report.metrics["train_loss"] for report in reports]
    assert losses(config, tmp_path, epochs=1) == whole[:1]
    assert losses(config, tmp_path) == whole
    (alone,) = train(config.but(epochs=1, growth=1.0, train_examples=4), toys.model(), toys.data())
    assert alone.metrics["train_loss"] == whole[0], "the first epoch trains on a sample of four alone"
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        losses(config.but(epochs=4), tmp_path)


@pytest.mark.parametrize("name", [None, "chrf_continuation", "distinct_2", "dev_perplexity"])
def test_the_best_epoch_by_the_objective_is_kept_apart(name: str | None, tmp_path: Path) -> None:
    config = toys.RUN.but(objective=name)
    reports = list(train(config, toys.model(), toys.data(), folder=tmp_path))
    metric = objective_of(TASKS["sonnet"], config)
    assert metric.name == (name or "dev_loss")
    scores = [report.metrics[metric.name] for report in reports]
    best = max(scores) if metric.direction is Direction.MAX else min(scores)
    model = build_model(config, toys.model(), torch.device("cpu"))
    assert load_best(tmp_path, model) == scores.index(best) + 1
    state = json.loads((tmp_path / "best" / STATE).read_text())
    assert state["history"][-1]["metrics"][metric.name] == best
    assert [path.name for path in sorted(tmp_path.glob("epoch-*"))] == ["epoch-0002", "epoch-0003"]


def test_an_epoch_without_a_finite_objective_is_never_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = iter([math.nan, 3.0, -math.inf, 2.0, math.nan])
    monkeypatch.setattr(type(TASKS["sonnet"]), "evaluate", lambda *_: Evaluation(metrics={"dev_loss": next(scores)}))
    list(train(toys.RUN.but(epochs=5, decode_seeds=0), toys.model(), toys.data(), folder=tmp_path))
    assert load_best(tmp_path, build_model(toys.RUN, toys.model(), torch.device("cpu"))) == 4


def test_an_objective_that_the_task_does_not_have_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`objective` is 'acuracy', but must be a metric of the task `sonnet`: valid"):
        next(train(toys.RUN.but(objective="acuracy"), toys.model(), toys.data(), folder=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("early", [False, True], ids=["the last epoch is the best", "the first one is"])
def test_the_best_epoch_is_scored_at_the_end_as_if_each_had_been_and_reported_again(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if early:
        monkeypatch.setattr(training, "is_best", lambda history, *_: not history)
    config, data = LORA.but(judged=True, dev_part="search"), toys.data(dev=61)
    each = list(train(config.but(score_every_epoch=True), toys.model(), data, folder=tmp_path / "each"))
    assert not any(report.best for report in each)
    best = each[0 if early else -1]
    for _ in range(2):
        *_, last = train(config, toys.model(), data, folder=tmp_path / "late")
        assert last.best is not None
        assert last.best.epoch == best.epoch
        for one, two in ((last.best.evaluation, best.evaluation), (last.best.judged, best.judged)):
            assert one is not None
            assert two is not None
            assert ({name: one.metrics[name] for name in two.metrics}, one.samples) == (two.metrics, two.samples)
            assert {name: counts.tolist() for name, counts in one.statistics.items()} == {
                name: counts.tolist() for name, counts in two.statistics.items()
            }
        assert last.best.evaluation.samples
    first, second, *_ = train(config, toys.model(), data, folder=tmp_path / "late")
    assert ("chrf_whole" in first.metrics) == early
    assert "chrf_whole" not in second.metrics, "other epochs have only what chooses between them"


def test_the_scores_of_an_epoch_are_those_of_its_weights_without_dropout(tmp_path: Path) -> None:
    config, data = toys.RUN.but(dropout=0.5, epochs=1), toys.data()
    (report,) = train(config, toys.model(), data, folder=tmp_path)
    model = build_model(config, toys.model(), torch.device("cpu"))
    load_best(tmp_path, model)
    again = TASKS[config.task].evaluate(model.train(False), data, config, "dev")
    assert {name: report.metrics[name] for name in again.metrics} == pytest.approx(again.metrics, rel=1e-6)


@pytest.mark.parametrize("config", [toys.RUN, LORA], ids=lambda c: c.adapter)
def test_checkpointing_of_activations_keeps_less_and_changes_nothing(config: RunConfig) -> None:
    whole, kept = losses(config), losses(config.but(gradient_checkpointing=True))
    assert kept == whole

    def saved(config: RunConfig) -> int:
        run, numbers = Run(config, toys.model(), toys.data()), []
        run.model.train()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: numbers.append(t.numel()) or t, lambda t: t):
            run.forward(run.collate(np.arange(4)))
        return sum(numbers)

    assert saved(config.but(gradient_checkpointing=True)) < saved(config) / 2


def test_accumulation_changes_nothing_but_rounding() -> None:
    assert losses(toys.RUN.but(accumulation=2)) == pytest.approx(losses(toys.RUN), rel=1e-5)
    assert losses(toys.RUN.but(accumulation=3)) == pytest.approx(losses(toys.RUN), rel=1e-5)


def _evaluations(workers: Workers = ALONE) -> list[dict[str, float]]:
    """The scores of two models, with losses, texts and classes, on several batches."""
    data, models = toys.data(dev=70), {"sonnet": toys.model(), "sst": toys.model(classes=5)}
    with sharing(workers):
        return [TASKS[name].evaluate(models[name], data, toys.RUN.but(task=name), "dev").metrics for name in models]


def _results(workers: Workers) -> tuple[list[list[float]], list[float], str, list[dict[str, float]]]:
    result = [losses(config, workers=workers) for config in STEADY]
    narrow = losses(NARROW, workers=workers)
    with pytest.raises(DivergedError) as caught:
        losses(DIVERGES_IN_EVALUATION, workers=workers)
    return result, narrow, str(caught.value), _evaluations(workers)


def test_two_workers_give_the_losses_and_scores_of_one_and_diverge_together(tmp_path: Path) -> None:
    """Dropout is on. One test, because starting the processes is what takes time."""
    alone, narrow_alone, scores = [losses(config) for config in STEADY], losses(NARROW), _evaluations()
    for spread, narrow, reason, shared in two_workers(tmp_path, _results):
        for config, ours, expected in zip(STEADY, spread, alone, strict=True):
            assert ours == pytest.approx(expected, rel=1e-5), config.adapter
        assert narrow == pytest.approx(narrow_alone, rel=1e-3)
        assert reason == "The dev loss is not finite after step 1 with lr 1e+30"
        assert shared == scores


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step() -> None:
    with pytest.raises(DivergedError, match=r"The training loss is nan at step \d+ with lr 1e\+30"):
        losses(toys.RUN.but(lr=1e30))


@pytest.mark.parametrize("config", [
    toys.RUN.but(lr=1e30), toys.RUN.but(lr=1.0, batch_size=1), CLIPPED
], ids=["not finite", "explodes", "converges"])  # fmt: skip
@pytest.mark.parametrize("behind", [1, 3, 99])
def test_losses_that_are_checked_later_end_a_run_at_the_same_step(
    config: RunConfig, behind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, but each loss is read as late as a GPU might have computed it."""

    def outcome(folder: Path) -> tuple[list[float], str | None]:
        reports: list[float] = []
        try:
            for report in train(config, toys.model(), toys.data(), folder=folder):
                reports.append(report.metrics["train_loss"])
        except DivergedError as error:
            return reports, str(error)
        return reports, None

    expected = outcome(tmp_path / "0")
    monkeypatch.setattr(training, "behind", lambda device: behind)
    assert outcome(tmp_path / "1") == expected
    assert {path.name for path in (tmp_path / "1").glob("*")} == {path.name for path in (tmp_path / "0").glob("*")}


@pytest.mark.parametrize("config", [
    toys.RUN, CLIPPED, LORA.but(accumulation=2), LORA.but(task="sst"), LORA.but(task="paraphrase", contrastive_weight=0.1),
    toys.RUN.but(task="poems"), toys.RUN.but(task="rewriting", pairs="unread"),
], ids=["full", "clipped", "accumulated", "classes", "contrastive", "blocks of texts", "with a teacher"])  # fmt: skip
def test_a_step_asks_for_nothing_that_a_gpu_has_still_to_compute(config: RunConfig) -> None:
    """Selections by a mask are such questions too, since their size depends on its values."""
    run, batch = Run(config.but(dropout=0.0, lora_dropout=0.0), toys.model(), toys.data()), np.arange(4)
    run.model.train()
    run.step(0, batch)
    waits = {"_local_scalar_dense", "equal", "index", "index_put", "is_nonzero", "masked_select", "nonzero", "unique"}
    assert operations(lambda: run.step(1, batch)).keys().isdisjoint(waits)
    assert "_local_scalar_dense" in operations(lambda: run.step(2, batch).item())


def test_a_loss_at_known_positions_is_that_at_all_positions_with_a_label() -> None:
    run = Run(toys.RUN, toys.model(), toys.data())
    tokens = replace(run.tokens, given=np.arange(len(run.tokens)) % 5)
    batch = collate(tokens, np.array([3, 0, 7, 5]), run.device)
    hidden = run.model.run_trunk(run.trunk_input(batch)).detach().requires_grad_()
    places = (batch.next_tokens()[:, 1:] != IGNORE).nonzero()
    places = places[:, 0] * batch.input_ids.shape[1] + places[:, 1]
    losses = [run.model.loss(hidden, batch.next_tokens(), known) for known in (batch.predicted, places)]
    one, other = (torch.autograd.grad(loss, [hidden, run.model.wte.weight]) for loss in losses)
    assert losses[0].item() == losses[1].item()
    assert all(map(torch.equal, one, other))


def test_a_loss_that_explodes_ends_the_run_and_one_that_comes_down_does_not() -> None:
    words = r"has exploded: \d+\.\d+ nats over 10 steps, while guessing has 5\.77, at step 10"
    with pytest.raises(DivergedError, match=words):
        losses(toys.RUN.but(lr=1.0, batch_size=1))
    assert losses(toys.RUN.but(lr=0.1, batch_size=1))[-1] < 6


@pytest.mark.parametrize("task", sorted(TASKS.keys() - {"multi"}))  # which has data of several tasks
def test_weights_broken_by_the_last_step_of_an_epoch_are_never_saved(task: str, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"The dev loss is not finite after step 1 with lr 1e\+30"):
        losses(DIVERGES_IN_EVALUATION.but(task=task), tmp_path)
    assert not list(tmp_path.iterdir())


def test_fewer_examples_may_be_asked_for() -> None:
    reports = list(train(toys.RUN.but(train_examples=4, epochs=1), toys.model(), toys.data()))
    assert reports[0].step == 1


def test_metrics_hold_what_a_person_looks_for() -> None:
    (report, *_) = train(toys.RUN, toys.model(), toys.data())
    assert report.metrics["train_perplexity"] == pytest.approx(math.exp(report.metrics["train_loss"]))
    for name in ("dev_loss", "dev_perplexity", "tokens_per_second", "train_seconds", "eval_seconds"):
        assert report.metrics[name] > 0


def test_the_learning_rate_follows_its_schedule() -> None:
    config = RunConfig(lr=1.0, warmup_steps=10)
    assert [learning_rate(config, step, 100) for step in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    cosine = config.but(schedule="cosine")
    assert learning_rate(cosine, 10, 110) == pytest.approx(1.0)
    assert learning_rate(cosine, 60, 110) == pytest.approx(0.55)
    assert learning_rate(cosine, 110, 110) == pytest.approx(0.1)


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    losses(LORA, tmp_path, epochs=1)
    files = {name for _, _, names in os.walk(tmp_path) for name in names}
    assert files == {WEIGHTS, OPTIMIZER, STATE}
