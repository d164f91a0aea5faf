"""The contract of tasks, run for each entry of TASKS."""

import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.errors import ConfigError, DivergedError
from gpt2core.metrics.counts import from_json, to_json
from gpt2core.metrics.direction import Direction
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS, Task, TaskData, sonnet
from gpt2core.tasks.base import LanguageTask, load_data, loss_statistics, objective_of
from gpt2core.tokenizer import Tokenizer
from tests import course, generated, own, toys

LANGUAGE = sorted(name for name, entry in TASKS.items() if isinstance(entry, LanguageTask))


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


@pytest.fixture
def model(task: Task) -> GPT2:
    return toys.model(classes=task.classes(toys.RUN))


@pytest.fixture(scope="module")
def course_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course.folder(tmp_path_factory.mktemp("course"))


def examples(task: Task, dev: int = 4) -> TaskData:
    """Toy data; to generate from, the first tokens of each text are a prompt."""
    data = toys.data(dev=dev)
    given = 5 if task.name == "generate" else 0
    splits = {name: replace(tokens, given=tokens.given + given) for name, tokens in data.splits.items()}
    return replace(data, splits=splits)


def test_its_name_is_its_key_in_the_table(task: Task) -> None:
    assert TASKS[task.name] is task


def test_evaluation_is_deterministic_and_has_the_objective(task: Task, model: GPT2) -> None:
    data = examples(task)
    first, second = (task.evaluate(model, data, toys.RUN, "dev") for _ in range(2))
    assert math.isfinite(first.metrics[task.objective])
    assert first.metrics == second.metrics
    assert first.samples == second.samples
    assert first.tables == second.tables


def test_its_corpus_is_split_described_and_tokenised(task: Task, course_files: Path, tmp_path: Path) -> None:
    data_dir = str(course_files) if task.name in ("sst", "cfimdb", "paraphrase") else None
    pairs = str(generated.folder(tmp_path)) if task.name == "rewriting" else None
    run = RunConfig(task=task.name, data_dir=data_dir, pairs=pairs, **own.flags(task.name, tmp_path))
    data = load_data(task, run, toys.tokenizer(), 2000)
    assert len(data.splits["train"]) > 0
    assert len(data.splits["dev"]) > 0
    assert data.corpus.digest[:12] in data.corpus.describe()


@torch.no_grad()
def test_losses_do_not_depend_on_padding_or_batching(task: Task, model: GPT2) -> None:
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


def test_every_metric_follows_from_its_counts_and_lies_in_its_interval(task: Task, model: GPT2) -> None:
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


def test_its_metrics_can_be_pickled_and_include_the_objective(task: Task) -> None:
    assert pickle.loads(pickle.dumps(dict(task.metrics))) == task.metrics
    assert objective_of(task, toys.RUN) is task.metrics[task.objective]
    for name, metric in task.metrics.items():
        assert objective_of(task, toys.RUN.but(objective=name)) is metric
        better, worse = (2.0, 1.0) if metric.direction is Direction.MAX else (1.0, 2.0)
        assert metric.direction.better(better, worse)
        not_better = ((worse, better), (1.0, 1.0), (math.nan, 1.0), (1.0, math.nan))
        assert not any(metric.direction.better(a, b) for a, b in not_better)
        assert metric.margin > 0


def test_an_unknown_objective_is_an_error(task: Task) -> None:
    wrong = toys.RUN.but(objective=f"{task.objective}s")
    with pytest.raises(ConfigError, match=f"`objective` is '{task.objective}s', but must be .* `{task.objective}`"):
        objective_of(task, wrong)


def test_the_counts_survive_a_file(task: Task, model: GPT2) -> None:
    statistics = task.evaluate(model, examples(task), toys.RUN, "dev").statistics
    again = from_json(json.loads(json.dumps(to_json(statistics))))
    assert again.keys() == statistics.keys()
    for name, counts in statistics.items():
        np.testing.assert_array_equal(again[name], counts)


def test_baselines_have_scores_of_its_metrics(task: Task) -> None:
    baselines = task.baselines(examples(task), toys.RUN, "dev")
    assert any(task.objective in baseline.scores for baseline in baselines.values())
    for baseline in baselines.values():
        assert baseline.scores.keys() <= task.metrics.keys()
        assert all(math.isfinite(number) for score in baseline.scores.values() for number in score)


def test_the_test_split_has_a_test_loss(task: Task, model: GPT2) -> None:
    data = examples(task)
    data = replace(data, splits={**data.splits, "test": data.splits["dev"]})
    metrics = task.evaluate(model, data, toys.RUN, "test").metrics
    assert not any(name.startswith("dev_") for name in metrics)
    dev_loss = task.evaluate(model, data, toys.RUN, "dev").metrics["dev_loss"]
    assert metrics["test_loss_low"] <= metrics["test_loss"] == dev_loss


def test_one_example_has_no_interval(task: Task, model: GPT2) -> None:
    metrics = task.evaluate(model, examples(task, dev=1), toys.RUN, "dev").metrics
    assert not any(name.endswith(("_low", "_high")) for name in metrics)


def test_a_diverged_model_is_an_error(task: Task, model: GPT2) -> None:
    data = examples(task)
    model.ln_f.weight.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="The cross-entropy is nan"):
        task.evaluate(model, data, toys.RUN, "dev")


