"""Several tasks in one run: gradients against slow formulas, and the promises of every run."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2core.__main__ import main
from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best
from gpt2core.checkpoints.layout import WEIGHTS
from gpt2core.checkpoints.saving import Pace
from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus
from gpt2core.data.origin import DataOrigin
from gpt2core.describe import count_trainable, describe
from gpt2core.errors import ConfigError, DivergedError, UserError
from gpt2core.identity import identity
from gpt2core.model import trainable_parameters, trainable_size
from gpt2core.model_folder import export, load_folder
from gpt2core.multitask.combining import (
    COMBINATIONS,
    famo_logits,
    famo_weights,
    project_conflicts,
    shares_of_tasks,
)
from gpt2core.multitask.models import models_of
from gpt2core.multitask.run import MultiRun, start_run
from gpt2core.run import Run
from gpt2core.steps import Step, advance
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import JointData
from gpt2core.testing import toys
from gpt2core.training import loop, train
from gpt2core.weights import load_model
from gpt2core.workers import ALONE, Workers
from tests.runs import status
from tests.workers import two_workers

TWO = toys.RUN.but(task="multi", tasks="sonnet+cfimdb", adapter="lora", rank=3, clip_norm=1.0, decode_seeds=0, epochs=2)
CONFIGS = {name: TWO.but(combination=name) for name in COMBINATIONS}
BOTH = {
    f"{name}, own pairs": config.but(task_adapters="both") for name, config in CONFIGS.items() if name != "separate"
}
EACH = pytest.mark.parametrize("config", (CONFIGS | BOTH).values(), ids=(CONFIGS | BOTH).keys())
SMOOTH = {"dropout": 0.0, "lora_dropout": 0.0, "head_dropout": 0.0, "clip_norm": None}
TOGETHER = [name for name, entry in COMBINATIONS.items() if entry.shares and not entry.samples]


def data() -> JointData:
    parts = {"sonnet": toys.data(train=13), "cfimdb": toys.data(train=9)}
    rows = {
        split: [
            replace(row, id=f"{name}-{row.id}") for name, part in parts.items() for row in part.corpus.splits[split]
        ]
        for split in ("train", "dev")
    }
    return JointData.of(Corpus(name="toys", origin=DataOrigin(source="random words"), splits=rows), parts)


def started(config: RunConfig) -> MultiRun:
    run = start_run(config, toys.model(), data())
    assert isinstance(run, MultiRun)
    run.model.train()
    return run


def losses(config: RunConfig, folder: Path | None = None, epochs: int = 99, workers: Workers = ALONE) -> list[float]:
    reports = itertools.islice(train(config, toys.model(), data(), folder=folder, workers=workers), epochs)
    return [report.metrics["train_loss"] for report in reports]


# -- the combinations


def pcgrad(gradients: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> Tensor:
    """Algorithm 1 of arXiv 2001.06782, literally; `orders` are the other tasks of each task."""
    changed = []
    for own, order in zip(gradients, orders, strict=True):
        current = own.clone()
        for other in order:
            if torch.dot(current, gradients[other]) < 0:
                current = (
                    current - torch.dot(current, gradients[other]) / gradients[other].norm() ** 2 * gradients[other]
                )
        changed.append(current)
    return torch.stack(changed).sum(dim=0)


@pytest.mark.parametrize("tasks", [2, 3])
def test_pcgrad_is_its_algorithm_in_some_order_and_all_orders_occur(tasks: int) -> None:
    generator = torch.Generator().manual_seed(tasks)
    gradients = torch.randn(tasks, 4, generator=generator, dtype=torch.float64)
    gradients[1] -= 2 * gradients[0]
    others = [list(itertools.permutations(set(range(tasks)) - {own})) for own in range(tasks)]
    possible = [pcgrad(list(gradients), orders) for orders in itertools.product(*others)]
    assert not torch.allclose(possible[0], gradients.sum(dim=0))
    seen = set()
    for seed in range(100):
        joint = project_conflicts(gradients, np.random.default_rng(seed))
        torch.testing.assert_close(joint, project_conflicts(gradients, np.random.default_rng(seed)), rtol=0, atol=0)
        seen.add(min(range(len(possible)), key=lambda place: float((joint - possible[place]).norm())))
        assert min(float((joint - other).norm()) for other in possible) < 1e-9
    distinct = {tuple(np.round(other.numpy(), 9)) for other in possible}
    assert len({tuple(np.round(possible[place].numpy(), 9)) for place in seen}) == len(distinct)


def test_famo_is_its_algorithm() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    before, after = (torch.rand(4, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    z = torch.softmax(logits, dim=0)
    ratios = [share / loss for share, loss in zip(z.tolist(), before.tolist(), strict=True)]
    weights = torch.tensor([ratio / sum(ratios) for ratio in ratios], dtype=torch.float64)
    torch.testing.assert_close(famo_weights(before, logits.detach()), weights, rtol=1e-6, atol=0)
    (delta,) = torch.autograd.grad((z * (before.log() - after.log())).sum(), logits)
    expected = logits.detach() - 0.1 * (delta + 0.2 * logits.detach())
    torch.testing.assert_close(famo_logits(logits.detach(), before, after, 0.1, 0.2), expected, rtol=1e-6, atol=1e-9)


def test_a_task_whose_loss_falls_least_gains_weight() -> None:
    logits = famo_logits(torch.zeros(2), torch.tensor([4.0, 4.0]), torch.tensor([1.0, 3.9]), 0.1, 0.0)
    assert logits[1] > logits[0]


def slow_gradients(run: MultiRun, batch: np.ndarray) -> tuple[list[Tensor], list[list[Tensor | None]]]:
    """Return the mean loss of each task, and its gradients of all parameters."""
    parameters = list(trainable_parameters(run.model).values())
    found, gradients = [], []
    for number, part in enumerate(run.parts):
        examples = batch[(batch >= run.offsets[number]) & (batch < run.offsets[number + 1])] - run.offsets[number]
        mean = part.forward(part.collate(examples)) / part.weight(examples)
        gradients.append(list(torch.autograd.grad(mean, parameters, allow_unused=True)))
        found.append(mean.detach())
    return found, gradients


def flat(run: MultiRun, gradients: Sequence[Tensor | None]) -> Tensor:
    pairs = zip(trainable_parameters(run.model).values(), gradients, strict=True)
    return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for p, g in pairs])


@pytest.mark.parametrize("adapters", ["shared", "both"])
@pytest.mark.parametrize("name", TOGETHER)
def test_a_step_has_the_joint_gradient_of_its_combination(
    name: str, adapters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(TWO.but(**SMOOTH, combination=name, task_adapters=adapters))
    for _ in range(2):  # LoRA's first gradients are half zero
        run.step(0, run.batches(1)[0])
    batch = run.batches(1)[1]
    means, gradients = slow_gradients(run, batch)
    rows = [flat(run, own) for own in gradients]
    shared = torch.stack([flat(run, [None if g is None else torch.ones_like(g) for g in own]) for own in gradients])
    both = shared.sum(dim=0) == 2
    assert 0 < both.sum() < len(both)
    expected = rows[0] + rows[1]
    if name == "famo":
        logits = run.model.get_parameter("task_logits").detach().clone()
        weights = famo_weights(torch.stack(means), logits)
        expected = weights[0] * rows[0] + weights[1] * rows[1]
    if name == "pcgrad":
        rows[1][both] = rows[1][both] - 3 * rows[0][both]  # a conflict, made below as well
        expected = rows[0] + rows[1]
        expected[both] = pcgrad([row[both] for row in rows], [[1], [0]])
        taken = MultiRun._taken_gradients
        calls = itertools.count()

        def conflicting(self: MultiRun) -> list[Tensor | None]:
            own = taken(self)
            if next(calls):
                pairs = list(zip(own, gradients[0], strict=True))
                return [None if g is None else g if h is None else g - 3 * h for g, h in pairs]
            return own

        monkeypatch.setattr(MultiRun, "_taken_gradients", conflicting)
    seen: list[Tensor] = []
    monkeypatch.setattr(run, "apply_update", lambda _: seen.append(flat(run, [p.grad for p in run._parameters])))
    total = run.step(2, batch)
    assert float(total) == pytest.approx(float(sum(means)), rel=1e-5)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-6)


def test_famo_updates_its_logits_from_the_losses_around_the_update() -> None:
    run = started(TWO.but(**SMOOTH, combination="famo", famo_lr=0.5, lr=1e-2))
    for number, batch in enumerate(run.batches(1)):
        logits = run.model.get_parameter("task_logits").detach().clone()
        before, _ = slow_gradients(run, batch)
        run.step(number, batch)
        after, _ = slow_gradients(run, batch)
        expected = famo_logits(logits, torch.stack(before), torch.stack(after), 0.5, 0.001)
        torch.testing.assert_close(run.model.get_parameter("task_logits").detach(), expected, rtol=1e-3, atol=1e-6)
    assert run.model.get_parameter("task_logits").abs().max() > 0


def test_tasks_are_sampled_by_their_sizes_and_a_temperature() -> None:
    assert shares_of_tasks([900, 100], 1.0) == pytest.approx([0.9, 0.1])
    assert shares_of_tasks([900, 100], 2.0) == pytest.approx([0.75, 0.25])
    assert shares_of_tasks([900, 100], 1e9) == pytest.approx([0.5, 0.5])
    run = started(TWO.but(combination="sampling", epochs=60, decode_seeds=0))
    owners = [int(batch[0] >= 13) for epoch in range(1, 61) for batch in run.batches(epoch)]
    assert len(owners) == 60 * 8, "as many batches as with all tasks in each step"
    assert np.mean(owners) == pytest.approx(9 / 22, abs=0.08)  # more than three standard deviations
    assert all(len(run._by_part(batch)) == 1 for batch in run.batches(3))


def test_batches_depend_on_seed_and_epoch_alone_and_each_pass_has_all_examples() -> None:
    for combination in ("sum", "sampling"):
        run, again = (started(TWO.but(combination=combination)) for _ in range(2))
        one = [batch.tolist() for epoch in (1, 2) for batch in run.batches(epoch)]
        assert [batch.tolist() for batch in again.batches(2)] == one[len(one) // 2 :]
        other = started(TWO.but(combination=combination, seed=1))
        assert one != [batch.tolist() for epoch in (1, 2) for batch in other.batches(epoch)]
    first = np.concatenate(started(TWO).batches(1))
    assert sorted(first[first < 13]) == list(range(13))
    assert set(first[first >= 13]) == set(range(13, 22)), "the smaller task begins again"


# -- the promises of every run


def test_separate_models_are_bit_equal_to_single_runs() -> None:
    run = started(CONFIGS["separate"])
    batches = [batch for epoch in (1, 2) for batch in run.batches(epoch)]
    for number, batch in enumerate(batches):
        run.step(number, batch)
    for name, part in zip(("sonnet", "cfimdb"), run.parts, strict=True):
        alone = Run(part.config.but(epochs=9), toys.model(), data().parts[name])
        alone.model.train()
        own = [batch for epoch in range(1, 10) for batch in alone.batches(epoch)][: len(batches)]
        for number, batch in enumerate(own):
            alone.step(number, batch)
        ours, theirs = trainable_parameters(part.model), trainable_parameters(alone.model)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("adapter", ["full", "freeze", "lora"])
def test_tasks_share_all_but_their_heads_unless_they_are_separate(adapter: str) -> None:
    together, apart = (
        build_model(TWO.but(adapter=adapter, combination=name), toys.model(), torch.device("cpu"))
        for name in ("sum", "separate")
    )
    one = trainable_size(models_of(together)["sonnet"])
    assert trainable_size(together) == one + 2 * toys.SHAPE.n_embd
    assert trainable_size(apart) == 2 * one + 2 * toys.SHAPE.n_embd


@EACH
def test_a_run_that_was_cut_goes_on_to_the_same_losses_and_weights(config: RunConfig, tmp_path: Path) -> None:
    whole = losses(config, tmp_path / "whole")
    assert losses(config, tmp_path / "cut", epochs=1) == whole[:1]
    assert losses(config, tmp_path / "cut") == whole
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "cut")


def _weights(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob(WEIGHTS)) if path.parent.name == "epoch-0002"]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_run_that_was_told_to_leave_goes_on_inside_its_epoch(name: str, tmp_path: Path) -> None:
    config, steps = CONFIGS[name], itertools.count()
    told = loop(config, toys.model(), data(), folder=tmp_path / "cut", preempted=lambda: next(steps) == 1, pace=Pace())
    event = advance(told, None)
    for _ in range(3):
        assert isinstance(event, Step)
        event = advance(told, event.take())
    told.close()
    assert losses(config, tmp_path / "cut") == losses(config, tmp_path / "whole")
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")
    assert _weights(tmp_path / "whole")


def _all_losses(workers: Workers) -> dict[str, list[float]]:
    configs = {name: (CONFIGS | BOTH)[name] for name in ("separate", "sampling", "pcgrad", "famo, own pairs")}
    return {name: losses(config.but(epochs=1), workers=workers) for name, config in configs.items()}


def test_two_workers_train_as_one_does(tmp_path: Path) -> None:
    first, second = two_workers(tmp_path, _all_losses)
    assert first == second
    for name, own in _all_losses(ALONE).items():
        assert first[name] == pytest.approx(own, rel=1e-4), name


def test_weights_that_break_are_an_error() -> None:
    with pytest.raises(DivergedError):
        losses(TWO.but(adapter="full", lr=1e30, batch_size=64, clip_norm=None))


def test_the_score_is_the_mean_logarithm_of_the_tasks_scores() -> None:
    *_, report = train(TWO.but(epochs=1), toys.model(), data())
    metrics = report.metrics
    logs = (math.log(metrics["cfimdb/accuracy"] / 100), -metrics["sonnet/dev_loss"])
    assert metrics["log_score"] == pytest.approx(100 * sum(logs) / 2)
    counts = report.evaluation.statistics["log_score"]
    assert counts.shape == (1, 8, 6), "a row for each example, and three columns for each task"
    metric = TASKS["multi"].metrics["log_score"]
    assert metric.score is not None
    assert float(metric.score(counts.sum(axis=(0, 1)))) == pytest.approx(metrics["log_score"])
    baselines = TASKS["multi"].baselines(data(), TWO, "dev")
    assert math.isfinite(baselines["best_of_each"].scores["log_score"][0])


# -- configurations


@pytest.mark.parametrize(("values", "message"), [
    ({"tasks": "sonnet+cfimbd"}, "`tasks` is 'sonnet.cfimbd', but must be two or more different tasks of .*, joined by"),
    ({"objective": "poems/dev_loss"}, "`objective` is 'poems/dev_loss', but must be a metric of the task `multi`"),
    ({"tasks": "sonnet"}, "`tasks` is 'sonnet', but must be two or more different tasks"),
    ({"tasks": "sonnet+sonnet"}, "must be two or more different tasks"),
    ({"combination": "famos"}, "Unknown combination `famos`.*famo"),
    ({"adapter": "nested"}, "`adapter` is 'nested', but must be one of full, freeze, lora with several tasks"),
    ({"growth": 2.0}, "`growth` is 2, but must be 1"),
    ({"pretrain": "cfimdb"}, "`pretrain` is 'cfimdb', but must not be one of `tasks`"),
    ({"task_adapters": "both", "dora": True}, "`dora` is True, but must be False with `task_adapters` both"),
])  # fmt: skip
def test_keys_that_do_not_fit_several_tasks_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start_run(TWO.but(**values), toys.model(), data())


@pytest.mark.parametrize(("values", "key", "other"), [
    ({}, "tasks", "sonnet+sst"), ({}, "combination", "pcgrad"), ({}, "task_adapters", "both"),
    ({"combination": "sampling"}, "sampling_temperature", 2.0), ({"combination": "famo"}, "famo_lr", 0.1),
    ({"combination": "famo"}, "famo_decay", 0.1),
])  # fmt: skip
def test_each_key_is_in_the_identity_where_it_is_read(values: dict[str, Any], key: str, other: Any) -> None:
    config = TWO.but(**values)
    assert identity(config) != identity(config.but(**{key: other}))


@pytest.mark.parametrize("key", ["sampling_temperature", "famo_lr", "famo_decay"])
def test_keys_of_other_combinations_are_ignored(key: str) -> None:
    assert identity(TWO) == identity(TWO.but(**{key: 0.5}))


# -- after training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.folder(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    "values",
    [{"combination": "separate"}, {"task_adapters": "both", "targets": "all"}, {"adapter": "full"}],
    ids=["separate", "own pairs", "full"],
)
def test_an_export_has_a_folder_for_each_task_with_the_logits_of_its_model(
    values: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    config = TWO.but(**values, model=str(base), epochs=1, lr=1e-2)
    list(train(config, load_model(str(base)), data(), folder=tmp_path / "run"))
    start = load_model(str(base))
    model = build_model(config, start, torch.device("cpu"))
    load_best(tmp_path / "run", model, start)
    assert export(config, tmp_path / "run", tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cfimdb", "sonnet"]
    ids = torch.arange(30).view(2, 15)
    for name, own in models_of(model.train(False).requires_grad_(False)).items():
        loaded = load_folder(tmp_path / "out" / name)
        assert loaded.config.task == name
        torch.testing.assert_close(loaded.model(ids), own(ids), rtol=0, atol=1e-5)
        assert (own(ids) - start(ids)).abs().max() > 0.05, "what this test is about"
        if own.head is not None:
            assert loaded.model.head is not None
            torch.testing.assert_close(loaded.model.head.weight, own.head.weight)


def test_commands_for_one_model_say_what_to_do(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TWO.but(model=str(base), epochs=1)
    list(train(config, load_model(str(base)), data(), folder=tmp_path / "run"))
    run, out = str(tmp_path / "run"), tmp_path / "out"
    for arguments in (
        ["generate", "--prompt", "thy"],
        ["predict", "--out", str(tmp_path / "p.csv")],
        ["predict", "--task", "cfimdb", "--out", str(tmp_path / "p.csv")],
        ["evaluate", "--task", "sonnet"],
        ["evaluate", "--set", "tasks=sonnet+poems"],
    ):
        assert status(main, [arguments[0], "--checkpoint", run, *arguments[1:]]) == 2
        assert "write these by `gpt2-search export`, then name the folder of one" in capsys.readouterr().err
    assert status(main, ["export", "--checkpoint", run, "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"GPT2LMHeadModel.from_pretrained('{out / 'sonnet'}')" in printed
    assert f"GPT2ForSequenceClassification.from_pretrained('{out / 'cfimdb'}')" in printed
    assert status(main, ["generate", "--checkpoint", str(out / "sonnet"), "--prompt", "thy love"]) == 0
    assert status(main, ["submit", "--runs", run, "--out", str(tmp_path / "files")]) == 2
    for model in (["--checkpoint", str(out / "sonnet")], ["--model", str(base)]):
        assert status(main, ["evaluate", *model, "--task", "multi"]) == 2
    assert "`task` is 'multi', but must be a single task" in capsys.readouterr().err


def test_parameters_are_counted_without_weights(base: Path) -> None:
    for config in (CONFIGS | BOTH).values():
        own = config.but(model=str(base))
        model = build_model(own, load_model(str(base)), torch.device("cpu"))
        assert count_trainable(own) == trainable_size(model)
    with pytest.raises(ConfigError, match="`task` is 'multi', but must be a single task, such as sonnet"):
        describe(TWO.but(model=str(base)), "plain")
