"""The contract of tasks."""

import json
import math
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

import gpt2core.testing.toys as toys
from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.errors import ConfigError, DivergedError
from gpt2core.metrics.counts import from_json, to_json
from gpt2core.metrics.direction import Direction
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS, Task, TaskData
from gpt2core.tasks.base import LanguageTask, load_data, objective_of
from gpt2core.testing.contract import Contract, Settings, check_keys


def examples(task: Task, dev: int = 4) -> TaskData:
    """Toy data; to generate from, the first tokens of each text are a prompt."""
    data = toys.data(dev=dev)
    given = 5 if task.name == "generate" else 0
    splits = {name: replace(tokens, given=tokens.given + given) for name, tokens in data.splits.items()}
    return replace(data, splits=splits)


class TaskContract(Contract):
    """The contract of a task. It reads the task's corpus too, so a case has the keys that this needs, such as `data_dir`."""

    @pytest.fixture
    def run(self, case: Settings) -> RunConfig:
        """The run of a case."""
        return RunConfig.of(case)

    @pytest.fixture
    def task(self, case: Settings) -> Task:
        """The task of a case."""
        return TASKS[case["task"]]

    @pytest.fixture
    def model(self, task: Task) -> GPT2:
        """A small model with the head that the task needs."""
        return toys.model(classes=task.classes(toys.RUN))

    def test_its_keys_have_one_meaning(self, task: Task) -> None:
        check_keys(task)

    def test_its_name_is_its_key_in_the_table(self, task: Task) -> None:
        assert TASKS[task.name] is task

    def test_evaluation_is_deterministic_and_has_the_objective(self, task: Task, model: GPT2) -> None:
        data = examples(task)
        first, second = (task.evaluate(model, data, toys.RUN, "dev") for _ in range(2))
        assert math.isfinite(first.metrics[task.objective])
        assert first.metrics == second.metrics
        assert first.samples == second.samples
        assert first.tables == second.tables

    def test_its_corpus_is_split_described_and_tokenised(self, task: Task, run: RunConfig) -> None:
        data = load_data(task, run, toys.tokenizer(), 2000)
        assert len(data.splits["train"]) > 0
        assert len(data.splits["dev"]) > 0
        assert data.corpus.digest[:12] in data.corpus.describe()

    @torch.no_grad()
    def test_losses_do_not_depend_on_padding_or_batching(self, task: Task, model: GPT2) -> None:
        data = examples(task)
        tokens = data.splits["train"]
        batch = collate(tokens, range(6), torch.device("cpu"))
        padded = torch.arange(batch.input_ids.shape[1]) >= batch.lengths[:, None]
        assert padded.any()
        together = task.losses(model, batch, data.tokenizer, toys.RUN)
        other = batch._replace(input_ids=batch.input_ids.masked_fill(padded, 7))
        torch.testing.assert_close(task.losses(model, other, data.tokenizer, toys.RUN), together)
        for number in range(6):
            alone = task.losses(model, collate(tokens, [number], torch.device("cpu")), data.tokenizer, toys.RUN)
            torch.testing.assert_close(alone[0], together[number])

    def test_every_metric_follows_from_its_counts_and_lies_in_its_interval(self, task: Task, model: GPT2) -> None:
        data = examples(task)
        evaluation = task.evaluate(model, data, toys.RUN, "dev")
        for name, metric in task.metrics.items():
            assert metric.name == name
            assert math.isfinite(evaluation.metrics[name]), name
            assert (metric.counts is None) == (metric.score is None)
            if metric.counts is None or metric.score is None:
                assert f"{name}_low" not in evaluation.metrics
                continue
            counts = evaluation.statistics[metric.counts]
            assert counts.shape[1] == len(data.splits["dev"])
            assert evaluation.metrics[name] == pytest.approx(metric.score(counts.sum(axis=(0, 1)))), name
            low, high = (evaluation.metrics[f"{name}_{end}"] for end in ("low", "high"))
            least, most = metric.bounds or (-math.inf, math.inf)
            assert least <= low <= evaluation.metrics[name] <= high <= most, name

    def test_its_metrics_can_be_pickled_and_include_the_objective(self, task: Task) -> None:
        assert ForkingPickler.dumps(dict(task.metrics)), "Ray sends them to workers"
        assert objective_of(task, toys.RUN) is task.metrics[task.objective]
        for name, metric in task.metrics.items():
            assert objective_of(task, toys.RUN.but(objective=name)) is metric
            better, worse = (2.0, 1.0) if metric.direction is Direction.MAX else (1.0, 2.0)
            assert metric.direction.better(better, worse)
            not_better = ((worse, better), (1.0, 1.0), (math.nan, 1.0), (1.0, math.nan))
            assert not any(metric.direction.better(a, b) for a, b in not_better)
            assert metric.margin > 0

    def test_an_unknown_objective_is_an_error(self, task: Task) -> None:
        wrong = toys.RUN.but(objective=f"{task.objective}s")
        with pytest.raises(ConfigError, match=f"`objective` is '{task.objective}s', but must be .* `{task.objective}`"):
            objective_of(task, wrong)

    def test_the_counts_survive_a_file(self, task: Task, model: GPT2) -> None:
        statistics = task.evaluate(model, examples(task), toys.RUN, "dev").statistics
        again = from_json(json.loads(json.dumps(to_json(statistics))))
        assert again.keys() == statistics.keys()
        for name, counts in statistics.items():
            np.testing.assert_array_equal(again[name], counts)

    def test_baselines_have_scores_of_its_metrics(self, task: Task) -> None:
        baselines = task.baselines(examples(task), toys.RUN, "dev")
        assert any(task.objective in baseline.scores for baseline in baselines.values())
        for baseline in baselines.values():
            assert baseline.scores.keys() <= task.metrics.keys()
            assert all(math.isfinite(number) for score in baseline.scores.values() for number in score)

    def test_the_test_split_has_a_test_loss(self, task: Task, model: GPT2) -> None:
        data = examples(task)
        data = replace(data, splits={**data.splits, "test": data.splits["dev"]})
        metrics = task.evaluate(model, data, toys.RUN, "test").metrics
        assert not any(name.startswith("dev_") for name in metrics)
        dev_loss = task.evaluate(model, data, toys.RUN, "dev").metrics["dev_loss"]
        assert metrics["test_loss_low"] <= metrics["test_loss"] == dev_loss

    def test_one_example_has_no_interval(self, task: Task, model: GPT2) -> None:
        metrics = task.evaluate(model, examples(task, dev=1), toys.RUN, "dev").metrics
        assert not any(name.endswith(("_low", "_high")) for name in metrics)

    def test_a_diverged_model_is_an_error(self, task: Task, model: GPT2) -> None:
        data = examples(task)
        model.ln_f.weight.data.fill_(torch.nan)
        with pytest.raises(DivergedError, match="The cross-entropy is nan"):
            task.evaluate(model, data, toys.RUN, "dev")

    def test_a_very_large_loss_is_finite(self, task: Task, model: GPT2) -> None:
        model.ln_f.weight.data *= 1e6
        metrics = task.evaluate(model, examples(task), toys.RUN, "dev").metrics
        assert metrics["dev_loss"] > 1000
        assert all(math.isfinite(value) for value in metrics.values())
        assert ("dev_perplexity" in metrics) == isinstance(task, LanguageTask)