def test_a_very_large_loss_is_finite(task: Task, model: GPT2) -> None:
    model.ln_f.weight.data *= 1e6
    metrics = task.evaluate(model, examples(task), toys.RUN, "dev").metrics
    assert metrics["dev_loss"] > 1000
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("dev_perplexity" in metrics) == (task.name in LANGUAGE)


def test_cross_entropy_does_not_depend_on_batching_or_padding() -> None:
    model, data = toys.model(), toys.data(dev=7)
    alone = loss_statistics(TASKS["sonnet"], model, data, toys.RUN, "dev", batch_size=1)
    together = loss_statistics(TASKS["sonnet"], model, data, toys.RUN, "dev", batch_size=7)
    assert together == pytest.approx(alone, rel=1e-6)


def test_sonnets_end_with_eos_and_come_from_the_rows() -> None:
    data = toys.data()
    rows = data.corpus.splits["train"]
    examples = TASKS["sonnet"].encode(rows, data.tokenizer)
    assert all(example.input_ids[-1] == data.tokenizer.eos for example in examples)
    assert [data.tokenizer.decode(example.input_ids) for example in examples] == [row.text for row in rows]
    assert [example.id for example in examples] == [row.id for row in rows]


def test_a_perfect_continuation_scores_100_and_an_empty_one_0(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = toys.model(), toys.data()
    gold = ["\n".join(text.split("\n")[3:]) for text in data.splits["dev"].texts]

    def write(texts: list[str]) -> None:
        def fixed(m: GPT2, t: Tokenizer, given: Sequence[str], c: RunConfig) -> list[list[str]]:
            return [texts] * c.decode_seeds

        monkeypatch.setattr(sonnet, "continuations", fixed)

    write(gold)
    perfect = TASKS["sonnet"].evaluate(model, data, toys.RUN, "dev").metrics
    scores = [perfect[name] for name in ("chrf_continuation", "chrf_whole", "chrf_continuation_low")]
    assert scores == pytest.approx([100, 100, 100])
    assert perfect["length_ratio"] == pytest.approx(1)
    write([""] * len(gold))
    empty = TASKS["sonnet"].evaluate(model, data, toys.RUN, "dev").metrics
    assert (empty["chrf_continuation"], empty["length_ratio"]) == (0, 0)
    assert empty["chrf_whole"] > 0


def test_statistics_hold_one_row_for_each_output_and_example() -> None:
    statistics = TASKS["sonnet"].evaluate(toys.model(), toys.data(), toys.RUN, "dev").statistics
    outputs = toys.RUN.decode_seeds
    shapes = {name: counts.shape for name, counts in statistics.items()}
    assert shapes == {
        "loss": (1, 4, 3),
        "chrf": (outputs, 4, 18),
        "chrf_whole": (outputs, 4, 18),
        **dict.fromkeys(("form_lines", "form_rhyme", "form_metre", "copied_lines"), (outputs, 4, 2)),
    }


def test_the_loss_of_a_sonnet_excludes_the_given_lines() -> None:
    model, data = toys.model(), toys.data()
    tokens, words = data.splits["dev"], data.tokenizer
    found = loss_statistics(TASKS["sonnet"], model, data, toys.RUN, "dev")
    for number, text in enumerate(tokens.texts):
        rest = "\n".join(text.split("\n")[3:])
        new = [*words.encode([rest])[0], words.eos]
        ids = torch.tensor(tokens[number]).long()
        assert ids[-len(new) :].tolist() == new
        with torch.no_grad():
            logits = model.logits(model(ids[None]))[0, -len(new) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[-len(new) :], reduction="sum")
        assert found[number].tolist() == pytest.approx([float(expected), len(new), len(rest)], rel=1e-5)


def test_lines_beyond_those_asked_for_do_not_change_chrf(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, config = toys.model(), toys.data(), toys.RUN.but(decode_seeds=1)

    def score(tail: str) -> dict[str, float]:
        texts = [f"{toys.lines(11, number)}{tail}" for number in range(4)]
        monkeypatch.setattr(sonnet, "continuations", lambda m, t, given, c: [texts])
        return TASKS["sonnet"].evaluate(model, data, config, "dev").metrics

    short, long = score(""), score(f"\n\n{toys.lines(9, 77)}")
    assert short["chrf_continuation"] == long["chrf_continuation"]
    assert short["chrf_whole"] != long["chrf_whole"]
    assert (short["form_lines"], long["form_lines"]) == (1, 0)


def test_a_uniform_model_has_the_bits_of_its_vocabulary() -> None:
    model, data = toys.model(), toys.data()
    model.wte.weight.data.zero_()
    metrics = TASKS["poems"].evaluate(model, data, toys.RUN, "dev").metrics
    dev, words = data.splits["dev"], data.tokenizer
    characters = sum(len(text) - len(words.decode(dev[number][:1])) for number, text in enumerate(dev.texts))
    assert metrics["dev_loss"] == pytest.approx(math.log(320))
    assert metrics["dev_perplexity"] == pytest.approx(320)
    bits = (dev.lengths - 1).sum() * math.log2(320) / characters
    assert metrics["bits_per_character"] == pytest.approx(bits)
